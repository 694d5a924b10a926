"""`python -m lib.gate init|serve|stop|check`: see docs/gate.md.

Prints JSON on stdout; errors are one sentence on stderr. Exit code 0: done; 1: refused
or not possible; 2: usage.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lib.errors import SceneBridgeError
from lib.gate.home import Home
from lib.gate.images import Images
from lib.gate.records import Folders
from lib.gate.serve import serve, serve_detached, stop


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns its exit code."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    home = Home(arguments.home.absolute())
    try:
        answer = _COMMANDS[arguments.command](home, arguments)
    except SceneBridgeError as exc:
        print(exc.message, file=sys.stderr)
        return 1
    except OSError as exc:
        print(f"The gate cannot work: {exc}.", file=sys.stderr)
        return 1
    if answer is not None:
        print(json.dumps(answer))
    return 0


def _init(home: Home, arguments: argparse.Namespace) -> Mapping[str, Any]:
    first = {"python": sys.executable, "code": str(Path(__file__).resolve().parents[2])}
    host_key = home.init(arguments.cluster, arguments.portal_key, arguments.policy, first)
    return {"home": str(home.path), "cluster": arguments.cluster, "host_key": host_key}


def _serve(home: Home, arguments: argparse.Namespace) -> Mapping[str, Any] | None:
    if arguments.detach:
        return asdict(serve_detached(home))
    asyncio.run(serve(home))
    return None


def _stop(home: Home, arguments: argparse.Namespace) -> Mapping[str, Any]:
    return {"was_running": stop(home, jobs=arguments.jobs)}


def _check(home: Home, _: argparse.Namespace) -> Mapping[str, Any]:
    policy = home.policy()
    problem = policy.runtime().problem()
    missing = [str(m.notebook) for m in policy.modules if m.notebook and not m.notebook.is_file()]
    problems = [problem] if problem else []
    problems += [f"The notebook {name} is missing." for name in missing]
    problems += Images(Folders(home.path).images, policy).check()
    return {"cluster": policy.cluster, "modules": len(policy.modules), "problems": problems}


_COMMANDS = {"init": _init, "serve": _serve, "stop": _stop, "check": _check}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lib.gate", description="The gate.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("init", "make the gate's folder"),
        ("serve", "listen until SIGTERM"),
        ("stop", "stop the gate"),
        ("check", "read the policy and say what is wrong"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--home", type=Path, required=True, help="the gate's folder")
    commands.choices["init"].add_argument("--cluster", required=True)
    commands.choices["init"].add_argument("--portal-key", type=Path, required=True)
    commands.choices["init"].add_argument("--policy", type=Path)
    commands.choices["serve"].add_argument("--detach", action="store_true")
    commands.choices["stop"].add_argument("--jobs", action="store_true", help="end all jobs too")
    return parser


if __name__ == "__main__":
    sys.exit(main())

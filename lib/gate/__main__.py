"""`python -m lib.gate init|serve|stop|check|status`: see docs/gate.md.

Prints JSON on stdout; errors are one sentence on stderr. Exit code 0: done; 1: refused
or not possible; 2: usage; 3: jobs that were told to end have not (stderr lists them).
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

from lib.errors import SceneBridgeError
from lib.gate.serve import JobsRunOn, serve, serve_detached, stop
from lib.gate.state_dir import StateDir
from lib.gate.status import check, status
from lib.jobs.control_files import ROOT

_JOBS_RUN_ON = 3


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns its exit code."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    state_dir = StateDir(arguments.home.absolute())
    try:
        answer = _COMMANDS[arguments.command](state_dir, arguments)
    except JobsRunOn as exc:
        print(exc.message, file=sys.stderr)
        return _JOBS_RUN_ON
    except SceneBridgeError as exc:
        print(exc.message, file=sys.stderr)
        return 1
    except OSError as exc:
        print(f"The gate cannot work: {exc}.", file=sys.stderr)
        return 1
    if answer is not None:
        print(json.dumps(answer))
    return 0


def _init(state_dir: StateDir, arguments: argparse.Namespace) -> Mapping[str, object]:
    first = {"python": sys.executable, "code": str(ROOT)}
    key, policy, fix_node = arguments.portal_key, arguments.policy, arguments.fix_node
    host_key = state_dir.init(arguments.cluster, key, policy, first, fix_node=fix_node)
    return {"home": str(state_dir.path), "cluster": arguments.cluster, "host_key": host_key}


def _serve(state_dir: StateDir, arguments: argparse.Namespace) -> Mapping[str, object] | None:
    if arguments.detach:
        return asdict(serve_detached(state_dir))
    asyncio.run(serve(state_dir))
    return None


def _stop(state_dir: StateDir, arguments: argparse.Namespace) -> Mapping[str, object]:
    return {"was_running": stop(state_dir, jobs=arguments.jobs, text=arguments.because)}


def _check(state_dir: StateDir, arguments: argparse.Namespace) -> Mapping[str, object]:
    return check(state_dir, arguments.policy)


def _status(state_dir: StateDir, _: argparse.Namespace) -> Mapping[str, object]:
    return status(state_dir)


_COMMANDS = {"init": _init, "serve": _serve, "stop": _stop, "check": _check, "status": _status}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lib.gate", description="The gate.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("init", "make the gate's folder"),
        ("serve", "listen until SIGTERM"),
        ("stop", "stop the gate"),
        ("check", "read the policy and say what is wrong"),
        ("status", "say what runs"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--home", type=Path, required=True, help="the gate's folder")
    commands.choices["init"].add_argument("--cluster", required=True)
    commands.choices["init"].add_argument(
        "--portal-key", type=Path, help="keeps the old one if not given"
    )
    commands.choices["init"].add_argument("--policy", type=Path)
    commands.choices["init"].add_argument(
        "--fix-node", action="store_true", help="no other node serves it from now on"
    )
    commands.choices["check"].add_argument("--policy", type=Path, help="another one than its own")
    commands.choices["serve"].add_argument("--detach", action="store_true")
    commands.choices["stop"].add_argument("--jobs", action="store_true", help="end all jobs too")
    commands.choices["stop"].add_argument(
        "--because", default="", metavar="TEXT", help="what the jobs' owners read of their end"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

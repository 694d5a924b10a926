"""The commands of `admin.py`.

Each command is a function that takes the parsed arguments and returns an `Answer`, which
is printed for people or, with `--json`, for programs. What is wrong is one sentence on
stderr. Exit codes: 0 success, 1 not found or refused, 2 usage.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lib.cli.output import Output, plain, plain_json
from lib.config import settings
from lib.errors import InvalidInput, InvalidProduct, SceneBridgeError

if TYPE_CHECKING:
    from collections.abc import Sequence

USAGE, FAILED = 2, 1

#: Which module of this package has which commands. Only that of the wanted command is loaded:
#: it answers sooner, and where somebody's agent can be asked little code should run.
_PARTS = {
    "scenes": "scenes",
    "samples": "scenes",
    "modules": "detect",
    "detect": "detect",
    "sessions": "portal",
    "link": "portal",
    "users": "people",
    "token": "people",
    "tokens": "people",
    "audit": "audit",
    "announce": "announce",
    "backup": "backup",
    "doctor": "doctor",
    "tunnel": "tunnel",
    "gate": "gate",
}
_ALL = tuple(dict.fromkeys(_PARTS.values()))


def run(arguments: Sequence[str]) -> int:
    """Run one command; the exit code."""
    options = _parser(_needed(arguments)).parse_args(arguments)
    try:
        answer = options.command(options)
    except SceneBridgeError as exc:
        print(plain(exc.message), file=sys.stderr)
        return exit_code(exc)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    _print(answer, for_programs=options.json)
    return FAILED if answer.failed else 0


def _print(answer: Output, *, for_programs: bool) -> None:
    """An answer without value and text has been printed already."""
    if for_programs and answer.value is not None:
        print(plain_json(json.dumps(answer.value, indent=2, ensure_ascii=False)))
    elif not for_programs and (answer.text or answer.value is not None):
        print(plain(answer.text))


def exit_code(error: SceneBridgeError) -> int:
    """A wrong request is usage; a wrong product, like all the rest, is not."""
    wrong = isinstance(error, InvalidInput) and not isinstance(error, InvalidProduct)
    return USAGE if wrong else FAILED


def _needed(arguments: Sequence[str]) -> Sequence[str]:
    """The parts to load for these arguments; all where no command comes first."""
    wanted = _PARTS.get(arguments[0]) if arguments else None
    return [wanted] if wanted else _ALL


def _parser(parts: Sequence[str] = _ALL) -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--data",
        type=Path,
        default=settings.DEFAULT_DATA,
        metavar="DIR",
        help="the portal's data folder (default: var/ in the project)",
    )
    common.add_argument("--json", action="store_true", help="print for programs")
    parser = argparse.ArgumentParser(prog="admin.py", description="Looks after a portal.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for part in parts:
        importlib.import_module(f"lib.cli.{part}").add_to(commands, common)
    return parser

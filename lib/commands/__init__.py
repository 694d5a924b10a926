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

from lib import settings
from lib.commands.answer import Answer, plain, plain_json
from lib.errors import InvalidInput, InvalidProduct, SceneBridgeError

if TYPE_CHECKING:
    from collections.abc import Sequence

USAGE, FAILED = 2, 1

_PARTS = (
    "scenes", "detect", "portal", "people", "audit", "announce", "backup", "doctor", "tunnel",
    "gate",
)  # fmt: skip
#: Parts that are one command of their name, and are loaded without all others: these run
#: where somebody's agent can be asked, so little code should, and quickly.
_ALONE = ("tunnel", "gate")


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


def _print(answer: Answer, *, for_programs: bool) -> None:
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
    """The parts to load for these arguments."""
    return arguments[:1] if arguments and arguments[0] in _ALONE else _PARTS


def _parser(parts: Sequence[str] = _PARTS) -> argparse.ArgumentParser:
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
        importlib.import_module(f"lib.commands.{part}").add_to(commands, common)
    return parser

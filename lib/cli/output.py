"""What a command answers, and how it is laid out for people.

Names and titles come from outside: whatever a terminal would take for a command, or would
not show, is written as its code (`\\x1b`), by `plain` for people and `plain_json` for programs.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from lib.model import JsonValue


@dataclass(frozen=True, slots=True)
class Output:
    """`value` for programs (JSON), `text` for people; `failed` sets the exit code to 1."""

    value: JsonValue
    text: str
    failed: bool = False


class Commands(Protocol):
    """The part of argparse's sub-parsers that a command needs to add itself."""

    def add_parser(
        self,
        name: str,
        *,
        help: str = ...,
        description: str = ...,
        parents: Sequence[argparse.ArgumentParser] = ...,
    ) -> argparse.ArgumentParser: ...


def command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], Output],
    common: argparse.ArgumentParser,
    about: str,
) -> argparse.ArgumentParser:
    """Add the command `name`; the caller adds its own arguments to what is returned."""
    parser = commands.add_parser(name, parents=[common], help=about, description=about)
    parser.set_defaults(command=run)
    return parser


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as their longest cell; a cell is one line whatever it holds."""
    cells = [[plain(str(cell)).replace("\n", "\\n") for cell in row] for row in (head, *rows)]
    widths = [max(_width(row[i]) for row in cells) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in cells
    )


def moment(time: datetime | None) -> str:
    """For a column whose head says UTC."""
    return f"{time:%Y-%m-%d %H:%M}" if time else "-"


def plain(text: str) -> str:
    """The text with nothing in it that a terminal obeys but the ends of its lines."""
    return "".join(c if c.isprintable() or c == "\n" else _code(c) for c in text)


def plain_json(text: str) -> str:
    """The same for JSON, which means the same afterwards."""
    return "".join(c if c.isprintable() or c == "\n" else _json_code(c) for c in text)


def _code(character: str) -> str:
    if unicodedata.category(character) == "Zs":  # such as the wide space of Japanese names
        return " "
    return character.encode("unicode_escape").decode("ascii")


def _json_code(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _width(text: str) -> int:
    """Columns of a terminal: East Asian characters take two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)

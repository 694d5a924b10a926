"""What a command answers, and how tables are laid out for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, slots=True)
class Answer:
    """`value` for programs (JSON), `text` for people; `failed` sets the exit code to 1."""

    value: Any
    text: str
    failed: bool = False


class Commands(Protocol):
    """The part of argparse's sub-parsers that a command needs to add itself."""

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser: ...


def command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], Answer],
    common: argparse.ArgumentParser,
    about: str,
) -> argparse.ArgumentParser:
    """Add the command `name`; the caller adds its own arguments to what is returned."""
    parser = commands.add_parser(name, parents=[common], help=about, description=about)
    parser.set_defaults(command=run)
    return parser


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as their longest cell."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )

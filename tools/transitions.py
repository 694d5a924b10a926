"""The life cycles of sessions, runs and scenes, drawn into docs/architecture.md.

    python -m tools.transitions [--write]

Prints the drawing of the tables in `lib/model/work.py`; with --write it is put between the
markers of the document, which `tests/unit/test_transitions.py` compares with the tables.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lib.model import (
    RUN_RETURNS,
    RUN_TRANSITIONS,
    SCENE_TRANSITIONS,
    SESSION_RETURNS,
    SESSION_TRANSITIONS,
    StrEnum,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_S = TypeVar("_S", bound=StrEnum)

DOCUMENT = Path(__file__).parent.parent / "docs" / "architecture.md"
BEGIN, END = "<!-- transitions: begin -->\n", "<!-- transitions: end -->"


_BACK = "a session whose job is begun anew, or was lost and turns up,"


def drawing() -> str:
    """The tables in Markdown."""
    return "\n".join(
        (
            _table("a session", SESSION_TRANSITIONS),
            _table(_BACK, SESSION_RETURNS),
            _table("a run", RUN_TRANSITIONS),
            _table("a run whose job is begun anew,", RUN_RETURNS),
            _table("a scene of a run", SCENE_TRANSITIONS),
        )
    )


def drawn(document: str) -> str:
    """What stands between the markers of the document."""
    return document.partition(BEGIN)[2].partition(END)[0]


def main(arguments: list[str]) -> int:
    if arguments == ["--write"]:
        text = DOCUMENT.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        after = rest.partition(END)[2]
        DOCUMENT.write_text(before + BEGIN + drawing() + END + after, encoding="utf-8")
        return 0
    if arguments:
        print("usage: python -m tools.transitions [--write]", file=sys.stderr)
        return 2
    print(drawing(), end="")
    return 0


def _table(what: str, transitions: Mapping[_S, frozenset[_S]]) -> str:
    lines = [f"| {what} that is | may become |", "|---|---|"]
    for state, following in transitions.items():
        named = [s.value for s in type(state) if s in following]
        lines.append(f"| {state.value} | {', '.join(named) or '(it is over)'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

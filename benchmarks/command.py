"""What all benchmarks share: their command line, their figures, their table and their JSON.

Each has `--smoke`: the same program with the smallest sizes, once, in seconds. It prints the
same table and passes no verdict; figures of it say nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

PROJECT = Path(__file__).resolve().parents[1]
#: Exit code where this computer lacks what the benchmark needs (EX_UNAVAILABLE).
LACKING = 69
Figures = dict[str, float]
Row = Sequence[str | float | None]


class Command:
    """The command line of a benchmark.

    Args:
        doc: of the program; its first line describes it, the rest is shown by `--help`.
    """

    def __init__(self, doc: str | None) -> None:
        self.parser = argparse.ArgumentParser(
            description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self.parser.add_argument(
            "--smoke", action="store_true", help="the smallest sizes once, without a verdict"
        )
        self._sizes: dict[str, tuple[object, object]] = {}

    def size(self, option: str, usual: float, smoke: float) -> None:
        """An option for a number, and what it is by itself."""
        self.parser.add_argument(option, type=type(usual), help=f"{usual:,} where it is not given")
        self._sizes[option.removeprefix("--").replace("-", "_")] = (usual, smoke)

    def parse(self) -> argparse.Namespace:
        """What was given, and the sizes that were not."""
        found = self.parser.parse_args()
        for name, (usual, smoke) in self._sizes.items():
            if getattr(found, name) is None:
                setattr(found, name, smoke if found.smoke else usual)
        return found


@dataclass(frozen=True)
class Bound:
    """What a figure has to keep."""

    what: str
    value: float
    most: float | None = None
    least: float | None = None

    @property
    def kept(self) -> bool:
        return (self.most is None or self.value <= self.most) and (
            self.least is None or self.value >= self.least
        )

    def __str__(self) -> str:
        bound = f"at least {self.least:g}" if self.most is None else f"at most {self.most:g}"
        return f"{self.what}: {self.value:,.2f}, {bound}: {'kept' if self.kept else 'MISSED'}"


def table(head: Sequence[str], rows: Iterable[Row], digits: int) -> str:
    """A table in Markdown, as docs/benchmarks.md has it.

    Args:
        head: of the columns; the first is that of the rows' names.
        digits: of numbers that are not whole.
    """
    cells = [list(head), *([_cell(value, digits) for value in row] for row in rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(head))]
    lines = [
        "| " + " | ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(both)) + " |"
        for both in (list(zip(row, widths, strict=True)) for row in cells)
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def _cell(value: str | float | None, digits: int) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def medians(rounds: Sequence[Mapping[str, float]]) -> Figures:
    """Of every figure, over the rounds."""
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def percentiles(taken: Sequence[float], *wanted: int) -> list[float]:
    """Of at least two values."""
    cuts = statistics.quantiles(taken, n=100)
    return [cuts[p - 1] for p in wanted]


def finish(
    name: str, printed: str, record: object, bounds: Sequence[Bound] = (), *, smoke: bool
) -> int:
    """Print the table and the verdict, write `benchmarks/results/NAME.json`; the exit code.

    Args:
        record: what the file gets. A smoke run writes none.
    """
    text = json.dumps(record, indent=1) + "\n"
    print(f"\n{printed}\n")
    if smoke:
        print("A smoke run: no verdict.")
        return 0
    for bound in bounds:
        print(bound)
    file = PROJECT / "benchmarks" / "results" / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, "utf-8")
    return 0 if all(bound.kept for bound in bounds) else 1


def lacking(what: str) -> NoReturn:
    """End with one line that says what this computer lacks."""
    print(f"This benchmark cannot run: {what}.", file=sys.stderr)
    raise SystemExit(LACKING)

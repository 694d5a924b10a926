"""Bounds of what comes in from outside, declared at the field that it becomes.

A field that is decoded says its bound in its type, `Annotated[float, Within(0, 1)]`, mostly
by one of the names below. `lib.protocol.codec` enforces it, and decodes no field without one.
What is in no dataclass (STAC items, claims) is checked by `outside`. The bounds are far
beyond what is sensible and well within what every later reader can bear.

Standard library only, Python 3.10 or newer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from lib.model.json_value import JsonValue

#: Whole numbers that every reader of JSON tells apart.
MAX_WHOLE = 2**53
#: 2000-01-01 and 2100-01-01 UTC, Unix seconds.
EARLIEST, LATEST = 946_684_800, 4_102_444_800


@dataclass(frozen=True, slots=True)
class Within:
    """A finite number from `low` to `high`."""

    low: float
    high: float
    meaning: str = ""

    def __str__(self) -> str:
        return self.meaning or f"a number from {self.low:.15g} to {self.high:.15g}"

    def holds(self, value: float) -> bool:
        """False for NaN too; safe for integers of any length."""
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class UpTo:
    """A text of at most so many characters that UTF-8 can write, or a list or object of at
    most so many entries."""

    most: int


@dataclass(frozen=True, slots=True)
class Json:
    """JSON of any kind, with what is in it bounded: how deep, how many values altogether,
    how long a text; its numbers are finite, and whole ones at most `MAX_WHOLE`."""

    depth: int = 12
    values: int = 50_000
    text: int = 20_000


@dataclass(frozen=True, slots=True)
class CheckedByReader:
    """JSON that its reader checks, entry by entry, by a schema of its own."""

    reader: str


@dataclass(frozen=True, slots=True)
class RowByRow:
    """Of a list: an entry that is out of bounds is left out, and the field `left_out` of the
    same message says so, instead of the whole message being refused."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An entry that was left out: its `id` or `name` ("" where that cannot be told), and why."""

    id: str
    problem: str


Moment = Annotated[float, Within(EARLIEST, LATEST, "a time from 2000 to 2100 in Unix seconds")]
#: As `Moment`, or 0 for never.
MomentOrNever = Annotated[float, Within(0, LATEST, "0 or a time until 2100 in Unix seconds")]
#: Ten years: longer than anything is kept or runs.
Seconds = Annotated[int, Within(0, 10 * 366 * 86400)]
Bytes = Annotated[int, Within(0, MAX_WHOLE)]
Count = Annotated[int, Within(0, 10**9)]
Port = Annotated[int, Within(0, 65535)]
ExitCode = Annotated[int, Within(-(2**31), 2**32)]
#: Ids and names of things.
Name = Annotated[str, UpTo(300)]
#: A sentence or a few, or a path or address.
Sentence = Annotated[str, UpTo(10_000)]
#: A key, certificate or secret.
Key = Annotated[str, UpTo(20_000)]


def outside(value: JsonValue, bounds: Json, where: str) -> str:
    """Why this JSON is out of bounds, in a sentence that names the place; "" where it is not."""
    left = bounds.values
    waiting: list[tuple[JsonValue, str, int]] = [(value, where, 0)]
    while waiting:
        found, place, depth = waiting.pop()
        left -= 1
        if isinstance(found, str):
            problem = wrong_text(found, bounds.text)
        elif isinstance(found, bool) or found is None:
            problem = ""
        elif isinstance(found, int):
            problem = "" if abs(found) <= MAX_WHOLE else "is a very long number"
        elif isinstance(found, float):
            problem = "" if abs(found) < float("inf") else "is no finite number"
        elif depth >= bounds.depth:
            problem = f"is more than {bounds.depth} levels deep"
        elif len(found) > left:
            problem = f"has more than {bounds.values:,} values"
        elif isinstance(found, Mapping):
            problem = next((w for k in found if (w := wrong_text(str(k), 500))), "")
            problem = problem and f"has a name that {problem}"
            waiting += [(v, f"{place}.{k:.40}", depth + 1) for k, v in found.items()]
        else:
            problem = ""
            waiting += [(v, f"{place}[{n}]", depth + 1) for n, v in enumerate(found)]
        if problem or left < 0:
            return f"{plain(place)} {problem or f'has more than {bounds.values:,} values'}"
    return ""


def wrong_text(text: str, most: int) -> str:
    """Why a text is out of bounds, as the end of a sentence; "" where it is not."""
    if len(text) > most:
        return f"is longer than {most:,} characters"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "has characters that cannot be written"
    return ""


def plain(text: str) -> str:
    """A name from outside within a sentence of ours."""
    return "".join(c if c.isprintable() else " " for c in text[:200])

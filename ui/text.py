"""Words for times, sizes and amounts, and the only way text becomes HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable
from datetime import datetime, timezone


def esc(value: object) -> str:
    """Text of any origin, safe inside HTML and inside a quoted attribute."""
    return html.escape(str(value), quote=True)


def md(value: object) -> str:
    """Text of any origin, safe where Streamlit expects Markdown (labels, captions)."""
    marks = "\\`*_{}[]()<>#+-.!|~:$&"
    return "".join(f"\\{c}" if c in marks else " " if c in "\r\n\t" else c for c in str(value))


def tag(text: str, kind: str = "") -> str:
    """A small label as HTML. Kinds: "", "synthetic", "warn", "bad", "good"."""
    return f'<span class="sb-tag {esc(kind)}">{esc(text)}</span>'


def tags(items: Iterable[tuple[str, str]]) -> str:
    """Several labels: (text, kind)."""
    return "".join(tag(text, kind) for text, kind in items)


def now() -> datetime:
    """The current time, UTC."""
    return datetime.now(timezone.utc)


def to_minute(time: datetime) -> str:
    """To the minute: 2019-08-25 13:52 UTC."""
    return time.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def to_second(time: datetime) -> str:
    """To the second: 2019-08-25 13:52:07 UTC."""
    return time.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def duration(seconds: float) -> str:
    """The two largest units: 45 s, 3 min 05 s, 2 h 10 min, 3 d 4 h."""
    total = max(0, int(seconds))
    minutes, s = divmod(total, 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days} d {h} h"
    if hours:
        return f"{hours} h {m:02d} min"
    if minutes:
        return f"{minutes} min {s:02d} s"
    return f"{s} s"


def walltime(seconds: int) -> str:
    """A walltime to choose: 30 minutes, 1 hour, 2.5 hours, 3 days."""
    if seconds % 86_400 == 0 and seconds >= 2 * 86_400:
        return f"{seconds // 86_400} days"
    if seconds >= 3600:
        hours = seconds / 3600
        return "1 hour" if hours == 1 else f"{hours:g} hours"
    minutes = max(1, seconds // 60)
    return "1 minute" if minutes == 1 else f"{minutes} minutes"


def count(n: int, one: str, many: str = "") -> str:
    """1 scene, 2 scenes, 1,234 scenes."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def area(m2: float) -> str:
    """Square metres below a hectare, hectares below a square kilometre."""
    if m2 < 10_000:
        return f"{m2:,.0f} m²"
    if m2 < 1_000_000:
        return f"{m2 / 10_000:,.1f} ha"
    return f"{m2 / 1_000_000:,.2f} km²"


def cloud(cover: float | None) -> str:
    """Cloud cover in percent, or that it is not known."""
    return "cloud cover unknown" if cover is None else f"{cover:.0f} % cloud"


def join_names(items: Iterable[str], *, most: int = 4) -> str:
    """A, B, C and 3 more."""
    names = list(items)
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)

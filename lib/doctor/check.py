"""What one look at something found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Args:
        detail: what was found; where that is bad, "what is wrong: what to do".
    """

    name: str
    ok: bool
    detail: str

"""Changes of sessions, runs and scenes: what is set, and what stays as it is.

Times are Unix seconds. A field that is UNSET leaves its column alone; None empties it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lib.model import EndReason, JsonValue, RunState, SceneState, SessionState


class _Unset(Enum):
    UNSET = "unset"


UNSET: Final = _Unset.UNSET
Unset = Literal[_Unset.UNSET]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionChange:
    state: SessionState | Unset = UNSET
    reason: str | Unset = UNSET
    end_reason: EndReason | Unset = UNSET
    job: str | Unset = UNSET
    stopping: bool | Unset = UNSET
    submitted_at: float | Unset = UNSET
    started_at: float | Unset = UNSET
    endpoint_at: float | Unset = UNSET
    ready_at: float | Unset = UNSET
    starts_at: float | Unset | None = UNSET
    ends_at: float | Unset | None = UNSET
    ended_at: float | Unset = UNSET
    files_until: float | Unset | None = UNSET


@dataclass(frozen=True, slots=True, kw_only=True)
class RunChange:
    state: RunState | Unset = UNSET
    reason: str | Unset = UNSET
    job: str | Unset = UNSET
    events_have: int | Unset = UNSET
    stopping: bool | Unset = UNSET
    submitted_at: float | Unset = UNSET
    started_at: float | Unset = UNSET
    ended_at: float | Unset = UNSET


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneChange:
    """Of one scene of a run; `fetched`: its result files are here."""

    state: SceneState | Unset = UNSET
    objects: int | Unset = UNSET
    fraction: float | Unset = UNSET
    message: str | Unset = UNSET
    searched: Mapping[str, JsonValue] | Unset = UNSET
    fetched: bool | Unset = UNSET


def columns(change: SessionChange | RunChange | SceneChange) -> dict[str, object]:
    """What is set, by column, as the tables hold it."""
    found: dict[str, object] = {}
    for field in fields(change):
        value: object = getattr(change, field.name)
        if value is not UNSET:
            found[field.name] = value.value if isinstance(value, Enum) else value
    return found

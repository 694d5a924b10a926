"""Ids and the base of all enums."""

from __future__ import annotations

from enum import Enum
from typing import NewType

UserId = NewType("UserId", str)
SceneId = NewType("SceneId", str)
SessionId = NewType("SessionId", str)
RunId = NewType("RunId", str)
ClusterId = NewType("ClusterId", str)
ModuleId = NewType("ModuleId", str)

BBox = tuple[float, float, float, float]


class StrEnum(str, Enum):
    """`enum.StrEnum` for Python 3.10: members format as their values."""

    __str__ = str.__str__

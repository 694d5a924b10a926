"""Progress of the sample scenes that a first start makes in the background."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SampleScenes:
    """What is done now and what went wrong, a sentence each; "" for nothing."""

    step: str = ""
    problem: str = ""

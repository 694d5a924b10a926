"""The grid of thumbnails (chips): best first, one press marks an object on the map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict
from urllib.parse import quote

import streamlit as st

from lib.model import Detection, Module
from ui import components
from ui.text import area, to_second

_component = components.load("chip_grid")


def mark_key(scene: str, n: int) -> str:
    """The name of one detection of a run, also in the address."""
    return f"{scene}/{n}"


def parse_mark(text: str) -> tuple[str, int] | None:
    """The scene and number of a name, or None for anything else."""
    scene, _, n = text.rpartition("/")
    return (scene, int(n)) if scene and n.isascii() and n.isdigit() else None


def show(
    detections: Sequence[Detection],
    module: Module | None,
    *,
    synthetic: frozenset[str],
    marked: str,
    key: str,
    on_mark: Callable[[str], None],
) -> None:
    """Draw the chips in the order of `detections`; `on_mark` gets the name of a pressed one."""

    def pressed() -> None:
        name = st.session_state[key].get("marked")
        if isinstance(name, str) and parse_mark(name):
            on_mark(name)

    chips = [_chip(d, module, str(d.scene) in synthetic) for d in detections]
    data = {"chips": chips, "marked": marked, "colours": module.colours if module else ""}
    _component(key=key, data=data, on_marked_change=pressed)


class _Chip(TypedDict):
    """What chip_grid.js draws of one detection; `share`, 0 to 1, colours the score."""

    key: str
    src: str
    label: str
    score: str
    share: float
    meaning: str
    time: str
    size: str
    scene: str
    flags: list[str]
    synthetic: bool


def _chip(d: Detection, module: Module | None, synthetic: bool) -> _Chip:
    scene = quote(d.scene, safe="")
    return {
        "key": mark_key(d.scene, d.n),
        "src": f"/api/runs/{d.run}/scenes/{scene}/chips/{d.n}.webp" if d.has_chip else "",
        "label": kind_title(module, d.kind),
        "score": f"{d.score:.2f}",
        "share": min(1.0, max(0.0, d.score)),
        "meaning": module.score_meaning if module else "",
        "time": to_second(d.time),
        "size": f"{d.pixels:,} px, {area(d.area_m2)}",
        "scene": d.scene,
        "flags": [f.replace("_", " ").replace("-", " ") for f in d.flags],
        "synthetic": synthetic,
    }


def kind_title(module: Module | None, kind: str) -> str:
    """What the module calls a kind."""
    return str(module.classes.get(kind, kind)) if module else kind

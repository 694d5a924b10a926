"""Small plain-JavaScript components, where Streamlit's and folium's own widgets end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import streamlit as st
from streamlit.components.v2 import manifest_scanner

_FOLDER = Path(__file__).resolve().parent


def load(name: str) -> Callable[..., object]:
    """The mounting command of the component whose files are NAME.html, .css and .js here."""
    html, css, js = (
        (_FOLDER / f"{name}{end}").read_text(encoding="utf-8") for end in (".html", ".css", ".js")
    )
    return st.components.v2.component(f"scenebridge_{name}", html=html, css=css, js=js)


def look_for_no_others() -> None:
    """Spare a start of the server a third of a second: Streamlit 1.67 would read the metadata of
    all installed packages for components that are declared there. Ours are declared by `load`."""
    manifest_scanner.scan_component_manifests = _no_manifests


def _no_manifests(
    max_workers: int | None = None,
) -> list[tuple[manifest_scanner.ComponentManifest, Path]]:
    del max_workers
    return []

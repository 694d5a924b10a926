"""Small plain-JavaScript components, where Streamlit's and folium's own widgets end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import streamlit as st

_FOLDER = Path(__file__).resolve().parent


def load(name: str) -> Callable[..., object]:
    """The mounting command of the component whose files are NAME.html, .css and .js here."""
    html, css, js = (
        (_FOLDER / f"{name}{end}").read_text(encoding="utf-8") for end in (".html", ".css", ".js")
    )
    return st.components.v2.component(f"scenebridge_{name}", html=html, css=css, js=js)

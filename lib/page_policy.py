"""The Content-Security-Policy of the portal's pages."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from lib.settings import Settings


def page_policy(settings: Settings) -> str:
    """What pages of the portal may load and run, as one header.

    Streamlit 1.67 needs what is not plain 'self': its style library writes style elements,
    and streamlit-folium's frame evaluates the map's script.
    """
    websocket = settings.origin.replace("http", "ws", 1)
    return "; ".join(
        (
            "default-src 'self'",
            "script-src 'self' 'unsafe-eval' 'unsafe-inline'",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            f"connect-src 'self' {websocket}",
            f"frame-src 'self' {_notebooks(settings)}",
            "worker-src 'self' blob:",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'self'",
        )
    )


def _notebooks(settings: Settings) -> str:
    """Where notebooks live, that the portal may show in a frame."""
    if settings.notebooks.value == "port":
        return "http://127.0.0.1:*"
    parts = urlsplit(settings.origin)
    return f"{parts.scheme}://*.{settings.notebook_domain or parts.netloc}"

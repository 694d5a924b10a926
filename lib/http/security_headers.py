"""Security headers: what every origin of ours says, and the Content-Security-Policy of pages."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lib.config.settings import Settings

#: The frame of the map: streamlit-folium evaluates the script that folium has made.
MAP_FRAME = "/component/streamlit_folium."
#: Of every answer, the portal's and the notebooks': windows and pages of other origins get
#: nothing of it, and nobody guesses what it is.
_EVERY_ANSWER = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def portal_headers(*, secure: bool) -> dict[str, str]:
    """Of every answer of the portal's own origin; `secure` where TLS is in front of it."""
    headers = {
        **_EVERY_ANSWER,
        "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    }
    if secure:
        headers["Strict-Transport-Security"] = "max-age=31536000; includeSubDomains"
    return headers


def notebook_headers(portal_origin: str) -> dict[str, str]:
    """Of every answer of a notebook's origin, which only the portal may frame."""
    return {"Content-Security-Policy": f"frame-ancestors 'self' {portal_origin}", **_EVERY_ANSWER}


def page_policies(settings: Settings) -> Mapping[str, str]:
    """What pages of the portal may load and run, as a header by the beginning of the path.

    No page runs a script that stands in its HTML but Streamlit's own. Streamlit 1.67 makes
    components' scripts into blobs, and its style library writes style elements; the map's
    frame (streamlit-folium 0.27) writes the script that folium made into its page.
    """
    own = " ".join(f"'sha256-{digest}'" for digest in inline_scripts())
    return {
        MAP_FRAME: _policy(settings, scripts="'self' 'unsafe-inline' 'unsafe-eval'"),
        "/": _policy(settings, scripts=f"'self' blob: {own}".strip()),
    }


def inline_scripts() -> tuple[str, ...]:
    """SHA-256, base64, of each script that stands in Streamlit's page."""
    found = find_spec("streamlit")
    if found is None or found.origin is None:
        return ()
    page = (Path(found.origin).parent / "static" / "index.html").read_text("utf-8")
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    return tuple(b64encode(sha256(s.encode()).digest()).decode() for s in scripts)


def _policy(settings: Settings, *, scripts: str) -> str:
    websocket = settings.origin.replace("http", "ws", 1)
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {scripts}",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "media-src 'self'",
            "font-src 'self' data:",
            f"connect-src 'self' {websocket}",
            f"frame-src 'self' {_notebooks(settings)}",
            "worker-src 'self' blob:",
            "manifest-src 'self'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'self'",
        )
    )


def _notebooks(settings: Settings) -> str:
    """Where notebooks live, that the portal may show in a frame."""
    if settings.notebooks.value == "port":
        return "http://127.0.0.1:*"
    return f"{urlsplit(settings.origin).scheme}://*.{settings.base_of_notebooks}"

"""CSRF protection: which requests a notebook's origin takes from whom.

Jupyter skips its own checks for requests that carry its token, and here all do, so they
are made before: a page of another origin, the portal's included, may navigate to a
notebook (the answer's `frame-ancestors` says who may frame it) and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.notebook_proxy import headers

if TYPE_CHECKING:
    from starlette.types import Scope

MAX_HEADER_BYTES = 64 * 1024
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_SITE = frozenset({"same-origin", "none"})
_WINDOWS = frozenset({"document", "iframe"})
#: What the checks go by. Two of one kind could be read differently by us and by the notebook.
_ONCE = (b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest")
_FOREIGN = "Another page asked for this; only the notebook's own page may."


def refusal(scope: Scope, own_origin: str) -> str | None:
    """Why the request is refused, in a plain sentence; None when it is not."""
    names = [name for name, _ in scope["headers"]]
    if any(names.count(name) > 1 for name in _ONCE):
        return _FOREIGN
    origin = headers.one(scope, b"origin")
    if scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS:
        if origin != own_origin:
            return "This request did not come from the notebook's own page."
        if scope["type"] == "websocket":
            # Browsers disagree on what Sec-Fetch-Site is between http: and ws:.
            return None
    elif origin not in (None, own_origin) and not is_navigation(scope):
        return _FOREIGN
    if headers.one(scope, b"sec-fetch-site") not in (None, *_OWN_SITE) and not (
        is_navigation(scope) and headers.one(scope, b"sec-fetch-dest") in _WINDOWS
    ):
        return _FOREIGN
    if _is_service_worker(scope):
        return "Notebooks may not install service workers, which would outlive them."
    return None


def is_navigation(scope: Scope) -> bool:
    """Whether a browser asks for a page to show, in a window or a frame."""
    if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
        return False
    mode = headers.one(scope, b"sec-fetch-mode")
    if mode is not None:
        return mode == "navigate"
    return "text/html" in (headers.one(scope, b"accept") or "")


def _is_service_worker(scope: Scope) -> bool:
    return (
        any(name == b"service-worker" for name, _ in scope["headers"])
        or headers.one(scope, b"sec-fetch-dest") == "serviceworker"
    )

"""The bar in JupyterLab's page: the way back to the portal, the time left, and what is away.

The proxy adds one script to that page, behind its end, and answers what the script asks, below
`/_portal/`; the compute node is not asked (docs/decisions/0014).
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING

from lib.notebook_proxy import csrf

if TYPE_CHECKING:
    from starlette.types import Scope

    from lib.model import SessionId

SCRIPT = "/_portal/bar.js"
STATE = "/_portal/state"
KEEP = "/_portal/keep"
METHODS = {SCRIPT: "GET", STATE: "GET", KEEP: "POST"}
LINE_AWAY = (
    "The connection to the cluster is interrupted. The notebook goes on there, and this page "
    "connects again by itself."
)
_SCRIPT_TEXT = Path(__file__).with_suffix(".js").read_bytes()


def script() -> bytes:
    """What stands at `SCRIPT`."""
    return _SCRIPT_TEXT


def belongs_to(scope: Scope) -> bool:
    """Whether a browser asks for JupyterLab's page, to show it in a window or a frame."""
    path: str = scope["path"]
    lab = path == "/lab" or path.startswith("/lab/")
    return lab and scope["method"] == "GET" and csrf.is_navigation(scope)


def tail(portal_origin: str, session: SessionId) -> bytes:
    """What is added behind the end of the page: HTML puts it into the body."""
    work, again = (html.escape(f"{portal_origin}{path}") for path in ("/work", f"/open/{session}"))
    return f'<script src="{SCRIPT}" data-work="{work}" data-open="{again}"></script>'.encode()

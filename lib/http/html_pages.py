"""Small HTML pages outside Streamlit: signing in, and what went wrong, here or in a notebook."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Mapping

#: These pages run nothing and load nothing.
PLAIN_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "frame-ancestors 'self'; base-uri 'none'"
)
#: Why somebody is at the sign-in page, where they did not come by themselves.
WHY = {
    "ended": "Your sign-in has ended. Sign in again and go on where you were; your notebooks "
    "and runs go on meanwhile.",
    "out": "You are signed out.",
}
_OWN_LINK = (
    "Open the link that ./run printed when SceneBridge started. Each link works once; "
    "get a fresh one with: python admin.py link"
)
_STYLE = """
:root{color-scheme:light dark;--accent:#0b5f8a;--on-accent:#fff}
body{font:17px/1.6 system-ui,sans-serif;max-width:34rem;margin:16vh auto;padding:0 1.5rem;
background:#fff;color:#18242d}
h1{font-size:1.5rem;line-height:1.3}
a.go{display:block;margin:.75rem 0;padding:.7rem 1rem;border-radius:.4rem;text-align:center;
background:var(--accent);color:var(--on-accent);text-decoration:none;font-weight:600}
a.go:hover{text-decoration:underline}
a{color:var(--accent)}
a:focus-visible{outline:3px solid var(--accent);outline-offset:3px}
@media(prefers-color-scheme:dark){:root{--accent:#7cc4ea;--on-accent:#10181e}
body{background:#10181e;color:#e3ebf0}}
"""


def page(
    title: str,
    text: str,
    links: Mapping[str, str] | None = None,
    *,
    new_window: bool = False,
    refresh_s: int = 0,
) -> str:
    """A page with a heading, a sentence and links (address by what it says).

    Args:
        new_window: for a page that may be shown in a frame: links leave it.
        refresh_s: after how long it is asked for again; 0 for never.
    """
    where = ' target="_blank" rel="noopener"' if new_window else ""
    rows = "".join(
        f'<p><a href="{html.escape(address)}"{where}>{html.escape(said)}</a></p>'
        for said, address in (links or {}).items()
    )
    again = f'<meta http-equiv="refresh" content="{refresh_s}">' if refresh_s else ""
    return _page(title, f"<p>{html.escape(text)}</p>{rows}", again)


def sign_in_page(providers: Mapping[str, str], onward: str, why: str = "") -> str:
    """Ways to sign in.

    Args:
        providers: title by id; none where one person uses the portal.
        onward: local path to go to afterwards.
        why: a key of `WHY`; anything else says nothing.
    """
    said = f"<p role=status>{html.escape(WHY[why])}</p>" if why in WHY else ""
    if not providers:
        return _page("Please sign in", f"{said}<p>{html.escape(_OWN_LINK)}</p>")
    ways = "".join(
        f'<a class=go href="/signin/{html.escape(identifier)}?next={quote(onward, safe="/")}">'
        f"Sign in at {html.escape(title)}</a>"
        for identifier, title in providers.items()
    )
    return _page(
        "Please sign in",
        f"{said}<p>SceneBridge brings scenes, modules and clusters of several institutes "
        f"together. Sign in at yours.</p>{ways}",
    )


def _page(title: str, body: str, head: str = "") -> str:
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        f"<meta name=viewport content='width=device-width'>{head}"
        f"<title>{html.escape(title)} · SceneBridge</title><style>{_STYLE}</style></head>"
        f"<body><main><h1>{html.escape(title)}</h1>{body}</main></body></html>"
    )

"""CSRF protection of a notebook's origin: which request is taken, header by header."""

from __future__ import annotations

from typing import Any

import pytest

from lib.notebook_proxy import csrf

OWN = "http://nb-1.localhost:8502"
PORTAL = "http://localhost:8501"
PAGE = [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")]
Headers = list[tuple[str, str]]


def scope(method: str, headers: Headers) -> dict[str, Any]:
    raw = [(name.encode(), value.encode()) for name, value in headers]
    if method == "WEBSOCKET":
        return {"type": "websocket", "headers": raw}
    return {"type": "http", "method": method, "headers": raw}


TAKEN: list[tuple[str, Headers]] = [
    ("GET", []),
    ("GET", [("origin", OWN)]),
    ("GET", [("origin", OWN), ("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors")]),
    ("GET", [("sec-fetch-site", "none"), *PAGE]),
    ("GET", [("sec-fetch-site", "cross-site"), *PAGE]),
    ("GET", [("origin", PORTAL), ("sec-fetch-site", "same-site"), *PAGE]),
    ("HEAD", [("origin", PORTAL), ("accept", "text/html")]),
    ("POST", [("origin", OWN)]),
    ("DELETE", [("origin", OWN), ("sec-fetch-site", "same-origin")]),
    ("WEBSOCKET", [("origin", OWN)]),
    ("WEBSOCKET", [("origin", OWN), ("sec-fetch-site", "cross-site")]),
]
REFUSED: list[tuple[str, Headers]] = [
    ("GET", [("origin", PORTAL)]),
    ("GET", [("origin", "null")]),
    ("GET", [("origin", PORTAL), ("sec-fetch-mode", "cors"), ("accept", "text/html")]),
    ("GET", [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")]),
    ("GET", [("sec-fetch-site", "same-site"), ("sec-fetch-mode", "cors")]),
    ("GET", [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"),
             ("sec-fetch-dest", "object")]),
    ("GET", [("service-worker", "script")]),
    ("GET", [("sec-fetch-dest", "serviceworker"), ("sec-fetch-site", "same-origin")]),
    ("OPTIONS", [("origin", PORTAL), ("accept", "text/html")]),
    ("POST", []),
    ("POST", [("origin", PORTAL)]),
    ("POST", [("origin", "null")]),
    ("POST", [("origin", PORTAL), ("sec-fetch-mode", "navigate"), ("accept", "text/html")]),
    ("PUT", [("origin", OWN), ("sec-fetch-site", "cross-site")]),
    ("WEBSOCKET", []),
    ("WEBSOCKET", [("origin", PORTAL)]),
]  # fmt: skip


@pytest.mark.parametrize(("method", "headers"), TAKEN)
def test_taken(method: str, headers: Headers) -> None:
    assert csrf.refusal(scope(method, headers), OWN) is None


@pytest.mark.parametrize(("method", "headers"), REFUSED)
def test_refused(method: str, headers: Headers) -> None:
    assert csrf.refusal(scope(method, headers), OWN)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("origin", OWN),
        ("sec-fetch-site", "same-origin"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", "document"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "WEBSOCKET"])
def test_a_header_that_comes_twice_is_refused_whatever_it_says(
    method: str, name: str, value: str
) -> None:
    """Each alone would be taken, also the two together were they read as one or as none."""
    good = {"origin": OWN, "sec-fetch-site": "same-origin", **dict(PAGE), name: value}
    once = list(good.items())
    assert csrf.refusal(scope(method, once), OWN) is None
    assert csrf.refusal(scope(method, [*once, (name, value)]), OWN)
    assert csrf.refusal(scope(method, [(name, value), (name, "another")]), OWN)

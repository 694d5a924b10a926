"""What passes between browser and notebook, header by header. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from lib.http.security_headers import notebook_headers
from lib.notebook_proxy.tickets import COOKIE_PREFIX

if TYPE_CHECKING:
    from starlette.types import Scope

RawHeaders = Sequence[tuple[bytes, bytes]]

#: RFC 9110 section 7.6.1, with the older names that proxies meet.
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"trailers transfer-encoding upgrade".split()
)
#: Ours to say, never the browser's.
_NOT_FROM_BROWSER = frozenset(
    b"host authorization cookie content-length expect forwarded x-real-ip x-scheme x-forwarded-for "
    b"x-forwarded-host x-forwarded-port x-forwarded-proto x-forwarded-prefix x-forwarded-server "
    b"x-forwarded-ssl x-original-url x-rewrite-url x-http-method-override x-scenebridge-user "
    b"x-portal-user".split()
)
_NOT_TO_NOTEBOOK = _HOP_BY_HOP | _NOT_FROM_BROWSER
_HANDSHAKE = frozenset(
    b"sec-websocket-key sec-websocket-version sec-websocket-extensions "
    b"sec-websocket-protocol".split()
)
#: A notebook may not speak for the browser's relation to this origin or to others, ask for
#: passwords, or give orders to a front server or to caches in between.
_NOT_FROM_NOTEBOOK = frozenset(
    b"server date alt-svc clear-site-data strict-transport-security service-worker-allowed "
    b"x-frame-options report-to reporting-endpoints nel cross-origin-opener-policy "
    b"cross-origin-resource-policy referrer-policy x-content-type-options permissions-policy "
    b"timing-allow-origin x-permitted-cross-domain-policies www-authenticate "
    b"x-sendfile x-lighttpd-send-file x-accel-redirect x-accel-expires x-accel-buffering "
    b"x-accel-limit-rate x-accel-charset x-reproxy-url age surrogate-control cdn-cache-control "
    b"access-control-allow-origin access-control-allow-credentials access-control-allow-headers "
    b"access-control-allow-methods access-control-expose-headers access-control-max-age "
    b"access-control-allow-private-network".split()
)
_FRAME_ANCESTORS = re.compile(rb"\s*frame-ancestors(\s|$)", re.IGNORECASE)
#: Said once, or the answer can be read in two ways.
_ONCE = frozenset(
    b"content-length content-type content-disposition content-range content-location location "
    b"etag last-modified expires retry-after".split()
)
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_NAME = re.compile(_TOKEN)
#: What may stand in a value: no control character but the tab (RFC 9110 section 5.5).
_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_DIRECTIVE = re.compile(
    rb"[ \t]*(%b)(?:=(?:%b|\"(?:[^\"\\]|\\.)*\"))?[ \t]*(?:,|$)" % (_TOKEN, _TOKEN)
)
#: Of Cache-Control, what concerns caches that several people share.
_OF_SHARED_CACHES = frozenset({b"public", b"private", b"s-maxage", b"proxy-revalidate"})
#: Of all headers of an answer; browsers take 256 KB.
_MAX_ANSWER_HEADERS = 64 * 1024
_COOKIE_DOMAIN = re.compile(rb";\s*domain\s*=", re.IGNORECASE)


def one(scope: Scope, name: bytes) -> str | None:
    """The value of a header that came once; None where it is absent or repeated."""
    found = [value for key, value in scope["headers"] if key == name]
    return str(found[0].decode("latin-1")) if len(found) == 1 else None


def count(scope: Scope, name: bytes) -> int:
    """How often a header came."""
    return [key for key, _ in scope["headers"]].count(name)


def size(scope: Scope) -> int:
    """Bytes of all request headers and the address together."""
    headers = sum([len(name) + len(value) + 4 for name, value in scope["headers"]])
    return headers + len(scope["query_string"]) + len(scope.get("raw_path") or scope["path"])


def to_notebook(
    scope: Scope, *, token: str, scheme: str, plain: bool = False
) -> list[tuple[str, str]]:
    """As `raw_to_notebook`, for aiohttp."""
    raw = raw_to_notebook(scope, token=token, scheme=scheme, plain=plain)
    return [(_text(name), _text(value)) for name, value in raw]


def raw_to_notebook(
    scope: Scope, *, token: str, scheme: str, plain: bool = False
) -> list[tuple[bytes, bytes]]:
    """The headers of the request to the notebook's server, the token among them.

    Args:
        scheme: of the notebook's origin as the browser sees it.
        plain: the answer is wanted whole and not compressed.
    """
    websocket = scope["type"] == "websocket"
    raw: RawHeaders = scope["headers"]
    dropped = _NOT_TO_NOTEBOOK | _named_by_connection(raw)
    if plain:
        dropped |= {b"accept-encoding", b"range"}
    if websocket:
        dropped |= _HANDSHAKE
    kept = [field for field in raw if field[0] not in dropped]
    cookies = b"; ".join(_foreign_cookies(value for name, value in raw if name == b"cookie"))
    if cookies:
        kept.append((b"Cookie", cookies))
    kept.append((b"Host", _bytes(one(scope, b"host") or "")))
    kept.append((b"Authorization", b"token " + _bytes(token)))
    kept.append((b"X-Forwarded-For", _bytes((scope.get("client") or ("",))[0])))
    kept.append((b"X-Forwarded-Proto", _bytes(scheme)))
    length = one(scope, b"content-length")
    if length is not None and not websocket and not one(scope, b"transfer-encoding"):
        kept.append((b"Content-Length", _bytes(length)))
    return kept


class InvalidAnswer(Exception):
    """Not an answer that could be passed on."""


def check_status(status: int) -> None:
    """Raise `InvalidAnswer` at what is no final status, 101 without a WebSocket included."""
    if not 200 <= status <= 599:
        raise InvalidAnswer(f"status {status}")


def to_browser(status: int, raw: RawHeaders, *, portal_origin: str) -> list[tuple[bytes, bytes]]:
    """The headers of the answer to the browser, ours among them.

    Raises:
        InvalidAnswer: two programs could read it in two ways, or no program at all.
    """
    check_status(status)
    if sum([len(name) + len(value) + 4 for name, value in raw]) > _MAX_ANSWER_HEADERS:
        raise InvalidAnswer("headers too large")
    lowered = [(name.lower(), value.strip(b" \t")) for name, value in raw]
    dropped = _HOP_BY_HOP | _NOT_FROM_NOTEBOOK | _named_by_connection(lowered)
    if status in (204, 304) or any(name == b"transfer-encoding" for name, _ in lowered):
        dropped |= {b"content-length"}
    kept: list[tuple[bytes, bytes]] = []
    for name, value in lowered:
        _check_field(name, value)
        if name in dropped or name == b"cache-control" or (name, value) in kept:
            continue
        if name in _ONCE and any(name == known for known, _ in kept):
            raise InvalidAnswer(f"two of {name!r}")
        if name == b"set-cookie" and not _may_set(value):
            continue
        if name == b"content-security-policy":
            value = _without_frame_ancestors(value)
            if not value:
                continue
        kept.append((name, value))
    caching = _private(value for name, value in lowered if name == b"cache-control")
    return [*kept, (b"cache-control", caching), *of_every_answer(portal_origin)]


def is_plain_html(raw: RawHeaders) -> bool:
    """Whether an answer with these headers is an HTML page that is not compressed."""
    said = dict(raw)
    html = said.get(b"content-type", b"").partition(b";")[0].strip().lower() == b"text/html"
    return html and b"content-encoding" not in said


def lengthened(raw: RawHeaders, by: int) -> list[tuple[bytes, bytes]]:
    """The headers of an answer to which so many bytes are added."""
    return [
        (name, b"%d" % (int(value) + by) if name == b"content-length" else value)
        for name, value in raw
    ]


def _check_field(name: bytes, value: bytes) -> None:
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise InvalidAnswer("a header with characters that none may have")
    if name == b"content-length" and not _LENGTH.fullmatch(value):
        raise InvalidAnswer("a length that is none")


def _private(values: Iterable[bytes]) -> bytes:
    """Cache-Control as it was, for this browser alone; what cannot be read is not kept at all."""
    text = b",".join(values)
    kept, at = [], 0
    while at < len(text):
        found = _DIRECTIVE.match(text, at)
        if found is None:
            return b"no-store"
        at = found.end()
        if found[1].lower() not in _OF_SHARED_CACHES:
            kept.append(found[0].strip(b" \t,"))
    return b", ".join([b"private", *kept])


@lru_cache(maxsize=16)
def of_every_answer(portal_origin: str) -> tuple[tuple[bytes, bytes], ...]:
    """The security headers of a notebook's origin, as ASGI sends them."""
    said = notebook_headers(portal_origin)
    return tuple((name.lower().encode(), value.encode()) for name, value in said.items())


def has_body(scope: Scope) -> bool:
    """Whether a request announces a body (RFC 9112 section 6.3)."""
    names = {name for name, _ in scope["headers"]}
    return b"transfer-encoding" in names or one(scope, b"content-length") not in (None, "0")


def _named_by_connection(raw: RawHeaders) -> frozenset[bytes]:
    named = (value.lower().split(b",") for name, value in raw if name == b"connection")
    return frozenset(name.strip() for names in named for name in names)


def _foreign_cookies(values: Iterable[bytes]) -> list[bytes]:
    ours = (COOKIE_PREFIX.lower().encode(), b"_streamlit")
    pairs = (pair.strip() for value in values for pair in value.split(b";"))
    return [pair for pair in pairs if pair and not pair.lower().startswith(ours)]


def _may_set(cookie: bytes) -> bool:
    """A notebook sets cookies for its own host only, and none that look like ours.

    One without a name would be sent back as its value alone, which may look like ours.
    """
    ours = (COOKIE_PREFIX.lower().encode(), b"_streamlit")
    name, equals, _ = cookie.partition(b";")[0].partition(b"=")
    plain = name.strip(b" \t").lower()
    named = equals and _NAME.fullmatch(plain) and not plain.startswith(ours)
    return bool(named) and not _COOKIE_DOMAIN.search(cookie)


def _without_frame_ancestors(policy: bytes) -> bytes:
    kept = [part for part in policy.split(b";") if not _FRAME_ANCESTORS.match(part)]
    return b";".join(kept).strip(b"; ")


def _text(value: bytes) -> str:
    return value.decode("latin-1")


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")

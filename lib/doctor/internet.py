"""Names and certificates of a portal on the internet, seen from this computer.

A front server ends TLS for two names: the portal's, and every name below `notebook_domain`.
"""

from __future__ import annotations

import re
import secrets
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lib.config.settings.checks import is_loopback_name
from lib.doctor.check import Check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lib.config.settings import Settings

LIMIT_S = 10.0
#: Certificates of the usual authorities are renewed a month before they end; those that live
#: for days or hours when a third of that is left, so less than a quarter is late.
FEWEST_DAYS = 14
_FEWEST_OF_LIFE = 0.25
_DAY_S = 86400
_LARGEST_HEAD = 65536
#: Below these and a country, names are given out: the registrable name is one label longer.
_SECOND_LEVEL = frozenset({"ac", "co", "com", "ed", "edu", "go", "gov", "net", "or", "org", "gr"})
#: A front server says so itself when it cannot reach what is behind it.
_NOT_REACHED = (502, 503, 504)


@dataclass(frozen=True, slots=True)
class _Place:
    """One name that browsers use: `name` for the line, `role` for the sentence."""

    name: str
    role: str
    host: str
    port: int


def checks(chosen: Settings) -> Iterator[Check]:
    """Nothing to look at where the portal is at `localhost`."""
    if not chosen.public_origin:
        return
    portal, notebooks = places(chosen)
    yield domains(portal.host, chosen.notebook_domain)
    yield from names(portal, notebooks)
    if chosen.origin.startswith("https:"):
        for place in (portal, notebooks):
            yield certificate(place)


def places(chosen: Settings) -> tuple[_Place, _Place]:
    """The portal, and a notebook that there has never been."""
    origin = urlsplit(chosen.origin)
    below = urlsplit(f"//{chosen.notebook_domain or origin.netloc}")
    standard = 443 if origin.scheme == "https" else 80
    host = f"nb-{secrets.token_hex(16)}.{below.hostname}"
    return (
        _Place("portal", "the portal", origin.hostname or "", origin.port or standard),
        _Place("notebooks", "notebooks", host, below.port or standard),
    )


def domains(portal: str, notebooks: str) -> Check:
    """Whether a notebook's page could plant cookies for the portal."""
    domain = urlsplit(f"//{notebooks}").hostname or portal
    if is_loopback_name(portal) or registrable(domain) != registrable(portal):
        return Check("notebook domain", True, f"{domain} is not a part of the portal's domain")
    return Check(
        "notebook domain", False,
        f"{domain} and {portal} are one site, so notebooks can plant cookies for the portal: "
        "give notebooks a registrable domain of their own",
    )  # fmt: skip


def registrable(host: str) -> str:
    """A good guess at the part of a name that somebody registered."""
    labels = host.split(".")
    length = 3 if len(labels[-1]) == 2 and labels[-2:-1] and labels[-2] in _SECOND_LEVEL else 2
    return ".".join(labels[-length:])


# --- names --------------------------------------------------------------------------------


def names(portal: _Place, notebooks: _Place) -> Iterator[Check]:
    """Both resolve, and to the same front server."""
    found = {}
    for place in (portal, notebooks):
        wanted = (
            f"add a DNS record for {place.host}"
            if place is portal
            else f"add a wildcard record *.{place.host.partition('.')[2]}"
        )
        try:
            found[place] = resolve(place.host)
        except OSError as exc:
            yield Check(f"DNS {place.name}", False, f"{place.host} does not resolve ({exc}): "
                        f"{wanted}")  # fmt: skip
        else:
            yield Check(f"DNS {place.name}", True, f"{place.host} is {_listed(found[place])}")
    if len(found) == 2 and found[portal] != found[notebooks]:
        yield Check(
            "DNS", False,
            f"the portal is at {_listed(found[portal])}, notebooks at {_listed(found[notebooks])}: "
            "both names must lead to the one front server",
        )  # fmt: skip


def resolve(host: str) -> frozenset[str]:
    """Its addresses. Names of this computer alone are known to browsers, not to resolvers.

    Raises:
        OSError: there are none, or nobody answers in time.
    """
    if is_loopback_name(host):
        return frozenset({"127.0.0.1"})
    answer: list[frozenset[str] | OSError] = []

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            answer.append(frozenset(str(entry[4][0]) for entry in found))
        except (OSError, UnicodeError) as exc:
            answer.append(exc if isinstance(exc, OSError) else OSError("not a name"))

    asking = threading.Thread(target=ask, daemon=True)  # the resolver knows no time limit
    asking.start()
    asking.join(LIMIT_S)
    if not answer:
        raise TimeoutError("no answer")
    if isinstance(answer[0], OSError):
        raise answer[0]
    return answer[0]


# --- certificates ---------------------------------------------------------------------------


def certificate(place: _Place) -> Check:
    """A certificate that browsers trust, for long enough, and an answer with HSTS."""
    name, where = f"TLS {place.name}", f"{place.host}:{place.port}"
    try:
        days, life, status, headers = _visit(place)
    except ssl.SSLCertVerificationError as exc:
        return Check(name, False, f"{where}: {exc.verify_message.rstrip('.')}: {_renew(exc)}")
    except (OSError, ValueError) as exc:
        return Check(
            name, False, f"{where} cannot be reached ({exc}): is the front server running, and is "
            "its port open?",
        )  # fmt: skip
    if days < min(FEWEST_DAYS, life * _FEWEST_OF_LIFE):
        return Check(
            name, False, f"the certificate of {where} ends in {days:.0f} days: look into the front "
            "server's log why it was not renewed",
        )  # fmt: skip
    if status in _NOT_REACHED:
        return Check(
            name, False, f"the front server at {where} does not reach {place.role} ({status}): is "
            "the portal running, and do the ports agree?",
        )  # fmt: skip
    if "strict-transport-security" not in headers:
        return Check(
            name, False, f"{where} sends no Strict-Transport-Security: use deploy/Caddyfile, or "
            "let the front server add it",
        )  # fmt: skip
    return Check(name, True, f"{where}: valid for {days:.0f} days, with HSTS")


def _renew(exc: ssl.SSLCertVerificationError) -> str:
    said = exc.verify_message
    if "expired" in said:
        return "renew it; the front server's log says why it was not"
    if "mismatch" in said or "not valid for" in said:
        return "get a certificate for this name (for notebooks: a wildcard)"
    return "use one of an authority that browsers trust, with its whole chain"


def _visit(place: _Place) -> tuple[float, float, int, dict[str, str]]:
    """Days that the certificate has left, those of its whole life, and an answer's head.

    Raises:
        ssl.SSLCertVerificationError: browsers would not trust it.
        OSError, ValueError: no answer that is one of HTTP.
    """
    trusted = ssl.create_default_context()
    address = "127.0.0.1" if is_loopback_name(place.host) else place.host
    with (
        socket.create_connection((address, place.port), LIMIT_S) as plain,
        trusted.wrap_socket(plain, server_hostname=place.host) as secure,
    ):
        shown = secure.getpeercert() or {}
        begin, end = (
            ssl.cert_time_to_seconds(str(shown[name])) for name in ("notBefore", "notAfter")
        )
        host = place.host if place.port == 443 else f"{place.host}:{place.port}"
        request = f"GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        secure.sendall(request.encode("ascii"))
        head = b""
        while b"\r\n\r\n" not in head:
            part = secure.recv(4096)
            if not part or len(head) > _LARGEST_HEAD:
                raise ValueError("no answer of a web server")
            head += part
    first, *lines = head.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    status = re.match(r"HTTP/1\.[01] (\d{3})\b", first)
    if status is None:
        raise ValueError("no answer of a web server")
    headers = {name.strip().lower(): value for name, _, value in (x.partition(":") for x in lines)}
    days, life = (end - time.time()) / _DAY_S, (end - begin) / _DAY_S
    return days, life, int(status[1]), headers


def _listed(addresses: frozenset[str]) -> str:
    return ", ".join(sorted(addresses))

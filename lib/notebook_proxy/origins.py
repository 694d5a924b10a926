"""The origin of each notebook, and whose notebook a request is for.

Two ways, chosen by the setting `notebooks`:

* ``host``: ``nb-HEX.BASE``, a name per notebook. Browsers resolve ``*.localhost`` by
  themselves; a site sets up a wildcard name, best on a registrable domain of its own.
* ``port``: ``127.0.0.1:PORT``, a port per notebook, while the portal is at
  ``localhost``: another host, so no cookie of the portal is ever sent there.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit
from uuid import UUID

from lib.errors import Conflict, InvalidInput, NotFound
from lib.model import SessionId
from lib.protocol.messages import ID_PATTERN

if TYPE_CHECKING:
    from starlette.types import Scope

_LABEL = re.compile(r"nb-([0-9a-f]{32})")


class Addresses(Protocol):
    """Maps sessions to origins and back. No obligations but to answer at once."""

    portal_origin: str

    def origin(self, session: SessionId) -> str:
        """``scheme://host[:port]`` of that notebook. Raises Conflict while it has none."""

    def session_of(self, scope: Scope) -> SessionId | None:
        """Whose notebook is asked for; None where the portal itself is.

        Raises:
            NotFound: an address of notebooks, but not a valid one.
            InvalidInput: no host, or more than one.
        """


class HostAddresses:
    """A host name per notebook below `base`."""

    def __init__(self, portal_origin: str, base: str = "") -> None:
        """
        Args:
            portal_origin: as browsers see it, e.g. ``http://localhost:8501``.
            base: ``host[:port]`` below which the notebooks live; the portal's by default.
        """
        self.portal_origin = check_origin(portal_origin)
        portal = urlsplit(self.portal_origin)
        self._scheme = portal.scheme
        self._base = base or portal.netloc
        name = _hostname(self._base)
        if name.startswith("[") or name.replace(".", "").isdigit():
            raise InvalidInput(
                f"Names of notebooks cannot lie below the address {name}: open the portal by a "
                "name such as localhost, or give each notebook a port."
            )
        self._suffix = f".{name}"

    def origin(self, session: SessionId) -> str:
        return f"{self._scheme}://nb-{_hex(session)}.{self._base}"

    def session_of(self, scope: Scope) -> SessionId | None:
        host = _hostname(_only_host(scope))
        if not host.startswith("nb-") or not host.endswith(self._suffix):
            return None
        label = _LABEL.fullmatch(host.removesuffix(self._suffix))
        if label is None:
            raise NotFound("There is no notebook at this address.")
        return _session(label[1])


class PortAddresses:
    """A port per notebook on 127.0.0.1; `ports` is kept up to date by `PortListeners`."""

    host = "127.0.0.1"

    def __init__(self, portal_origin: str) -> None:
        self.portal_origin = check_origin(portal_origin)
        if urlsplit(self.portal_origin).hostname == self.host:
            raise InvalidInput(
                "With a port per notebook the portal must be opened as “localhost”, not as "
                "127.0.0.1, because the notebooks are there and would share its cookies."
            )
        self.ports: dict[SessionId, int] = {}

    def origin(self, session: SessionId) -> str:
        try:
            return f"http://{self.host}:{self.ports[session]}"
        except KeyError:
            raise Conflict("This notebook is not open.") from None

    def session_of(self, scope: Scope) -> SessionId | None:
        port = (scope.get("server") or (None, None))[1]
        for session, open_port in self.ports.items():
            if open_port == port:
                # Another name that leads here (DNS rebinding) is not this origin.
                if _only_host(scope) != f"{self.host}:{port}":
                    raise NotFound("There is no notebook at this address.")
                return session
        return None


@lru_cache(maxsize=1024)
def _session(hexadecimal: str) -> SessionId:
    return SessionId(str(UUID(hexadecimal)))


def check_origin(origin: str) -> str:
    """An origin in its canonical form, or InvalidInput."""
    parts = urlsplit(origin)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise InvalidInput(f"“{origin}” is not an origin such as http://localhost:8501.")
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _hex(session: SessionId) -> str:
    if not ID_PATTERN.fullmatch(session):
        raise InvalidInput(f"“{session:.60}” is not a session.")
    return session.replace("-", "")


def _hostname(host: str) -> str:
    """The name without port, trailing dot and capitals."""
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    return name.lower().removesuffix(".")


def _only_host(scope: Scope) -> str:
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    if len(hosts) != 1:
        raise InvalidInput("The request must name exactly one host.")
    return str(hosts[0].decode("latin-1").lower())

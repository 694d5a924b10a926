"""What can be set: `DATA/settings.toml`, and the arguments of `./run` over it.

Every key of the file is a field of `Settings` that has a default, and is described in
docs/settings.md. The file is read strictly: a wrong name or value is an error, never
ignored.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lib.config.runtime_dir import runtime_path
from lib.config.settings import people
from lib.config.settings.checks import host, is_loopback_name, listed, name, origin, text, whole
from lib.config.settings.people import Group, Provider, Rule
from lib.errors import InvalidInput, Unavailable
from lib.model import StrEnum

__all__ = ["Group", "Provider", "Rule", "Settings", "current", "load", "use"]

PROJECT = Path(__file__).resolve().parents[3]
#: The data folder where `./run` and `admin.py` are told no other.
DEFAULT_DATA = PROJECT / "var"
FILE = "settings.toml"
#: The data folder of a portal that something else than `./run` starts.
DATA_VARIABLE = "SCENEBRIDGE_DATA"


class NotebookOrigin(StrEnum):
    """What keeps the notebooks' pages apart: a host name each, or a port each."""

    HOST = "host"
    PORT = "port"


@dataclass(frozen=True, slots=True)
class Settings:
    """Complete and checked.

    Args:
        data: the data folder, resolved.
        runtime: the folder of sockets; short. It need not exist yet.
        port: of the portal.
        listen: the address on which the portal waits for browsers or a front server.
        public_origin: the portal as browsers see it; empty means `localhost` and the port.
        notebook_domain: `host[:port]` below which notebooks live; empty means the portal's
            own. On the internet: a registrable domain that is not the portal's.
        trusted_proxies: addresses of front servers whose X-Forwarded-For counts.
        notebooks: see `NotebookOrigin`.
        notebook_port: of the notebooks' process, for notebooks with host names; 0 means
            the portal's port + 1.
        notebook_ports: first and last port (inclusive) for notebooks with a port each.
        sign_in_days: after so many days a sign-in ends, whatever happens; 0 means 7, or 30
            where one person uses the portal.
        idle_hours: a sign-in that nobody uses ends after so many hours; 0 means 12, or
            never where one person uses the portal.
        provider, group, administrators: see `lib.config.settings.people`.
        embedded_groups: who may start work on the portal's own computer, where several
            people use the portal; nobody where it is empty. Work there can read all that
            the portal can.
        keep_days: how long the files of an ended job are kept.
        slots: jobs at the same time on this computer; 0 means by its cores.
    """

    data: Path
    runtime: Path
    port: int = 8501
    listen: str = "127.0.0.1"
    public_origin: str = ""
    notebook_domain: str = ""
    trusted_proxies: tuple[str, ...] = ()
    notebooks: NotebookOrigin = NotebookOrigin.HOST
    notebook_port: int = 0
    notebook_ports: tuple[int, int] = (8600, 8699)
    sign_in_days: int = 0
    idle_hours: int = 0
    provider: tuple[Provider, ...] = ()
    group: tuple[Group, ...] = ()
    administrators: tuple[Rule, ...] = ()
    embedded_groups: tuple[str, ...] = ()
    keep_days: int = 14
    slots: int = 0

    @property
    def origin(self) -> str:
        """Scheme, host and port of the portal's pages."""
        return self.public_origin or f"http://localhost:{self.port}"

    @property
    def port_of_notebooks(self) -> int:
        """What `notebook_port` comes to."""
        return self.notebook_port or self.port + 1

    @property
    def base_of_notebooks(self) -> str:
        """`host[:port]` below which notebooks with host names live."""
        return self.notebook_domain or f"localhost:{self.port_of_notebooks}"

    @property
    def single_user(self) -> bool:
        """Without a provider the portal serves one person, on this computer alone."""
        return not self.provider

    def client_secret_file(self, provider: Provider) -> Path:
        """Where the secret lies that the portal shows to this provider."""
        return provider.client_secret_file or self.data / "secrets" / f"oidc-{provider.id}"

    def client_secret(self, provider: Provider) -> str:
        """That secret.

        Raises:
            Unavailable: it is not there, or cannot be read.
        """
        file = self.client_secret_file(provider)
        try:
            secret = file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            secret = ""
        if not secret:
            raise Unavailable(
                f"This portal has no client secret for {provider.title} yet, so nobody can sign "
                "in there. Tell the administrator of this portal."
            )
        return secret

    @property
    def idle_s(self) -> float | None:
        """After this time without an act a sign-in has ended; None: never."""
        if not self.idle_hours:
            return None if self.single_user else 12 * 3600.0
        return self.idle_hours * 3600.0

    @property
    def sign_in_s(self) -> float:
        """The longest life of a sign-in."""
        days = self.sign_in_days or (30 if self.single_user else 7)
        return days * 86400.0


#: The names that `settings.toml` may hold.
KEYS = tuple(
    field.name for field in dataclasses.fields(Settings) if field.default is not dataclasses.MISSING
)


def load(data: Path, *, port: int | None = None, notebook_port: int | None = None) -> Settings:
    """The settings of a data folder. It need not exist; without a file all is default.

    Args:
        port, notebook_port: win over the file.
    Raises:
        InvalidInput: the file breaks the rules; the sentence names the key.
    """
    data = data.expanduser().resolve()
    values = _read(data / FILE)
    if port is not None:
        values["port"] = _port(port, "--port")
    if notebook_port is not None:
        values["notebook_port"] = _port(notebook_port, "--notebook-port")
    settings = Settings(data=data, runtime=runtime_path(data), **values)
    _check_together(settings, str(data / FILE))
    return settings


_current: Settings | None = None


def use(settings: Settings) -> None:
    """Make `settings` those of this process."""
    global _current
    _current = settings


def current() -> Settings:
    """The settings of this process; from `SCENEBRIDGE_DATA` or `var/` if none were set."""
    if _current is None:
        use(load(Path(os.environ.get(DATA_VARIABLE) or DEFAULT_DATA)))
    assert _current is not None  # noqa: S101 - `use` has just set it
    return _current


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidInput(f"The settings {file} cannot be read: {exc}.") from exc
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise InvalidInput(f"The settings {file} are not valid TOML: {exc}.") from exc
    return {key: _value(key, value, file) for key, value in table.items()}


def _check_together(settings: Settings, file: str) -> None:
    """What single values cannot say. Raises InvalidInput."""
    people.check_rules(
        [
            *settings.administrators,
            *(rule for group in settings.group for rule in (*group.members, *group.leads)),
        ],
        settings.provider,
        file,
    )
    if settings.port_of_notebooks == settings.port or settings.port_of_notebooks > 65535:
        raise InvalidInput(
            f"The notebooks cannot have port {settings.port_of_notebooks}: choose another in "
            f'{file}, "notebook_port".'
        )
    outside = not is_loopback_name(urlsplit(settings.origin).hostname or "")
    if settings.single_user and (outside or not is_loopback(settings.listen)):
        raise InvalidInput(
            f"Without a [[provider]] in {file} the portal serves one person and listens on "
            "this computer alone: remove listen and public_origin, or set a provider up."
        )
    if outside and settings.notebooks is NotebookOrigin.PORT:
        raise InvalidInput(
            f'public_origin in {file} needs notebooks = "host": a port for each notebook '
            "works on this computer alone."
        )
    if outside and not settings.notebook_domain:
        raise InvalidInput(
            f"public_origin in {file} needs a notebook_domain, best a registrable domain that "
            "is not the portal's: see docs/operate.md."
        )


def is_loopback(address: str) -> bool:
    """Whether only this computer reaches this IP address."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _value(key: str, value: object, file: Path) -> object:
    where = f"{key} in {file}"
    match key:
        case "port":
            return _port(value, where)
        case "listen":
            return _address(value, where)
        case "public_origin":
            return origin(value, where)
        case "notebook_domain":
            return host(value, where)
        case "trusted_proxies":
            return tuple(_address(v, where) for v in listed(value, where))
        case "notebooks":
            if value not in [o.value for o in NotebookOrigin]:
                raise InvalidInput(f'{where} must be "host" or "port".')
            return NotebookOrigin(value)
        case "notebook_port":
            return 0 if value == 0 and value is not False else _port(value, where)
        case "notebook_ports":
            return _ports(value, where)
        case "sign_in_days":
            return whole(value, 0, 90, where)
        case "idle_hours":
            return whole(value, 0, 24 * 90, where)
        case "provider":
            return people.providers(value, str(file))
        case "group":
            return people.groups(value, str(file))
        case "administrators":
            return people.rules(value, where)
        case "embedded_groups":
            return tuple(name(v, where) for v in listed(value, where))
        case "keep_days":
            return whole(value, 1, 3650, where)
        case "slots":
            return whole(value, 0, 1024, where)
    raise InvalidInput(
        f"{file} has an unknown setting {key!r:.60}. It may hold: {', '.join(KEYS)}."
    )


def _address(value: object, where: str) -> str:
    try:
        return str(ipaddress.ip_address(text(value, where)))
    except ValueError as exc:
        raise InvalidInput(f"{where} must be an IP address such as 127.0.0.1.") from exc


def _port(value: object, where: str) -> int:
    return whole(value, 1024, 65535, where)


def _ports(value: object, where: str) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise InvalidInput(f"{where} must be the first and the last port, as in [8600, 8699].")
    first, last = _port(value[0], where), _port(value[1], where)
    if first > last:
        raise InvalidInput(f"{where} must begin with the smaller port.")
    return first, last

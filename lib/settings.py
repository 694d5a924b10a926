"""What can be set: `DATA/settings.toml`, and the arguments of `./run` over it.

Every key of the file is a field of `Settings` that has a default, and is described in
docs/settings.md. The file is read strictly: a wrong name or value is an error, never
ignored.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.errors import InvalidInput
from lib.model import StrEnum
from lib.places import runtime_path

PROJECT = Path(__file__).resolve().parent.parent
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
        port: of the portal, on loopback.
        notebooks: see `NotebookOrigin`.
        notebook_port: of the notebooks' process, for notebooks with host names; 0 means
            the portal's port + 1.
        notebook_ports: first and last port (inclusive) for notebooks with a port each.
        keep_days: how long the files of an ended job are kept.
        slots: jobs at the same time on this computer; 0 means by its cores.
    """

    data: Path
    runtime: Path
    port: int = 8501
    notebooks: NotebookOrigin = NotebookOrigin.HOST
    notebook_port: int = 0
    notebook_ports: tuple[int, int] = (8600, 8699)
    keep_days: int = 14
    slots: int = 0

    @property
    def origin(self) -> str:
        """Scheme, host and port of the portal's pages."""
        return f"http://localhost:{self.port}"

    @property
    def port_of_notebooks(self) -> int:
        """What `notebook_port` comes to."""
        return self.notebook_port or self.port + 1


#: The names that `settings.toml` may hold.
KEYS = tuple(
    field.name for field in dataclasses.fields(Settings) if field.default is not dataclasses.MISSING
)


def load(data: Path, *, port: int | None = None) -> Settings:
    """The settings of a data folder. It need not exist; without a file all is default.

    Args:
        port: wins over the file.
    Raises:
        InvalidInput: the file breaks the rules; the sentence names the key.
    """
    data = data.expanduser().resolve()
    values = _read(data / FILE)
    if port is not None:
        values["port"] = _port(port, "--port")
    loaded = Settings(data=data, runtime=runtime_path(data), **values)
    if loaded.port_of_notebooks == loaded.port or loaded.port_of_notebooks > 65535:
        raise InvalidInput(
            f"The notebooks cannot have port {loaded.port_of_notebooks}: choose another in "
            f'{data / FILE}, "notebook_port".'
        )
    return loaded


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


def _value(key: str, value: object, file: Path) -> object:
    where = f"{key} in {file}"
    match key:
        case "port":
            return _port(value, where)
        case "notebooks":
            if value not in [origin.value for origin in NotebookOrigin]:
                raise InvalidInput(f'{where} must be "host" or "port".')
            return NotebookOrigin(value)
        case "notebook_port":
            return 0 if value == 0 and value is not False else _port(value, where)
        case "notebook_ports":
            return _ports(value, where)
        case "keep_days":
            return _whole(value, 1, 3650, where)
        case "slots":
            return _whole(value, 0, 1024, where)
    raise InvalidInput(
        f"{file} has an unknown setting {key!r:.60}. It may hold: {', '.join(KEYS)}."
    )


def _port(value: object, where: str) -> int:
    return _whole(value, 1024, 65535, where)


def _ports(value: object, where: str) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise InvalidInput(f"{where} must be the first and the last port, as in [8600, 8699].")
    first, last = _port(value[0], where), _port(value[1], where)
    if first > last:
        raise InvalidInput(f"{where} must begin with the smaller port.")
    return first, last


def _whole(value: object, lowest: int, highest: int, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise InvalidInput(f"{where} must be a whole number from {lowest} to {highest}.")
    return value

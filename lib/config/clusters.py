"""One cluster as its file describes it: how it is reached, and who may use it.

    id = "nchc"
    title = "Taiwania 2"
    institute = "NCHC"
    groups = ["forest"]                     # who may start work there; "everyone" is one

    [login]                                 # the login node that the gate runs on
    host = "login.nchc.example"
    port = 22
    user = "u1001"                          # the cluster account; --user overrides it
    host_keys = ["ssh-ed25519 AAAA..."]     # none other is accepted

    [jump]                                  # optional: the host to go through
    host = "jump.nchc.example"
    host_keys = ["ssh-ed25519 AAAA..."]

    [gate]
    port = 22022                            # on 127.0.0.1 of the login node
    host_key = "ssh-ed25519 AAAA..."        # printed by `admin.py gate deploy`
    python = ""                             # a Python of the cluster, 3.10 or newer
    home = ".scenebridge/nchc"              # the gate's folder, in the account's home

A file with `embedded = true` is this computer and has none of the three tables.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from lib.errors import InvalidInput
from lib.model import ClusterId, JsonObject, JsonValue
from lib.protocol.messages import NAME_PATTERN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HOST_PATTERN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?")
ACCOUNT_PATTERN = re.compile(r"[a-z_][a-z0-9_.-]{0,31}", re.IGNORECASE)
KEY_PATTERN = re.compile(r"[a-z0-9@.-]{4,64} [A-Za-z0-9+/]{20,4096}={0,3}")
_ID = re.compile(r"""^id\s*=\s*["']([^"'\n]*)["']""", re.MULTILINE)
_TABLE_HEAD = re.compile(r"\s*\[\s*([^\[\]]*?)\s*\]\s*(?:#.*)?")
_REMOTE_PATH = re.compile(r"[A-Za-z0-9._/-]{1,200}")
SSH_PORT = 22

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SshHost:
    """A host that ssh connects to. `host_keys` are the only ones it may show."""

    host: str
    port: int
    user: str
    host_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GatePlace:
    """Where the gate is on its login node.

    `host_key` is "" until the gate was deployed; `python` is "" where the one on the
    account's PATH will do; `home` is absolute, or relative to the account's home.
    """

    port: int
    host_key: str
    python: str
    home: str


@dataclass(frozen=True, slots=True)
class ClusterEntry:
    """One cluster file. `groups` may start work there; "everyone" is one.

    `login` and `gate` are None for the embedded cluster alone; `jump` is None where the
    login node is reached directly. `file` is where it was read from.
    """

    id: ClusterId
    title: str
    institute: str
    embedded: bool
    groups: tuple[str, ...] = ()
    login: SshHost | None = None
    jump: SshHost | None = None
    gate: GatePlace | None = None
    file: Path | None = None


def read_cluster(file: Path) -> ClusterEntry:
    """Read one file strictly.

    Raises:
        InvalidInput: one sentence that names the file, the line where there is one, and the key.
    """
    try:
        text = file.read_text("utf-8")
        data = tomllib.loads(text)
    except (OSError, ValueError) as exc:  # of TOML that is wrong it says the line
        raise InvalidInput(f"{file} cannot be read: {exc}") from exc
    table = _Table(data, str(file), text.splitlines())
    embedded = table.take("embedded", bool, False)
    entry = ClusterEntry(
        ClusterId(_name(table)),
        table.text("title", re.compile(r"[^\x00-\x1f\x7f]{1,100}")),
        table.take("institute", str, ""),
        embedded,
        _groups(table),
        None if embedded else _host(table.table("login")),
        _host(table.table("jump")) if "jump" in data and not embedded else None,
        None if embedded else _gate(table.table("gate"), data["id"]),
        file,
    )
    table.close()
    return entry


def cluster_of(file: Path) -> ClusterId:
    """Which cluster a file is about that cannot be read otherwise: by its `id`, else its name."""
    try:
        found = _ID.search(file.read_text("utf-8", "replace"))
    except OSError:
        found = None
    name = found[1] if found else file.stem
    return ClusterId(name if NAME_PATTERN.fullmatch(name) else "unreadable")


def _name(table: _Table) -> str:
    name = table.take("id", str, None)
    if NAME_PATTERN.fullmatch(name) is None:
        where = table.at("id")
        raise InvalidInput(f"{where}: id may hold small letters, digits and hyphens only.")
    return name


def _groups(table: _Table) -> tuple[str, ...]:
    if "groups" not in table.data:
        raise InvalidInput(
            f"{table.where} needs groups: ids of the groups that may use this cluster, "
            'or ["everyone"].'
        )
    return table.texts("groups")


def _host(table: _Table) -> SshHost:
    host = SshHost(
        table.text("host", HOST_PATTERN),
        table.number("port", SSH_PORT),
        table.text("user", ACCOUNT_PATTERN, ""),
        tuple(table.checked_key("host_keys", key) for key in table.texts("host_keys")),
    )
    if not host.host_keys:
        raise InvalidInput(
            f"{table.at('host_keys')} needs host_keys: the public host keys of {host.host}, which "
            f"its operators publish (or: ssh-keyscan {host.host}, compared with what they say)."
        )
    table.close()
    return host


def _gate(table: _Table, cluster: str) -> GatePlace:
    key = table.take("host_key", str, "")
    gate = GatePlace(
        table.number("port", None),
        table.checked_key("host_key", key) if key else "",
        table.text("python", _REMOTE_PATH, ""),
        table.text("home", _REMOTE_PATH, f".scenebridge/{cluster}"),
    )
    if ".." in gate.home.split("/"):
        raise InvalidInput(f"{table.at('home')}: home must not go upwards.")
    table.close()
    return gate


class _Table:
    """One table of a cluster file; what nobody asked for is an error at `close`."""

    def __init__(self, data: JsonObject, file: str, lines: Sequence[str], name: str = "") -> None:
        """
        Args:
            lines: of the whole file.
            name: of the table; "" for what stands before the first one.
        """
        self.data = data
        self.where = f"{file} [{name}]" if name else file
        self._file, self._lines, self._name = file, lines, name
        self._asked: set[str] = set()

    def at(self, key: str) -> str:
        """`where`, with the line of this key: that of the table where the key is not there."""
        is_key = re.compile(rf"""\s*["']?{re.escape(key)}["']?\s*[=.]""")
        head = table = ""
        for number, line in enumerate(self._lines, 1):
            found = _TABLE_HEAD.fullmatch(line)
            if found is not None:
                table = found[1]
                if table == self._name:
                    head = f", line {number}"
            elif table == self._name and is_key.match(line):
                return f"{self.where}, line {number}"
        return self.where + head

    def take(self, key: str, kind: type[T], default: T | None) -> T:
        self._asked.add(key)
        value = self.data.get(key, default)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise InvalidInput(f"{self.at(key)} needs a {_KINDS[kind]} for {key!r}.")
        return value

    def text(self, key: str, like: re.Pattern[str], default: str | None = None) -> str:
        value = self.take(key, str, default)
        if value != default and like.fullmatch(value) is None:
            raise InvalidInput(f"{self.at(key)}: {key} = {value!r:.80} is not allowed.")
        return value

    def number(self, key: str, default: int | None) -> int:
        value = self.take(key, int, default)
        if not 0 < value < 65536:
            raise InvalidInput(f"{self.at(key)}: {key} must be a port, 1 to 65535.")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        values: list[JsonValue] = self.take(key, list, [])
        texts = tuple(v for v in values if isinstance(v, str))
        if len(texts) != len(values):
            raise InvalidInput(f"{self.at(key)} needs a list of texts for {key!r}.")
        return texts

    def checked_key(self, key: str, text: str) -> str:
        """A public key without its comment."""
        plain = " ".join(text.split()[:2])
        if KEY_PATTERN.fullmatch(plain) is None:
            raise InvalidInput(f"{self.at(key)}: {key} holds no OpenSSH public key: {text!r:.60}.")
        return plain

    def table(self, key: str) -> _Table:
        if key not in self.data:
            raise InvalidInput(f"{self.where} needs the table [{key}].")
        return _Table(self.take(key, dict, {}), self._file, self._lines, key)

    def close(self) -> None:
        unknown = sorted(set(self.data) - self._asked)
        if unknown:
            raise InvalidInput(f"{self.at(unknown[0])} has an unknown key {unknown[0]!r:.60}.")


_KINDS = {
    str: "text",
    int: "whole number",
    bool: "true or false",
    list: "list of texts",
    dict: "table",
}

"""JSON encoding and strict decoding of the protocol's messages: one line each.

Standard library only, Python 3.10 or newer.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterable, Mapping
from typing import TypeVar, cast

from lib.errors import InvalidInput, ProtocolError, SceneBridgeError, from_code
from lib.model import StrEnum

T = TypeVar("T")


def encode(message: object) -> bytes:
    """One line of JSON, newline included."""
    return json.dumps(_plain(message), separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def decode(cls: type[T], line: bytes | str, *, newer: bool = False) -> T:
    """Read one message strictly: unknown fields, missing fields and wrong types are errors.

    Args:
        newer: unknown fields are left out instead. The portal reads a gate's answers so,
            because a gate may be upgraded before its portal; a gate never reads requests so.
    Raises:
        InvalidInput: the text is not such a message.
    """
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(f"not JSON: {exc}") from exc
    return from_plain(cls, data, newer=newer)


def from_plain(cls: type[T], data: object, *, newer: bool = False) -> T:
    """Build the dataclass `cls` from parsed JSON. Arguments and errors as in `decode`."""
    return cast(T, _build(cls, data, cls.__name__, newer))


def reply_line(result: object) -> bytes:
    """A successful reply."""
    return encode({"ok": True, "result": _plain(result)})


def error_line(error: SceneBridgeError) -> bytes:
    """A refusal or failure as a reply."""
    return encode({"ok": False, "error": {"code": error.code, "message": error.message}})


def read_reply(cls: type[T], line: bytes) -> T:
    """The result of a reply, or the error it carries.

    Raises:
        SceneBridgeError: of the kind that the gate reported.
        ProtocolError: the line is no reply.
    """
    try:
        data = json.loads(line)
        if data["ok"] is True:
            return from_plain(cls, data["result"], newer=True)
        error = data["error"]
        raised = from_code(str(error["code"]), str(error["message"]))
    except (ValueError, KeyError, TypeError, InvalidInput, RecursionError) as exc:
        raise ProtocolError("The gate sent an answer that is not understood.") from exc
    raise raised


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _build(kind: object, data: object, where: str, newer: bool) -> object:
    origin = typing.get_origin(kind)
    if kind is object:  # JSON of any kind; `JsonValue` is `object` here
        return data
    if origin in (typing.Union, types.UnionType):
        if data is None:
            return None
        inner = next(a for a in typing.get_args(kind) if a is not type(None))
        return _build(inner, data, where, newer)
    if origin is list:
        if not isinstance(data, list):
            raise InvalidInput(f"{where} must be a list")
        (inner,) = typing.get_args(kind)
        return [_build(inner, v, f"{where}[{i}]", newer) for i, v in enumerate(data)]
    if origin is dict:
        if not isinstance(data, dict):
            raise InvalidInput(f"{where} must be an object")
        _, inner = typing.get_args(kind)
        return {k: _build(inner, v, f"{where}.{k}", newer) for k, v in data.items()}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, dataclasses.fields(kind), data, where, newer)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        try:
            return kind(data)
        except ValueError as exc:
            allowed = ", ".join(m.value for m in kind)
            raise InvalidInput(f"{where} must be one of: {allowed}") from exc
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if not isinstance(kind, type):
        raise TypeError(f"{where}: messages have no fields of {kind}")
    if not isinstance(data, kind) or (kind is int and isinstance(data, bool)):
        raise InvalidInput(f"{where} must be {_JSON_NAMES.get(kind, kind.__name__)}")
    return data


_JSON_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _build_dataclass(
    kind: type[object],
    fields: Iterable[dataclasses.Field[object]],
    data: object,
    where: str,
    newer: bool,
) -> object:
    if not isinstance(data, dict):
        raise InvalidInput(f"{where} must be an object")
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in fields}
    unknown = sorted(set(data) - set(known))
    if unknown and not newer:
        raise InvalidInput(f"{where} has an unknown field {unknown[0]!r:.60}")
    values = {}
    for name, spec in known.items():
        if name in data:
            values[name] = _build(hints[name], data[name], f"{where}.{name}", newer)
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise InvalidInput(f"{where} lacks the field {name!r}")
    return kind(**values)

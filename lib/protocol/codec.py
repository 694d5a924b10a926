"""JSON encoding and strict decoding of the protocol's messages: one line each.

Every field has its bound in its type (`lib.model.bounds`), and whatever is out of it is
refused here, with the name of the field. A field without a bound is decoded by nobody.

Standard library only, Python 3.10 or newer.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Hashable, Mapping, Sequence
from typing import Annotated, TypeVar, cast

from lib.errors import InvalidInput, ProtocolError, SceneBridgeError, from_code
from lib.model import StrEnum
from lib.model.bounds import (
    CheckedByReader,
    Json,
    LeftOut,
    Name,
    RowByRow,
    Sentence,
    UpTo,
    Within,
    outside,
    plain,
    wrong_text,
)
from lib.model.json_value import JsonValue

T = TypeVar("T")

#: The field in which a message says what of its lists was left out (`RowByRow`). Each side
#: fills it in for itself: it is never on the wire.
LEFT_OUT = "left_out"


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
        error = from_plain(_Failure, data["error"], newer=True)
        raised = from_code(error.code, error.message)
    except InvalidInput as exc:
        raise ProtocolError(f"{_NOT_UNDERSTOOD}: {exc.message}.") from exc
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise ProtocolError(f"{_NOT_UNDERSTOOD}.") from exc
    raise raised


_NOT_UNDERSTOOD = "The gate sent an answer that is not understood"


@dataclasses.dataclass(frozen=True, slots=True)
class _Failure:
    """What a reply carries in place of a result."""

    code: Name
    message: Sentence


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: _plain(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if f.name != LEFT_OUT
        }
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


_Bounds = Sequence[object]


def _build(kind: object, data: object, where: str, newer: bool, bounds: _Bounds = ()) -> object:
    origin = typing.get_origin(kind)
    if origin is Annotated:
        inner, *bounds = typing.get_args(kind)
        return _build(inner, data, where, newer, bounds)
    if kind is object:  # JSON of any kind; `JsonValue` is `object` here
        return _json(data, where, bounds)
    if origin in (typing.Union, types.UnionType):
        if data is None:
            return None
        inner = next(a for a in typing.get_args(kind) if a is not type(None))
        return _build(inner, data, where, newer)
    if origin is list:
        (inner,) = typing.get_args(kind)
        rows = _list(data, where, bounds)
        return [_build(inner, v, f"{where}[{i}]", newer) for i, v in enumerate(rows)]
    if origin is dict:
        return _dict(kind, data, where, newer, bounds)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, data, where, newer)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        try:
            return kind(data)
        except ValueError as exc:
            allowed = ", ".join(m.value for m in kind)
            raise InvalidInput(f"{where} must be one of: {allowed}") from exc
    return _scalar(kind, data, where, bounds)


def _scalar(kind: object, data: object, where: str, bounds: _Bounds) -> object:
    if kind not in _JSON_NAMES:
        raise TypeError(f"{where}: messages have no fields of {kind}")
    fits = isinstance(data, (int, float)) if kind is float else isinstance(data, cast(type, kind))
    if not fits or (isinstance(data, bool) and kind is not bool):
        raise InvalidInput(f"{where} must be {_JSON_NAMES[kind]}")
    if isinstance(data, str):
        if problem := wrong_text(data, _bound(UpTo, bounds, where).most):
            raise InvalidInput(f"{where} {problem}")
    elif isinstance(data, (int, float)) and not isinstance(data, bool):
        number = _bound(Within, bounds, where)
        if not number.holds(data):
            raise InvalidInput(f"{where} must be {number}")
        return float(data) if kind is float else data
    return data


_JSON_NAMES: Mapping[object, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def _bound(kind: type[T], bounds: _Bounds, where: str) -> T:
    found = next((b for b in bounds if isinstance(b, kind)), None)
    if found is None:
        raise TypeError(f"{where}: its type says no bound ({kind.__name__})")
    return found


def _json(data: object, where: str, bounds: _Bounds) -> object:
    if not any(isinstance(b, CheckedByReader) for b in bounds):
        problem = outside(cast(JsonValue, data), _bound(Json, bounds, where), where)
        if problem:
            raise InvalidInput(problem)
    return data


def _list(data: object, where: str, bounds: _Bounds) -> Sequence[object]:
    if not isinstance(data, list):
        raise InvalidInput(f"{where} must be a list")
    most = _bound(UpTo, bounds, where).most
    if len(data) > most:
        raise InvalidInput(f"{where} must be a list of at most {most:,}")
    return data


def _dict(kind: object, data: object, where: str, newer: bool, bounds: _Bounds) -> object:
    if not isinstance(data, dict):
        raise InvalidInput(f"{where} must be an object")
    _, inner = typing.get_args(kind)
    if inner is object:
        return _json(data, where, bounds)
    most = _bound(UpTo, bounds, where).most
    if len(data) > most:
        raise InvalidInput(f"{where} must have at most {most:,} entries")
    return {k: _build(inner, v, f"{where}.{plain(k[:40])}", newer) for k, v in data.items()}


@functools.cache
def _fields(kind: Hashable) -> Mapping[str, tuple[object, bool, bool]]:
    """(type, whether it must be there, whether it is read row by row) of each field."""
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        raise TypeError(f"{kind} is no message")
    hints = typing.get_type_hints(kind, include_extras=True)
    missing = dataclasses.MISSING
    return {
        f.name: (
            hints[f.name],
            f.default is missing and f.default_factory is missing,
            any(isinstance(b, RowByRow) for b in typing.get_args(hints[f.name])),
        )
        for f in dataclasses.fields(kind)
        if f.name != LEFT_OUT
    }


def _build_dataclass(kind: type[object], data: object, where: str, newer: bool) -> object:
    if not isinstance(data, dict):
        raise InvalidInput(f"{where} must be an object")
    known = _fields(cast(Hashable, kind))
    unknown = sorted(set(data) - set(known))
    if unknown and not newer:
        raise InvalidInput(f"{where} has an unknown field {unknown[0]!r:.60}")
    values: dict[str, object] = {}
    left_out: list[LeftOut] = []
    for name, (hint, needed, row_by_row) in known.items():
        if name in data and row_by_row:
            values[name] = _rows(hint, data[name], f"{where}.{name}", newer, left_out)
        elif name in data:
            values[name] = _build(hint, data[name], f"{where}.{name}", newer)
        elif needed:
            raise InvalidInput(f"{where} lacks the field {name!r}")
    if left_out:
        values[LEFT_OUT] = left_out
    return kind(**values)


def _rows(
    hint: object, data: object, where: str, newer: bool, left_out: list[LeftOut]
) -> list[object]:
    """The rows of a list that are within bounds; the others become `left_out`."""
    kind, *bounds = typing.get_args(hint)
    (inner,) = typing.get_args(kind)
    found = []
    for number, row in enumerate(_list(data, where, bounds)):
        try:
            found.append(_build(inner, row, f"{where}[{number}]", newer))
        except InvalidInput as exc:
            left_out.append(LeftOut(_id_of(row), exc.message))
    return found


def _id_of(row: object) -> str:
    told = (row.get("id") or row.get("name")) if isinstance(row, dict) else ""
    return told if isinstance(told, str) and not wrong_text(told, 120) else ""

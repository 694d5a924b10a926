"""What a gate could say that no gate would: every field of every message at its extremes.

`places` finds the fields by the types of the messages, so that none can be forgotten.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import re
import time
import types
import typing
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Annotated, Any

from lib.errors import ClusterUnreachable, NotFound, SceneBridgeError
from lib.model import Endpoint, Preset, QueueLoad, SessionId, StrEnum
from lib.model.bounds import UpTo, Within
from lib.protocol.codec import LEFT_OUT, read_reply
from lib.protocol.messages import (
    CancelReply,
    GateInfo,
    GetRequest,
    JobStatus,
    LogReply,
    LogRequest,
    ModuleOffer,
    PutReply,
    PutRequest,
    SubmitReply,
    SubmitRequest,
    WatchMessage,
)
from lib.tunnels.link import watch_message as read_watch_message

#: Stand for what `json.dumps` does not write.
_RAW = {
    '"@digits@"': "9" * 5000,
    '"@long@"': f'"{"x" * 2**19}"',
    '"@deep@"': "[" * 5000 + "]" * 5000,
    '"@endless@"': "1e999",
    '"@many@"': f"[{'true,' * 59_999}true]",
}
_STANDS_FOR = re.compile("|".join(_RAW))
#: Of no field, whatever it is, but for the longest texts (`beyond`); `None` may be one where there
#: is nothing to say.
OUTRAGEOUS: tuple[Any, ...] = (
    10**400, -(10**400), "@digits@", "@deep@", "@endless@", float("nan"), float("-inf"), 1e308,
    -1e308, 2**63, "@long@", "\ud800", {"a": [[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]}, "@many@",
)  # fmt: skip
#: May be in bounds.
ODD: tuple[Any, ...] = (
    0, -1, 0.5, True, "", "\x00\x1b]0;x\x07", "<b>&\u202e", "../../x", [], {}, None,
)  # fmt: skip

Path = tuple[str | int, ...]

ENDPOINT = {f.name: "x" for f in dataclasses.fields(Endpoint)}


def gate_info(**more: Any) -> dict[str, Any]:
    """What an honest gate says of itself, all of it."""
    return {
        "protocol": 1, "gate_version": "1", "cluster": "here", "scheduler": "slurm",
        "runtime": "process", "isolation": "none",
        "modules": [plain(ModuleOffer("active-fire", "1.0.0"))],
        "presets": [plain(Preset("small", "Small", 1, 1000, 0, 7200, 3600))],
        "data_paths": ["/data"], "https_hosts": ["example.org"], "max_live": 4, "live": 1,
        "keep_s": 86400, "time": time.time(), "account": "u1", "node": "login1",
        "load": [plain(QueueLoad("cpu", 2, 1, 8, 4, 0, 0, 0, 3600))],
        "load_at": time.time(), "troubles": ["The image of ships is missing."], **more,
    }  # fmt: skip


def job_status(job_id: str, **more: Any) -> dict[str, Any]:
    """What an honest gate says of a notebook that runs, all of it."""
    now = time.time()
    return {
        "id": job_id, "kind": "session", "job": "17", "state": "running", "owner": "bob",
        "reason": "It runs.", "end_reason": None, "exit_code": None, "submitted_at": now - 9,
        "started_at": now - 8, "endpoint_at": now - 7, "ends_at": now + 3600, "ended_at": None,
        "keep_until": None, "events": 0, "endpoint": {**ENDPOINT, "name": f"s-{job_id}"},
        "module_exit_code": None, "module_message": "", "starts_at": None, **more,
    }  # fmt: skip


def watch_message(*jobs: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A snapshot of these jobs."""
    return {
        "kind": "snapshot", "time": time.time(), "jobs": [*jobs], "id": "", "first": 0,
        "events": [], "asked_ok": True, "reason": "", **more,
    }  # fmt: skip


def plain(message: Any) -> dict[str, Any]:
    return dataclasses.asdict(message)


def line(value: Any) -> bytes:
    """As a gate would write it, with numbers and depths that `json.dumps` refuses."""
    text = _STANDS_FOR.sub(lambda found: _RAW[found[0]], json.dumps(value))
    return text.encode() + b"\n"


def places(kind: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """(where, type) of every value in a message: its fields, and those of the first entry
    of its lists."""
    hint, _ = unwrapped(kind)
    if path:
        yield path, kind
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint, include_extras=True)
        for field in dataclasses.fields(hint):
            if field.name != LEFT_OUT:
                yield from places(hints[field.name], (*path, field.name))
    elif typing.get_origin(hint) is list:
        yield from places(typing.get_args(hint)[0], (*path, 0))


def unwrapped(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """(type, bounds), without `None` and `Annotated`."""
    bounds: tuple[Any, ...] = ()
    while True:
        if typing.get_origin(kind) is Annotated:
            kind, *more = typing.get_args(kind)
            bounds += tuple(more)
        elif typing.get_origin(kind) in (typing.Union, types.UnionType):
            kind = next(a for a in typing.get_args(kind) if a is not type(None))
        else:
            return kind, bounds


def honest(kind: Any) -> Any:
    """A message of that type within all bounds, as JSON; every list has an entry."""
    hint, bounds = unwrapped(kind)
    origin = typing.get_origin(hint)
    if origin is list:
        return [honest(typing.get_args(hint)[0])]
    if origin is dict:
        return {}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint, include_extras=True)
        names = [f.name for f in dataclasses.fields(hint) if f.name != LEFT_OUT]
        return {name: honest(hints[name]) for name in names}
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return next(iter(hint)).value
    low = next((int(b.low) for b in bounds if isinstance(b, Within)), 0)
    values: dict[Any, Any] = {str: "x", bool: True, int: low, float: low}
    return values.get(hint)


def edges(kind: Any) -> list[Any]:
    """The extremes that the type of a field allows, and the first beyond them."""
    hint, bounds = unwrapped(kind)
    found: list[Any] = []
    for bound in bounds:
        if isinstance(bound, Within):
            low, high = int(bound.low), int(bound.high)
            found += [low, high]
        elif isinstance(bound, UpTo) and hint is str:
            found.append("W" * bound.most)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        found += [word.value for word in hint]
    return found + beyond(kind)


def beyond(kind: Any) -> list[Any]:
    """The first values outside of the bound of a number or text."""
    hint, bounds = unwrapped(kind)
    found: list[Any] = []
    for bound in bounds:
        if isinstance(bound, Within):
            found += [int(bound.low) - 1, int(bound.high) + 1]
        elif isinstance(bound, UpTo) and hint is str:
            found.append("W" * (bound.most + 1))
    return found


def put(message: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """The message with this value in that place; unchanged where there is no such place."""
    changed = copy.deepcopy(message)
    place: Any = changed
    for step in path[:-1]:
        if isinstance(place, list) and step == 0 and not place:
            return changed
        place = place[step]
        if place is None:
            return changed
    if isinstance(place, dict) or (isinstance(place, list) and place):
        place[path[-1]] = value
    return changed


#: Every place of what a gate says by itself, and its type.
INFO_PLACES = list(places(GateInfo))
STATUS_PLACES = list(places(JobStatus))
WATCH_PLACES = [(path, kind) for path, kind in places(WatchMessage) if path[:2] != ("jobs", 0)]


class LyingLink:
    """`lib.reconciler.interfaces.Link` to a gate that says whatever `tell` was given, read
    as `lib.tunnels.link` reads it."""

    def __init__(self) -> None:
        self._info = line(gate_info())
        self._lines: list[bytes] = []
        self._told = asyncio.Event()
        self._again = asyncio.Event()
        self.open: set[SessionId] = set()

    async def tell(self, info: dict[str, Any], *messages: dict[str, Any]) -> None:
        """Say this from the next connection on, and come back when it was taken or refused."""
        self._info, self._lines = line(info), [line(message) for message in messages]
        self._told.clear()
        self._again.set()
        await asyncio.wait_for(self._told.wait(), 300)

    async def ensure(self) -> None:
        if self._told.is_set():  # what was said is not said again and again
            await self._again.wait()
        self._again.clear()

    async def info(self) -> GateInfo:
        try:
            return read_reply(GateInfo, b'{"ok":true,"result":' + self._info + b"}")
        except SceneBridgeError:
            self._told.set()
            raise

    async def watch(self, have: Mapping[str, int]) -> AsyncGenerator[WatchMessage, None]:
        try:
            for said in self._lines:
                yield read_watch_message(said)
        finally:
            self._told.set()
        await self._again.wait()

    async def submit(self, r: SubmitRequest) -> SubmitReply:
        raise ClusterUnreachable("It does not answer.")

    async def cancel(self, job_id: str) -> CancelReply:
        raise ClusterUnreachable("It does not answer.")

    async def log(self, r: LogRequest) -> LogReply:
        raise ClusterUnreachable("It does not answer.")

    async def get(self, r: GetRequest, into: Any) -> int:
        raise NotFound("There is no such file.")

    async def put(self, r: PutRequest, source: Any) -> PutReply:
        raise ClusterUnreachable("It does not answer.")

    async def open_forward(self, session: SessionId) -> Any:
        raise ClusterUnreachable("It does not answer.")

    async def close_forward(self, session: SessionId) -> None:
        self.open.discard(session)

    async def forwards(self) -> frozenset[SessionId]:
        return frozenset(self.open)

    async def disconnect(self) -> None:
        self.open.clear()


def at_the_edge(message: dict[str, Any], kind: Any, *, high: bool) -> dict[str, Any]:
    """The message with every number and text as low and short, or as high and long, as its
    field takes."""
    for path, hint in places(kind):
        found = edges(hint)
        if len(found) > 1 and not isinstance(found[0], str):
            message = put(message, path, found[1] if high else found[0])
        elif found and unwrapped(hint)[0] is str:
            message = put(message, path, found[0] if high else "")
    return message

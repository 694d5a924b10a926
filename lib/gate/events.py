"""The module's events: taken out of `status.jsonl`, checked, and kept by the gate.

`status.jsonl` was written by an attacker. Each line that satisfies the schema (see
docs/architecture.md) is rebuilt from known fields and appended to `control/events.jsonl`
with the offset it came from; all else is counted and dropped. A restarted gate goes on
from the last offset, so no event is lost or sent twice.
"""

from __future__ import annotations

import json
import math
import os
import threading
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lib.errors import NotFound, Refused
from lib.gate.safe_open import open_file
from lib.protocol.events import MAX_EVENT_BYTES, MAX_EVENTS

_CHUNK_BYTES = 1024 * 1024
_MAX_FILE_BYTES = 8 * 2**30
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_TEXT = 500
_DEPTH, _KEYS, _ITEMS = 4, 60, 200


class NotAnEvent(ValueError):
    """The line is rubbish."""


class EventLog:
    """The events of one job.

    Args:
        control: the gate's half of the session folder.
        source: the `work` folder and the names below it that lead to `status.jsonl`.
        scenes: the scenes that were submitted; events about others are rubbish.
    """

    def __init__(self, control: Path, source: tuple[Path, str], scenes: frozenset[str]) -> None:
        self._path = control / "events.jsonl"
        self._work, self._out = source
        self._scenes = scenes
        self._starts = array("Q")  # byte offset of each event in our file
        self._end = 0
        self._offset = 0
        self._inode = 0
        self._skipping = False
        self._read_to: tuple[int, ...] = ()
        self._lock = threading.Lock()
        self.dropped = 0
        self.trouble = ""
        self._load()

    def __len__(self) -> int:
        return len(self._starts)

    def take(self, *, chunks: int = 8) -> bool:
        """Read what the module has added. Returns whether there are new events.

        Reads at most so many pieces of 1 MiB; never raises for what the file holds.
        """
        before = len(self)
        mark = self._mark()
        if mark == self._read_to:
            return False
        while chunks > 0 and not self.trouble:
            if not self._take_chunk():
                self._read_to = mark
                break
            chunks -= 1
        return len(self) > before

    def _mark(self) -> tuple[int, ...]:
        """Changes when the file does. Only a hint to look: nothing is opened here."""
        try:
            info = os.lstat(self._work / self._out / "status.jsonl")
        except OSError:
            return (0,)
        return (info.st_ino, info.st_size, info.st_mtime_ns)

    def read(self, first: int, count: int) -> list[dict[str, Any]]:
        """Events number `first` (from 0) and following, at most `count`."""
        with self._lock:  # events are taken in another thread
            if first >= len(self):
                return []
            last = min(first + count, len(self))
            start = self._starts[first]
            end = self._starts[last] if last < len(self) else self._end
        with self._path.open("rb") as file:
            file.seek(start)
            lines = file.read(end - start).splitlines()
        return [json.loads(line)["e"] for line in lines]

    def note(self) -> str:
        """One sentence about what was dropped, or ""."""
        if self.trouble:
            return self.trouble
        if self.dropped:
            return f"The module wrote {self.dropped} status lines that are not understood."
        return ""

    def _load(self) -> None:
        """Continue from our own file; a last line cut by a crash is cut off."""
        if not self._path.exists():
            return
        last = b""
        with self._path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._starts.append(self._end)
                self._end += len(line)
                last = line
        if last:
            entry = json.loads(last)
            self._offset, self._inode, self.dropped = entry["o"], entry["i"], entry["d"]
        os.truncate(self._path, self._end)

    def _take_chunk(self) -> bool:
        """Returns whether there may be more. On `OSError` (a full disk) nothing is taken."""
        before = (self._offset, self._inode, self._skipping, self.dropped)
        try:
            return self._read_chunk()
        except OSError:
            self._offset, self._inode, self._skipping, self.dropped = before
            os.truncate(self._path, self._end)
            raise

    def _read_chunk(self) -> bool:
        try:
            file = open_file(self._work, (self._out, "status.jsonl"), max_bytes=_MAX_FILE_BYTES)
        except NotFound:
            return False
        except Refused:
            self.trouble = "The module's status file is not a plain file; it is not read."
            return False
        try:
            if file.size < self._offset or self._inode not in (0, file.inode):
                self.trouble = "The module's status file was rewritten; it is no longer read."
                return False
            self._inode = file.inode
            data = os.pread(file.fd, _CHUNK_BYTES, self._offset)
        finally:
            os.close(file.fd)
        return self._split(data)

    def _split(self, data: bytes) -> bool:
        whole = data[: data.rfind(b"\n") + 1]
        rest = len(data) - len(whole)
        new = []
        for line in whole.splitlines(keepends=True):
            self._offset += len(line)
            event = None if self._skipping else self._checked(line)
            self._skipping = False
            if event is not None:
                new.append(event)
        if rest > MAX_EVENT_BYTES:  # a line without end: let it pass by
            self.dropped += not self._skipping
            self._skipping = True
            self._offset += rest
        self._append(new)
        return len(data) == _CHUNK_BYTES

    def _checked(self, line: bytes) -> tuple[int, dict[str, Any]] | None:
        if not line.strip():
            return None
        try:
            if len(line) > MAX_EVENT_BYTES or len(self) >= MAX_EVENTS:
                raise NotAnEvent
            return self._offset, read_event(line, self._scenes)
        except NotAnEvent:
            self.dropped += 1
            return None

    def _append(self, events: list[tuple[int, dict[str, Any]]]) -> None:
        if not events:
            return
        events = events[: MAX_EVENTS - len(self)]
        out = bytearray()
        starts = []
        for offset, event in events:
            starts.append(self._end + len(out))
            entry = {"o": offset, "i": self._inode, "d": self.dropped, "e": event}
            out += json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        fd = os.open(self._path, _APPEND, 0o600)
        with os.fdopen(fd, "ab") as file:
            file.write(out)
        with self._lock:
            self._starts.extend(starts)
            self._end += len(out)


def read_event(line: bytes, scenes: frozenset[str]) -> dict[str, Any]:
    """One event, rebuilt from its known fields.

    Raises:
        NotAnEvent: anything else.
    """
    try:
        data = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise NotAnEvent from exc
    kind = data.get("event") if isinstance(data, dict) else None
    fields = _EVENTS.get(kind) if isinstance(kind, str) else None
    if fields is None:
        raise NotAnEvent
    event = {"event": data["event"], "time": _number(0, 1e11)(data.get("time"))}
    for name, read in fields.items():
        if name == "scene":
            event[name] = _scene(data.get(name), scenes)
        elif name == "scenes":
            event[name] = [_scene(s, scenes) for s in _list(len(scenes))(data.get(name))]
        else:
            event[name] = read(data.get(name))
    return event


def _no_constant(name: str) -> Any:
    raise NotAnEvent(name)


def _scene(value: Any, scenes: frozenset[str]) -> str:
    if not isinstance(value, str) or value not in scenes:
        raise NotAnEvent
    return value


def _text(longest: int) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise NotAnEvent
        return "".join(c for c in value if c.isprintable())[:longest]

    return read


def _number(low: float, high: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise NotAnEvent
        if not low <= value <= high:  # false for NaN, and for integers of any length
            raise NotAnEvent
        return float(value)

    return read


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise NotAnEvent
        return value

    return read


def _list(longest: int) -> Callable[[Any], list[Any]]:
    def read(value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) > longest:
            raise NotAnEvent
        return value

    return read


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise NotAnEvent
    return value


def _box(value: Any) -> list[float]:
    box = [_number(-360, 360)(v) for v in _list(4)(value)]
    if len(box) != 4:
        raise NotAnEvent
    return box


def _flags(value: Any) -> list[str]:
    return [_text(40)(v) for v in _list(32)([] if value is None else value)]


def _table(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = _small({} if value is None else value, _DEPTH)
    if not isinstance(found, dict):
        raise NotAnEvent
    return found


def _small(value: Any, depth: int) -> Any:
    """JSON of bounded depth and width, with finite numbers."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(_TEXT)(value)
    if isinstance(value, int):
        return _whole(-(2**53), 2**53)(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NotAnEvent
        return value
    if depth > 0 and isinstance(value, list) and len(value) <= _ITEMS:
        return [_small(v, depth - 1) for v in value]
    if depth > 0 and isinstance(value, dict) and len(value) <= _KEYS:
        return {_text(80)(k): _small(v, depth - 1) for k, v in value.items()}
    raise NotAnEvent


_COUNT = _whole(0, 10**9)
_SCENE = _text(120)
_EVENTS: Mapping[str, Mapping[str, Callable[[Any], Any]]] = {
    "run_started": {
        "format": _whole(1, 1),
        "module": _text(40),
        "version": _text(40),
        "scenes": _list(0),
    },
    "scene_started": {"scene": _SCENE},
    "progress": {"scene": _SCENE, "fraction": _number(0, 1)},
    "object": {
        "scene": _SCENE,
        "n": _whole(1, 10**6),
        "class": _text(40),
        "score": _number(0, 1),
        "lon": _number(-180, 180),
        "lat": _number(-90, 90),
        "bbox": _box,
        "pixels": _COUNT,
        "area_m2": _number(0, 1e15),
        "chip": _truth,
        "flags": _flags,
        "properties": _table,
    },
    "scene_done": {"scene": _SCENE, "objects": _COUNT, "shown": _COUNT, "searched": _table},
    "scene_failed": {"scene": _SCENE, "message": _text(_TEXT)},
    "run_done": {"objects": _COUNT, "failed": _COUNT},
}

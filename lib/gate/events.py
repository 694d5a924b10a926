"""The module's events: taken out of `status.jsonl`, checked, and kept by the gate.

`status.jsonl` was written by an attacker. Each line that satisfies the schema
(`lib.protocol.events`) is rebuilt from known fields and appended to `control/events.jsonl`
with the position that it came from; all else is counted and dropped. Where the last line read
was none, the position is in `control/events.position.json`. A restarted gate goes on from
there, so nothing is lost, sent or read twice; and no job is read beyond its budget of lines and
bytes.
"""

from __future__ import annotations

import json
import os
import threading
import time
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

from lib.errors import InvalidInput, NotFound, Refused
from lib.files.atomic import read_json, write_json
from lib.gate.safe_open import open_file
from lib.model import JsonValue
from lib.model.bounds import Sentence, Within
from lib.protocol.codec import from_plain
from lib.protocol.events import (
    MAX_EVENT_BYTES,
    MAX_EVENTS,
    MAX_LINES,
    MAX_STATUS_BYTES,
    parse_line,
    plain,
)

_CHUNK_BYTES = 64 * 1024
_BREATH_LINES = 50
_ANY_SIZE = 2**63
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_SPOILT = "What was kept of this module's status is damaged; nothing more is read."
_TOO_MUCH = "This module wrote more than can be read; what it told after that is not shown."


@dataclass(frozen=True, slots=True)
class _Position:
    """How far `status.jsonl` was read.

    Args:
        offset, lines: what lies behind.
        inode: of the file; 0 before there was one.
        skipping: in the middle of a line that is too long.
        trouble: why nothing more is read; "" while it is.
    """

    offset: Annotated[int, Within(0, 2**63)] = 0
    inode: Annotated[int, Within(0, 2**64)] = 0
    lines: Annotated[int, Within(0, 2**63)] = 0
    dropped: Annotated[int, Within(0, 2**63)] = 0
    skipping: bool = False
    trouble: Sentence = ""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A position, and how long our file of events was then; -1 where none was kept."""

    end: Annotated[int, Within(-1, 2**63)] = -1
    at: _Position = field(default_factory=_Position)


class EventLog:
    """The events of one job.

    Args:
        control: the gate's half of the session folder.
        source: the `work` folder and the names below it that lead to `status.jsonl`.
        scenes: the scenes that were submitted; events about others are rubbish.
    """

    def __init__(self, control: Path, source: tuple[Path, str], scenes: frozenset[str]) -> None:
        self._path = control / "events.jsonl"
        self._position_path = control / "events.position.json"
        self._work, self._out = source
        self._scenes = scenes
        self._starts = array("Q")  # byte offset of each event in our file
        self._end = 0
        self._at = _Position()
        self._unsaved = False
        self._read_to: tuple[int, ...] = ()
        self._lock = threading.Lock()
        try:
            self._load()
        except (ValueError, LookupError, TypeError, InvalidInput):
            self.give_up(_SPOILT)

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def dropped(self) -> int:
        """How many lines were no events."""
        return self._at.dropped

    @property
    def trouble(self) -> str:
        """Why nothing more is read; "" while it is."""
        return self._at.trouble

    def take_piece(self) -> bool:
        """Read a piece of what the module has added. Returns whether there may be more.

        Never raises for what the file holds. On `OSError` (a full disk) nothing is lost.
        """
        self._save_position()
        mark = self._mark()
        if mark == self._read_to or self.trouble:
            return False
        if self._take_chunk():
            return True
        self._read_to = mark
        return False

    def take(self) -> bool:
        """Read to the end, as `take_piece`. Returns whether there are new events."""
        before = len(self)
        while self.take_piece():
            pass
        return len(self) > before

    def give_up(self, why: str) -> None:
        """Read nothing more, for this reason."""
        self._at = replace(self._at, trouble=why)

    def _mark(self) -> tuple[int, ...]:
        """Changes when the file does. Only a hint to look: nothing is opened here."""
        try:
            info = os.lstat(self._work / self._out / "status.jsonl")
        except OSError:
            return (0,)
        return (info.st_ino, info.st_size, info.st_mtime_ns)

    def read(self, first: int, count: int) -> list[dict[str, JsonValue]]:
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
        """Continue from our own files; a last line cut by a crash is cut off."""
        last = b""
        if self._path.exists():
            with self._path.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._starts.append(self._end)
                    self._end += len(line)
                    last = line
            os.truncate(self._path, self._end)
        if last:
            entry = json.loads(last)
            if not isinstance(entry, dict):
                raise ValueError("The last event is none.")
            lines = entry.get("l", len(self) + entry["d"])  # older gates did not count them
            at = {"offset": entry["o"], "inode": entry["i"], "lines": lines, "dropped": entry["d"]}
            self._at = from_plain(_Position, at)
        data = read_json(self._position_path)
        kept = _Kept() if data is None else from_plain(_Kept, data)
        # Older than the last event, or of events that are gone: the event's own counts.
        if kept.end == self._end and kept.at.offset >= self._at.offset:
            self._at = kept.at

    def _take_chunk(self) -> bool:
        """Returns whether there may be more. On `OSError` nothing is taken, or all of it."""
        before = self._at
        try:
            more, events = self._read_chunk()
            self._append(events)
        except OSError:
            self._at = before
            raise
        told = events[-1][0].offset if events else before.offset
        self._unsaved = self._at.offset != told or bool(self._at.trouble)
        self._save_position()
        return more

    def _save_position(self) -> None:
        """Write it where the last event does not tell it."""
        if self._unsaved:
            write_json(self._position_path, asdict(_Kept(self._end, self._at)))
            self._unsaved = False

    def _read_chunk(self) -> tuple[bool, list[tuple[_Position, dict[str, JsonValue]]]]:
        parts = (self._out, "status.jsonl")
        try:
            file = open_file(self._work, parts, max_bytes=_ANY_SIZE)
        except NotFound:
            return False, []
        except Refused:
            self.give_up("The module's status file is not a plain file; it is not read.")
            return False, []
        try:
            if file.size < self._at.offset or self._at.inode not in (0, file.inode):
                self.give_up("The module's status file was rewritten; it is no longer read.")
                return False, []
            data = os.pread(file.fd, _CHUNK_BYTES, self._at.offset)
        finally:
            os.close(file.fd)
        self._at = replace(self._at, inode=file.inode)
        events = list(self._events_in(data))
        return len(data) == _CHUNK_BYTES and not self.trouble, events

    def _events_in(self, data: bytes) -> Iterator[tuple[_Position, dict[str, JsonValue]]]:
        """The events among these bytes, each with the position behind it."""
        whole = data[: data.rfind(b"\n") + 1]
        rest = len(data) - len(whole)
        at, before = self._at, len(self)
        found = 0
        for line in whole.splitlines(keepends=True):
            if at.lines % _BREATH_LINES == 0:
                time.sleep(0)  # whoever waits for the interpreter gets it now, not in 5 ms
            room = before + found < MAX_EVENTS and at.lines < MAX_LINES
            if not room or at.offset + len(line) > MAX_STATUS_BYTES:
                self._at = replace(at, trouble=_TOO_MUCH)
                return
            event = None if at.skipping else self._checked(line)
            rubbish = event is None and not at.skipping and bool(line.strip())
            at = _Position(at.offset + len(line), at.inode, at.lines + 1, at.dropped + rubbish)
            if event is not None:
                found += 1
                yield at, event
        if rest > MAX_EVENT_BYTES:  # a line without end: let it pass by
            dropped = at.dropped + (not at.skipping)
            at = replace(at, offset=at.offset + rest, dropped=dropped, skipping=True)
            if at.offset > MAX_STATUS_BYTES:
                at = replace(at, trouble=_TOO_MUCH)
        self._at = at

    def _checked(self, line: bytes) -> dict[str, JsonValue] | None:
        try:
            return plain(parse_line(line, self._scenes)) if line.strip() else None
        except InvalidInput:
            return None

    def _append(self, events: list[tuple[_Position, dict[str, JsonValue]]]) -> None:
        if not events:
            return
        out = bytearray()
        starts = []
        for at, event in events:
            starts.append(self._end + len(out))
            entry = {"o": at.offset, "i": at.inode, "d": at.dropped, "l": at.lines, "e": event}
            out += json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        try:
            fd = os.open(self._path, _APPEND, 0o600)
            with os.fdopen(fd, "ab") as file:
                file.write(out)
        except OSError:
            os.truncate(self._path, self._end)
            raise
        with self._lock:
            self._starts.extend(starts)
            self._end += len(out)

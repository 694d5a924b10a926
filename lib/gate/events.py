"""The module's events: taken out of `status.jsonl`, checked, and kept by the gate.

`status.jsonl` was written by an attacker. Each line that satisfies the schema
(`lib.protocol.events`) is rebuilt from known fields and appended to `control/events.jsonl`
with the offset it came from; all else is counted and dropped. A restarted gate goes on
from the last offset, so no event is lost or sent twice.
"""

from __future__ import annotations

import json
import os
import threading
from array import array
from pathlib import Path

from lib.errors import InvalidInput, NotFound, Refused
from lib.gate.safe_open import open_file
from lib.model import JsonValue
from lib.protocol.events import MAX_EVENT_BYTES, MAX_EVENTS, parse_line, plain

_CHUNK_BYTES = 1024 * 1024
_MAX_FILE_BYTES = 8 * 2**30
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


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

    def _checked(self, line: bytes) -> tuple[int, dict[str, JsonValue]] | None:
        if not line.strip():
            return None
        try:
            if len(self) >= MAX_EVENTS:
                raise InvalidInput(f"The module tells more than {MAX_EVENTS:,} events.")
            return self._offset, plain(parse_line(line, self._scenes))
        except InvalidInput:
            self.dropped += 1
            return None

    def _append(self, events: list[tuple[int, dict[str, JsonValue]]]) -> None:
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

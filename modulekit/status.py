"""The event stream of a run: `status.jsonl`, one JSON object per line.

Readers follow the file while it grows, so each event is one `write` of a whole line,
flushed at once. docs/architecture.md lists the events.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from modulekit.files import writing
from modulekit.json_value import JsonObject, JsonValue

FORMAT = 1
#: Progress is told at most this often.
PROGRESS_EVERY_S = 0.2


class Status:
    """Writes the events of one run. Starts an empty file; the caller closes it.

    Every method raises DiskFull or UsageError as `modulekit.files.writing` does.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last_progress = 0.0
        with writing(path):
            path.unlink(missing_ok=True)
            self._file: TextIO = path.open("x", encoding="utf-8")

    def run_started(self, module: str, version: str, scenes: Sequence[str]) -> None:
        self._write(
            "run_started", format=FORMAT, module=module, version=version, scenes=list(scenes)
        )

    def scene_started(self, scene: str) -> None:
        self._write("scene_started", scene=scene)

    def progress(self, scene: str, fraction: float) -> None:
        """Tell how much of a scene is done (0..1); too frequent calls write nothing."""
        now = time.monotonic()
        if now - self._last_progress < PROGRESS_EVERY_S:
            return
        self._last_progress = now
        self._write("progress", scene=scene, fraction=round(min(max(fraction, 0.0), 1.0), 4))

    def found(self, scene: str, event: JsonObject) -> None:
        """Tell one object; `event` holds the fields of an `object` event."""
        self._write("object", scene=scene, **event)

    def scene_done(self, scene: str, objects: int, shown: int, searched: JsonObject) -> None:
        self._write("scene_done", scene=scene, objects=objects, shown=shown, searched=searched)

    def scene_failed(self, scene: str, message: str) -> None:
        self._write("scene_failed", scene=scene, message=message)

    def run_done(self, objects: int, failed: int) -> None:
        self._write("run_done", objects=objects, failed=failed)

    def close(self) -> None:
        self._file.close()

    def _write(self, event: str, **fields: JsonValue) -> None:
        record = {"event": event, **fields, "time": round(time.time(), 3)}
        line = json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n"
        with writing(self._path):
            self._file.write(line)
            self._file.flush()

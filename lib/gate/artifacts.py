"""Read artifacts and logs of a job: by kind, never by path.

The portal names a kind, a submitted scene and a number; the gate alone makes the path
from them, and opens it as something an attacker wrote.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping

from lib.errors import Conflict, InvalidInput, NotFound, Refused
from lib.gate.job_record import JobRecord, SessionFolders
from lib.gate.safe_open import OpenFile, open_file
from lib.jobs import control_files
from lib.protocol.messages import (
    MAX_GET_BYTES,
    MAX_LOG_BYTES,
    ArtifactKind,
    GetRequest,
    LogKind,
    LogReply,
    LogRequest,
)

_MB = 2**20
_PIECE_BYTES = 256 * 1024
_MAX_CHIP = 999_999
_LARGEST: Mapping[ArtifactKind, int] = {
    ArtifactKind.CATALOG: 16 * _MB,
    ArtifactKind.ITEM: 16 * _MB,
    ArtifactKind.DETECTIONS: 512 * _MB,
    ArtifactKind.MASK: MAX_GET_BYTES,
    ArtifactKind.OVERVIEW: 32 * _MB,
    ArtifactKind.SCENE_LOG: 32 * _MB,
    ArtifactKind.CHIP: 2 * _MB,
}
_IN_SCENE: Mapping[ArtifactKind, str] = {
    ArtifactKind.DETECTIONS: "detections.geojson",
    ArtifactKind.MASK: "mask.tif",
    ArtifactKind.OVERVIEW: "overview.webp",
    ArtifactKind.SCENE_LOG: "log.txt",
}
_LOGS: Mapping[LogKind, str] = {
    LogKind.JOB: control_files.JOB_LOG,
    LogKind.MODULE: control_files.MODULE_LOG,
    LogKind.NOTEBOOK: control_files.NOTEBOOK_LOG,
}
_MAX_LOG_FILE_BYTES = 2**40


def open_artifact(request: GetRequest, record: JobRecord, folders: SessionFolders) -> OpenFile:
    """Open what is asked for; the caller closes it.

    Raises:
        NotFound: not written (yet), or not one of the job's scenes.
        Refused: a link, no plain file, or larger than allowed.
    """
    parts = (record.out, *_parts(request, record))
    largest = min(max(request.max_bytes, 0), _LARGEST[request.artifact])
    return open_file(folders.work(record), parts, max_bytes=largest)


async def pieces(file: OpenFile) -> AsyncIterator[bytes]:
    """The first `size` bytes. Raises `Conflict` when the file has shrunk meanwhile."""
    offset = 0
    while offset < file.size:
        # In the page cache almost always: a thread per piece would cost more than it saves.
        piece = os.pread(file.fd, min(_PIECE_BYTES, file.size - offset), offset)
        if not piece:
            raise Conflict("The file changed while it was sent.")
        offset += len(piece)
        yield piece


def read_log(request: LogRequest, record: JobRecord, folders: SessionFolders) -> LogReply:
    """The end of a log as text; what is no text is replaced."""
    wanted = min(max(request.max_bytes, 0), MAX_LOG_BYTES)
    name = _LOGS[request.log]
    newer, more = _tail(record, folders, name, wanted)
    older, older_more = b"", False
    if not more and request.log is not LogKind.JOB:
        older, older_more = _tail(record, folders, f"{name}.1", wanted - len(newer))
    return LogReply((older + newer).decode("utf-8", "replace"), truncated=more or older_more)


def _parts(request: GetRequest, record: JobRecord) -> tuple[str, ...]:
    if request.artifact is ArtifactKind.CATALOG:
        return ("catalog.json",)
    if request.scene not in record.scenes:
        raise NotFound("That scene is not part of the job.")
    if request.artifact is ArtifactKind.ITEM:
        return (request.scene, f"{request.scene}.json")
    if request.artifact is ArtifactKind.CHIP:
        if not 1 <= request.n <= _MAX_CHIP:
            raise InvalidInput("Chips are numbered from 1.")
        return (request.scene, "chips", f"{request.n:04d}.webp")
    return (request.scene, _IN_SCENE[request.artifact])


def _tail(record: JobRecord, folders: SessionFolders, name: str, wanted: int) -> tuple[bytes, bool]:
    """The last `wanted` bytes, and whether there are more before them."""
    control = folders.control(record.id)
    try:
        file = open_file(control, (name,), max_bytes=_MAX_LOG_FILE_BYTES)
    except (NotFound, Refused):
        return b"", False
    try:
        start = max(file.size - wanted, 0)
        return os.pread(file.fd, wanted, start), start > 0
    finally:
        os.close(file.fd)

"""Staging: files that the portal uploads before it submits, `control/staged/SCENE/ASSET`.

They lie in `control`, where no job has ever written, until the job's folder is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from lib.errors import Conflict, InvalidInput, Refused, StorageFull
from lib.files.tree import measure
from lib.gate.job_record import RECORD, SessionFolders
from lib.gate.policy import Policy
from lib.loops import Loops
from lib.protocol.messages import (
    ASSET_PATTERN,
    MAX_PUT_BYTES,
    SCENE_ID_PATTERN,
    PutReply,
    PutRequest,
)

_log = logging.getLogger(__name__)
_MAX_WAITING = 64
_FORGET_AFTER_S = 86_400
_SPARE_BYTES = 256 * 2**20
_PIECE_BYTES = 2**20
_MAX_ENTRIES = 100_000
_LOOK_S = 30.0
STAGED = "staged"


class Staging:
    """Takes files in and throws away what was never submitted. One per gate.

    Each file that arrives has a part file of its own, whoever else sends the same asset; what
    was announced counts as if it lay there already.
    """

    def __init__(self, folders: SessionFolders, policy: Policy, loops: Loops | None = None) -> None:
        self._folders = folders
        self._loops = loops or Loops("The gate", _log)
        self._policy = policy
        self._arriving: dict[Path, PutRequest] = {}
        self._letting_in = asyncio.Lock()

    async def put(self, request: PutRequest, data: AsyncIterator[bytes]) -> PutReply:
        """Store exactly `request.size` bytes; checks the sum; a repeat replaces the file.

        Raises:
            Conflict: the job is submitted already.
            StorageFull: the session's allowance, that of all who wait, or the disk is full.
            InvalidInput: bad names, or another sum than was said.
        """
        _check_names(request)
        folder = self._folders.control(request.id) / STAGED / request.scene
        part = folder / f".{request.asset}.{secrets.token_hex(8)}.part"
        async with self._letting_in:
            await asyncio.to_thread(self._check_room, request)
            self._arriving[part] = request
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = await self._receive(part, data)
            if found != (request.size, request.sha256.lower()):
                raise InvalidInput("The file arrived damaged; send it again.")
            self._refuse_submitted(request.id)
            part.replace(folder / request.asset)
        except OSError as exc:
            raise StorageFull(f"The file cannot be stored on the cluster: {exc.strerror}.") from exc
        finally:
            del self._arriving[part]
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        return PutReply(stored=True)

    def forget_old(self) -> None:
        """Throw away folders that were prepared a day ago and never submitted, and remove part
        files that a gate left which ended while they arrived. Blocks on files."""
        for folder in self._waiting():
            with self._loops.item(folder.name):
                for part in (folder / "control" / STAGED).glob("*/.*.part"):
                    if part not in self._arriving:
                        part.unlink(missing_ok=True)
                if _age_s(folder) > _FORGET_AFTER_S:
                    self._folders.throw_away(folder)

    def _check_room(self, request: PutRequest) -> None:
        """Blocks on files; of two at a time, both would find the same room."""
        self._refuse_submitted(request.id)
        limits = self._policy.limits
        waiting = list(self._waiting())
        own = self._folders.session(request.id)
        if request.size + self._used([own]) > limits.max_disk_bytes:
            raise StorageFull(
                f"A session may use {limits.max_disk_bytes // 2**20} MB on this cluster."
            )
        if request.size + self._used(waiting) > limits.max_staged_bytes:
            raise StorageFull(
                f"The files that wait for their jobs may use {limits.max_staged_bytes // 2**20} MB "
                "on this cluster (max_staged_mb of its policy); there is room again when some of "
                "these jobs have been submitted."
            )
        if shutil.disk_usage(self._folders.state_dir).free < request.size + _SPARE_BYTES:
            raise StorageFull("The cluster's disk is full.")
        if own not in waiting and len(waiting) >= _MAX_WAITING:
            raise Refused("Too many sessions are being prepared; try again later.")

    def _used(self, sessions: list[Path]) -> int:
        """Bytes that lie staged there, or are announced."""
        jobs = {session.name for session in sessions}
        used = sum(r.size for r in list(self._arriving.values()) if r.id in jobs)
        for session in sessions:
            for file in (session / "control" / STAGED).glob("*/*"):
                with contextlib.suppress(FileNotFoundError):  # renamed or thrown away meanwhile
                    used += 0 if file in self._arriving else file.stat().st_size
        return used

    def _refuse_submitted(self, job_id: str) -> None:
        if (self._folders.control(job_id) / RECORD).exists():
            raise Conflict("The job is submitted already; nothing can be added to it.")

    def _waiting(self) -> Iterator[Path]:
        """The folders of jobs that are prepared and not submitted."""
        for folder in self._folders.sessions.iterdir():
            if not (folder / "control" / RECORD).exists():
                yield folder

    async def _receive(self, part: Path, data: AsyncIterator[bytes]) -> tuple[int, str]:
        """Returns size and checksum of what lies in the file in the end."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(part, flags, 0o600), "w+b", buffering=0) as file:
            async for piece in data:
                rest = memoryview(piece)
                while rest:
                    rest = rest[file.write(rest) :]
            return await asyncio.to_thread(_size_and_sum, file.fileno())


def _check_names(request: PutRequest) -> None:
    if None in (SCENE_ID_PATTERN.fullmatch(request.scene), ASSET_PATTERN.fullmatch(request.asset)):
        raise InvalidInput("The name of the scene or asset is not allowed.")
    if not 0 < request.size <= MAX_PUT_BYTES:
        raise InvalidInput("The file is empty or too large to be sent.")


def _size_and_sum(fd: int) -> tuple[int, str]:
    digest = hashlib.sha256()
    size = 0
    while piece := os.pread(fd, _PIECE_BYTES, size):
        digest.update(piece)
        size += len(piece)
    return size, digest.hexdigest()


def _age_s(folder: Path) -> float:
    """Since something in it changed; nothing is old that could not be looked at in time."""
    size = measure(folder, max_bytes=2**63, max_entries=_MAX_ENTRIES, timeout_s=_LOOK_S)
    if not size.in_time:
        return 0.0
    return time.time() - (size.newest or folder.stat().st_mtime)

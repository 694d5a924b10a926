"""Staging: files that the portal uploads before it submits, `control/staged/SCENE/ASSET`.

They lie in `control`, where no job has ever written, until the job's folder is made.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

from lib.errors import Conflict, InvalidInput, ProtocolError, Refused, StorageFull
from lib.gate.job_record import RECORD, SessionFolders
from lib.gate.policy import Policy
from lib.protocol.messages import (
    ASSET_PATTERN,
    MAX_PUT_BYTES,
    SCENE_ID_PATTERN,
    PutReply,
    PutRequest,
)

_MAX_WAITING = 64
_FORGET_AFTER_S = 86_400
_SPARE_BYTES = 256 * 2**20
STAGED = "staged"


class Staging:
    """Takes files in and throws away what was never submitted."""

    def __init__(self, folders: SessionFolders, policy: Policy) -> None:
        self._folders = folders
        self._policy = policy

    async def put(self, request: PutRequest, data: AsyncIterator[bytes]) -> PutReply:
        """Store exactly `request.size` bytes; checks the sum; a repeat replaces the file.

        Raises:
            Conflict: the job is submitted already.
            StorageFull: the session's allowance or the disk is full.
            InvalidInput: bad names, or another sum than was said.
        """
        self._check(request)
        folder = self._folders.control(request.id) / STAGED / request.scene
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = folder / f".{request.asset}.part"
        try:
            found = await self._receive(part, data)
            if found != (request.size, request.sha256.lower()):
                raise InvalidInput("The file arrived damaged; send it again.")
            self._refuse_submitted(request.id)
            self._check_allowance(request.id)  # others may have come meanwhile
            part.replace(folder / request.asset)
        except OSError as exc:
            raise StorageFull(f"The file cannot be stored on the cluster: {exc.strerror}.") from exc
        finally:
            part.unlink(missing_ok=True)
        return PutReply(stored=True)

    def forget_old(self) -> None:
        """Remove folders that were prepared a day ago and never submitted."""
        for folder in self._folders.sessions.iterdir():
            control = folder / "control"
            if not (control / RECORD).exists() and _age_s(folder) > _FORGET_AFTER_S:
                shutil.rmtree(folder, ignore_errors=True)

    def _check(self, request: PutRequest) -> None:
        names = (
            SCENE_ID_PATTERN.fullmatch(request.scene),
            ASSET_PATTERN.fullmatch(request.asset),
        )
        if None in names:
            raise InvalidInput("The name of the scene or asset is not allowed.")
        if not 0 < request.size <= MAX_PUT_BYTES:
            raise InvalidInput("The file is empty or too large to be sent.")
        self._refuse_submitted(request.id)
        self._check_allowance(request.id, request.size)
        if shutil.disk_usage(self._folders.state_dir).free < request.size + _SPARE_BYTES:
            raise StorageFull("The cluster's disk is full.")
        if not self._folders.control(request.id).exists() and self._waiting() >= _MAX_WAITING:
            raise Refused("Too many sessions are being prepared; try again later.")

    def _check_allowance(self, job_id: str, more: int = 0) -> None:
        """Of all that lies there, half received files too."""
        used = more
        for file in (self._folders.control(job_id) / STAGED).glob("*/*"):
            with contextlib.suppress(FileNotFoundError):  # renamed or thrown away meanwhile
                used += file.stat().st_size
        allowed = self._policy.limits.max_disk_bytes
        if used > allowed:
            raise StorageFull(f"A session may use {allowed // 2**20} MB on this cluster.")

    def _refuse_submitted(self, job_id: str) -> None:
        if (self._folders.control(job_id) / RECORD).exists():
            raise Conflict("The job is submitted already; nothing can be added to it.")

    def _waiting(self) -> int:
        folders = self._folders.sessions.iterdir()
        return sum(not (f / "control" / RECORD).exists() for f in folders)

    async def _receive(self, part: Path, data: AsyncIterator[bytes]) -> tuple[int, str]:
        digest = hashlib.sha256()
        size = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(part, flags, 0o600)
        try:
            async for piece in data:
                digest.update(piece)
                size += len(piece)
                if os.write(fd, piece) != len(piece):
                    raise ProtocolError("The file could not be written as a whole.")
        finally:
            os.close(fd)
        return size, digest.hexdigest()


def _age_s(folder: Path) -> float:
    newest = max((f.stat().st_mtime for f in folder.rglob("*")), default=folder.stat().st_mtime)
    return time.time() - newest

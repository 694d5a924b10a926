"""The images of the policy's modules: checked, and fetched where they are remote.

A job is handed to the scheduler only when its image is there. Nothing is fetched before a
job wants it. What was fetched stays in the gate's `images` folder over restarts.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from lib.errors import NotFound, Refused, SceneBridgeError, Unavailable
from lib.files.tree import remove
from lib.gate.image_reference import ImageName, Kind
from lib.gate.images.checksum import CheckedFiles, Progress
from lib.gate.images.download import download
from lib.gate.policy import AllowedModule, Policy
from lib.jobs.tasks import last_words

_log = logging.getLogger(__name__)
_PULL_TIMEOUT_S = 6 * 3600.0
_FAILURE_COUNTS_S = 10.0
_MAX_OUTPUT_BYTES = 8192
_PERCENT = re.compile(rb"(\d{1,3})(?:\.\d+)? ?%")
_REMOVE_S = 60.0
_MEND = "who looks after the gate can mend that."


@dataclass(frozen=True, slots=True)
class ImageState:
    """Exactly one is set: `path` of an image that is ready, `waiting` or `failure`.

    `path` is None, too, where the runtime needs no image: then neither text is set.
    """

    path: Path | None = None
    waiting: str = ""
    failure: str = ""


class _Work:
    """Checking or fetching one image, once."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._began = time.monotonic()
        self._percent: int | None = None
        self.stop = threading.Event()
        self.task: asyncio.Task[None] | None = None
        self.failure = ""
        self.failed_at = 0.0

    def progress(self, done: int, size: int) -> None:
        """As `Progress`; called from a thread."""
        self._percent = min(99, done * 100 // size) if size else None

    @property
    def text(self) -> str:
        """For people."""
        minutes = int(time.monotonic() - self._began) // 60
        if self._percent is not None:
            return f"{self._verb} the image: {self._percent} %."
        return (
            f"{self._verb} the image: {minutes} min so far."
            if minutes
            else f"{self._verb} the image."
        )


class Images:
    """Belongs to one event loop; one per gate (its lock sees to that)."""

    def __init__(self, folder: Path, policy: Policy) -> None:
        self._folder = folder
        self._policy = policy
        self._checked = CheckedFiles(folder / "checked.json")
        self._works: dict[ImageName, _Work] = {}

    async def state(self, module_id: str, version: str) -> ImageState:
        """Whether a job of this module can be handed over; starts what is missing.

        Quick: what takes long goes on by itself, so ask again. A failure is told for some
        seconds to all who wait; whoever asks later starts another try.
        """
        module = self._policy.module(module_id, version)
        if module is None or module.image is None:
            return ImageState()
        name = module.image
        work = self._works.get(name)
        if work is not None and work.task is not None and not work.task.done():
            return ImageState(waiting=work.text)
        try:
            path = await asyncio.to_thread(self._ready, name)
        except NotFound as exc:
            return ImageState(failure=_missing(module, exc))
        if path is not None:
            self._works.pop(name, None)
            return ImageState(path=path)
        if work is not None and time.monotonic() - work.failed_at < _FAILURE_COUNTS_S:
            return ImageState(failure=work.failure)
        return ImageState(waiting=self._start(module, name).text)

    async def troubles(self) -> list[str]:
        """Sentences about images that are missing or could not be checked or fetched."""
        found: list[str] = []
        for module in self._policy.modules:
            work = self._works.get(module.image) if module.image else None
            if module.image is not None and module.image.kind is Kind.FILE:
                try:
                    await asyncio.to_thread(self._ready, module.image)
                except NotFound as exc:
                    found.append(_missing(module, exc))
                    continue
            if work is not None and work.failure:
                found.append(work.failure)
        return found

    async def close(self) -> None:
        """Break off what is under way."""
        tasks = []
        for work in self._works.values():
            work.stop.set()
            if work.task is not None:
                work.task.cancel()
                tasks.append(work.task)
        await asyncio.gather(*tasks, return_exceptions=True)

    def check(self) -> list[str]:
        """Read every image that is here now. Returns what is wrong; fetches nothing."""
        problems = []
        self._make_folder()
        for module in self._policy.modules:
            if module.image is None:
                continue
            path, wanted = self._place(module.image), self._wanted(module.image)
            try:
                if module.image.kind is Kind.FILE or path.exists():
                    self._checked.require(
                        path, wanted or self._checked.checksum(path, _quiet), _quiet
                    )
            except NotFound as exc:
                problems.append(_missing(module, exc))
            except Refused as exc:
                problems.append(exc.message)
        return problems

    # --- inside -----------------------------------------------------------------

    def _place(self, name: ImageName) -> Path:
        if name.kind is Kind.FILE:
            return Path(name.reference)
        return self._folder / f"{hashlib.sha256(name.reference.encode()).hexdigest()[:24]}.sif"

    def _wanted(self, name: ImageName) -> str:
        """The checksum that the file must have.

        Of what came from a registry, the one that it had when it came: such a file is made
        here, from layers that the digest vouches for.
        """
        if name.kind is not Kind.REGISTRY:
            return name.sha256
        try:
            return self._place(name).with_suffix(".sha256").read_text("ascii").strip()
        except OSError:
            return ""

    def _ready(self, name: ImageName) -> Path | None:
        """The file, if it is the right one and known to be. Raises `NotFound` for a FILE."""
        path = self._place(name)
        try:
            known = self._checked.known(path)
        except NotFound:
            if name.kind is Kind.FILE:
                raise
            return None
        return path if known and known == self._wanted(name) else None

    def _start(self, module: AllowedModule, name: ImageName) -> _Work:
        here = name.kind is Kind.FILE or self._place(name).exists()
        work = self._works[name] = _Work("Checking" if here else "Fetching")
        body = self._check_file if here else self._fetch
        work.task = asyncio.ensure_future(self._guarded(module, name, work, body))
        return work

    async def _guarded(
        self,
        module: AllowedModule,
        name: ImageName,
        work: _Work,
        body: Callable[[ImageName, _Work], Awaitable[None]],
    ) -> None:
        try:
            await asyncio.to_thread(self._make_folder)
            await body(name, work)
        except Exception as exc:  # whatever it is: who waits for the image hears of it
            if not isinstance(exc, (SceneBridgeError, OSError)):
                _log.exception("image of %s %s", module.id, module.version)
            why = exc.message if isinstance(exc, SceneBridgeError) else str(exc)
            what = f"The image of {module.id} {module.version} cannot be had: {why}"
            whole = why.startswith("The image ")
            work.failure = why if whole else f"{what.rstrip('.')}; {_MEND}"
            work.failed_at = time.monotonic()

    async def _check_file(self, name: ImageName, work: _Work) -> None:
        path = self._place(name)
        try:
            await asyncio.to_thread(self._checked.require, path, self._wanted(name), work.progress)
        except Refused:
            if name.kind is Kind.FILE:
                raise
            path.unlink(missing_ok=True)  # damaged on our own disk
            await self._fetch(name, work)

    async def _fetch(self, name: ImageName, work: _Work) -> None:
        target = self._place(name)
        if name.kind is Kind.REGISTRY:
            sha256 = await self._pull(name, target, work)
            target.with_suffix(".sha256").write_text(sha256, "ascii")
        else:
            allowed = self._policy.may_read_host
            await asyncio.to_thread(
                download, name, target, allowed=allowed, progress=work.progress, stop=work.stop
            )
            sha256 = name.sha256
        await asyncio.to_thread(self._checked.remember, target, sha256)

    async def _pull(self, name: ImageName, target: Path, work: _Work) -> str:
        """Let the runtime fetch it. Returns the checksum of the file that it made."""
        scratch = target.with_suffix(".part")
        await asyncio.to_thread(_renew, scratch)
        what = self._policy.runtime().fetch(name.reference, scratch / "image.sif", scratch)
        try:
            process = await asyncio.create_subprocess_exec(
                *what.argv,
                cwd=what.cwd,
                env=dict(what.env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                output = await asyncio.wait_for(_follow(process, work.progress), _PULL_TIMEOUT_S)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
            if process.returncode != 0:
                said = next(iter(last_words(output, 1)), "it said nothing")
                raise Unavailable(f"{name.host} did not give it: {said}")
            made = scratch / "image.sif"
            sha256 = await asyncio.to_thread(self._checked.checksum, made, _quiet)
            made.replace(target)
            return sha256
        except asyncio.TimeoutError as exc:
            raise Unavailable(f"{name.host} took too long") from exc
        finally:
            await asyncio.to_thread(remove, scratch, timeout_s=_REMOVE_S)

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)


def _missing(module: AllowedModule, error: NotFound) -> str:
    return (
        f"The image of {module.id} {module.version} is missing: {error.message}; who looks after "
        "the gate can put it there or correct the policy."
    )


async def _follow(process: asyncio.subprocess.Process, progress: Progress) -> bytes:
    """Read what it says until it ends. Returns the last of it."""
    assert process.stdout is not None  # noqa: S101 (we asked for a pipe)
    tail = b""
    while data := await process.stdout.read(4096):
        tail = (tail + data)[-_MAX_OUTPUT_BYTES:]
        if said := _PERCENT.findall(data):
            progress(int(said[-1]), 100)
    await process.wait()
    return tail


def _renew(folder: Path) -> None:
    remove(folder, timeout_s=_REMOVE_S)
    folder.mkdir(mode=0o700)


def _quiet(done: int, size: int) -> None:
    """Progress that nobody watches."""

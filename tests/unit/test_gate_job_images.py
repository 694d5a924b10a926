"""The jobs of a gate whose module runs in an image that must be read first."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lib.gate.images.checksum import CheckedFiles
from lib.gate.policy import parse
from lib.jobs.control_files import SessionSpec
from lib.model import EndReason, JobState
from lib.protocol.messages import JobStatus
from tests.fakes.gate_jobs import Site
from tests.unit.test_gate_policy import GOOD


class ImageSite(Site):
    """A site whose module runs in an image that must be read before its jobs start."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.sif = root / "small.sif"
        self.sif.write_bytes(b"an image")
        module = {
            "id": "small",
            "version": "1.0.0",
            "entry": "small",
            "image": str(self.sif),
            "sha256": hashlib.sha256(b"an image").hexdigest(),
        }
        data = {**GOOD, "data_paths": [], "modules": [module], "runtime": {"name": "apptainer"}}
        self.policy = replace(
            parse(data, root / "gate"), data_paths=(root / "data",)
        )  # below /tmp, where a real policy may have none
        self.restart()

    async def until(self, job_id: str, true: Callable[[JobStatus], object]) -> JobStatus:
        while not true(self.status(job_id)):
            await self.jobs.poll()
            await asyncio.sleep(0.01)
        return self.status(job_id)


@pytest.fixture
def images(tmp_path: Path) -> Iterator[ImageSite]:
    made = ImageSite(tmp_path)
    yield made
    made.audit.close()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Reading an image takes until this is set."""
    go_on = threading.Event()
    real = CheckedFiles.checksum

    def wait(self: CheckedFiles, path: Path, progress: Callable[[int, int], None]) -> str:
        progress(45, 100)
        assert go_on.wait(300)
        return real(self, path, progress)

    monkeypatch.setattr(CheckedFiles, "checksum", wait)
    return go_on


async def test_a_job_waits_in_the_gate_until_its_image_is_there(
    images: ImageSite, slow: threading.Event
) -> None:
    status = await images.submit()
    assert (status.state, status.job) == (JobState.QUEUED, "")
    status = await images.until(status.id, lambda s: "45 %" in s.reason)
    assert status.reason == "Checking the image: 45 %."
    assert images.scheduler.specs == []
    for task in list(images.jobs._submitter._tasks.values()):
        task.cancel()  # as the end of the process does
    images.restart()  # a gate that is started again goes on
    await images.until(status.id, lambda s: "Checking" in s.reason)
    slow.set()
    status = await images.until(status.id, lambda s: s.job)
    assert status.reason in ("", "Waiting.")
    (spec,) = images.scheduler.specs
    assert SessionSpec.read(spec.folder).image == str(images.sif)
    again = await images.submit()  # known from now on
    assert again.job == "2"


async def test_a_job_cancelled_while_it_waits_for_its_image_is_never_submitted(
    images: ImageSite, slow: threading.Event
) -> None:
    status = await images.submit()
    await images.jobs.cancel(status.id)
    status = await images.until(status.id, lambda s: s.state is JobState.ENDED)
    assert status.end_reason is EndReason.CANCELLED
    slow.set()
    await images.jobs.poll()
    assert images.scheduler.specs == []


@pytest.mark.parametrize(
    ("content", "words"), [(None, "is missing"), (b"another", "has the checksum")]
)
async def test_a_job_without_the_right_image_is_refused_with_a_sentence(
    images: ImageSite, content: bytes | None, words: str
) -> None:
    images.sif.unlink()
    if content is not None:
        images.sif.write_bytes(content)
    status = await images.submit()
    status = await images.until(status.id, lambda s: s.state is JobState.ENDED)
    assert status.end_reason is EndReason.REFUSED
    assert words in status.reason
    assert "who looks after the gate" in status.reason
    assert images.scheduler.specs == []

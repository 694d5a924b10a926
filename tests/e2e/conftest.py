"""A portal for each end-to-end test, with what the first start leaves behind."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lib.scenes.samples import SYNTHETIC
from lib.server.module_cache import MARK
from lib.server.sample_scenes import mark_of
from tests.folders import wait_until_unused
from tests.isolation import CACHE, PROJECT
from tests.running import RunningPortal, first_start_is_over, take_compiled, wait_for


@pytest.fixture(scope="session")
def with_samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder as the first start leaves it: made once for what makes it, copied for
    each portal."""
    kept = CACHE / f"first-start-{_digest()}"
    with (CACHE / "first-start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            first = tmp_path_factory.mktemp("first-start")
            take_compiled(first / "cache")
            portal = RunningPortal(first)
            portal.start()
            wait_for("sample scenes", lambda: samples_are_over(first))
            wait_for("compiled modules", (first / "cache" / MARK).exists)
            portal.stop()
            made = len(list((first / "scenes").glob("*/item.json")))
            assert made >= len(SYNTHETIC), "what was kept would lack scenes for ever"
            mark_of(first).parent.mkdir(exist_ok=True)
            mark_of(first).touch()
            for old in CACHE.glob("first-start-*"):
                shutil.rmtree(old)
            part = Path(tempfile.mkdtemp(prefix="first-start.", dir=CACHE))
            for name in ("scenes", "cache"):
                shutil.copytree(first / name, part / name)
            part.rename(kept)
    return kept


def samples_are_over(data: Path) -> bool:
    """Without a network the real ones are missing, and the portal's log says so."""
    return mark_of(data).exists() or "sample scenes" in (data / "portal.log").read_text()


def _digest() -> str:
    """Of what makes sample scenes and compiled modules."""
    found = hashlib.sha256()
    makers = [PROJECT / "requirements.txt"]
    makers += [
        PROJECT / "lib" / "server" / f"{name}.py" for name in ("sample_scenes", "module_cache")
    ]
    for folder in ("modules", "modulekit", "lib/scenes", "lib/imagery"):
        makers += (PROJECT / folder).rglob("*.py")
    for file in sorted(makers):
        found.update(f"{file.relative_to(PROJECT)}\0".encode() + file.read_bytes() + b"\0")
    return found.hexdigest()[:16]


@contextmanager
def data_folder(with_samples: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="sb-e2e-"))
    shutil.copytree(with_samples, folder, dirs_exist_ok=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def data() -> Iterator[Path]:
    """A data folder whose first start is over, so that no sample scenes are made."""
    folder = Path(tempfile.mkdtemp(prefix="sb-run-"))
    first_start_is_over(folder)
    yield folder
    wait_until_unused(folder)
    shutil.rmtree(folder)


@pytest.fixture
def unstarted(data: Path) -> Iterator[RunningPortal]:
    """A portal that the test starts; stopped, and checked to leave nothing, at the end."""
    running = RunningPortal(data)
    yield running
    if running.runs:
        running.stop()
    running.leaves_nothing()

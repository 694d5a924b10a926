"""A portal for each end-to-end test, with what the first start leaves behind."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.server.module_cache import MARK
from tests.e2e.signing_in import set_up_providers
from tests.fakes.provider import TestProvider, provider
from tests.running import RunningPortal, first_start_is_over, wait_for


@pytest.fixture(scope="session")
def with_samples(tmp_path_factory: pytest.TempPathFactory, of_all_workers: Path) -> Path:
    """A data folder as the first start leaves it: made once, copied for each portal."""
    kept = of_all_workers / "after-first-start"
    with (of_all_workers / "after-first-start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            first = tmp_path_factory.mktemp("first-start")
            portal = RunningPortal(first)
            portal.start()
            wait_for("compiled modules", (first / "cache" / MARK).exists, timeout_s=180)
            portal.stop()
            part = tmp_path_factory.mktemp("kept")
            for name in ("scenes", "cache"):
                shutil.copytree(first / name, part / name)
            part.rename(kept)
    return kept


@pytest.fixture
def data_folder(with_samples: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="sb-e2e-"))
    shutil.copytree(with_samples, folder, dirs_exist_ok=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def institute() -> Iterator[TestProvider]:
    """An identity provider that knows Kato, who looks after forests."""
    with provider() as it:
        it.knows("kato", name="Kato Ken", groups=["forest"])
        yield it


@pytest.fixture(params=["alone", "institute"])
def way_in(request: pytest.FixtureRequest) -> TestProvider | None:
    """How people sign in: by the printed link, or at their institute."""
    if request.param == "alone":
        return None
    found: TestProvider = request.getfixturevalue("institute")
    return found


@pytest.fixture
def portal(data_folder: Path, request: pytest.FixtureRequest) -> Iterator[RunningPortal]:
    """A started portal; stopped, and checked to leave nothing, at the end."""
    if "way_in" in request.fixturenames:
        at = request.getfixturevalue("way_in")
        if at is not None:
            set_up_providers(data_folder, {"aist": at})
    running = RunningPortal(data_folder)
    running.start()
    yield running
    if running.process is not None and running.process.poll() is None:
        running.stop()
    assert running.leftovers() == []


@pytest.fixture
def data() -> Iterator[Path]:
    """A data folder whose first start is over, so that no sample scenes are made."""
    folder = Path(tempfile.mkdtemp(prefix="sb-run-"))
    first_start_is_over(folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def unstarted(data: Path) -> Iterator[RunningPortal]:
    """A portal that the test starts; stopped, and checked to leave nothing, at the end."""
    running = RunningPortal(data)
    yield running
    if running.process is not None and running.process.poll() is None:
        running.stop()
    assert running.leftovers() == []

"""One portal and one browser for all end-to-end tests of a module."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.chromium import chromium
from tests.running import RunningPortal


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def data_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="sb-e2e-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def portal(data_folder: Path) -> Iterator[RunningPortal]:
    """A started portal; stopped, and checked to leave nothing, at the end."""
    running = RunningPortal(data_folder)
    running.start()
    yield running
    if running.process is not None and running.process.poll() is None:
        running.stop()
    assert running.leftovers() == []

"""A portal per test, and the pages run by Streamlit's own test runner."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

from lib.auth import OWNER
from lib.model import User
from lib.portal import facade
from tests.pages import sample_portal
from tests.pages.browser_fixtures import (  # noqa: F401 - fixtures
    browser,
    served,
    served_once,
    shared_profile,
    tabs,
    visit,
)
from tests.pages.sample_portal import Site


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sample scenes; their files are only read."""
    folder = tmp_path_factory.mktemp("planted")
    sample_portal.plant_sample(folder)
    Site(folder)
    return folder


@pytest.fixture
def site(tmp_path: Path, planted: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A portal with five scenes; whoever asks is its owner (browser tests sign in)."""
    (tmp_path / "scenes").symlink_to(planted / "scenes")
    site = Site(tmp_path)
    site.asking = OWNER
    monkeypatch.setattr(site.portal, "user_of_browser", lambda *_: site.asking)
    facade.use(site.portal)
    yield site
    facade.use(None)
    site.store.close()


@pytest.fixture(scope="session", autouse=True)
def _packages_are_looked_through_once() -> Iterator[None]:
    """Each run of a page under AppTest looks for components in all installed packages."""
    found = functools.cache(manifest_scanner.scan_component_manifests)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_scanner, "scan_component_manifests", found)
        yield


@pytest.fixture
def open_page(site: Site) -> Callable[..., AppTest]:
    """Open a page of the real app.py: `open_page("work", scene=["A"])`; `who` asks from then on."""

    def opened(page: str = "explore", who: User | None = None, **query: Any) -> AppTest:
        site.asking = who or site.asking
        app = AppTest.from_file(str(sample_portal.ROOT / "app.py"), default_timeout=300)
        for name, value in query.items():
            app.query_params[name] = value
        if page != "explore":
            app.switch_page(f"pages/{page}.py")
            for name, value in query.items():
                app.query_params[name] = value
        app.run()
        assert not app.exception, app.exception
        return app

    return opened

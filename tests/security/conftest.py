"""One portal with several people and one browser for all modules that ask for them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.chromium import chromium
from tests.crowd import REBOUND, Crowd, crowd


@pytest.fixture(scope="session")
def there() -> Iterator[Crowd]:
    with crowd() as it:
        yield it


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = f"MAP {REBOUND} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE *.localhost"
    with chromium(f"--host-resolver-rules={names}, EXCLUDE 127.0.0.1") as running:
        yield running

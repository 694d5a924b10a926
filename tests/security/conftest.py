"""One portal with several people for all modules that ask for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crowd import Crowd, crowd


@pytest.fixture(scope="session")
def there() -> Iterator[Crowd]:
    with crowd() as it:
        yield it

"""What a portal needs, looked at one by one: this computer, its folders, who may come in, each
cluster with its gate, and for a portal on the internet its names, certificates and providers.

Nothing is mended here. For a portal of one person nothing is asked but the gates of its clusters,
through their tunnels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.config import settings
from lib.config.data_dir import make_data_folder
from lib.config.offerings import load_offerings, offered
from lib.doctor import clusters, computer, folders, internet, people, service
from lib.doctor.check import Check
from lib.errors import SceneBridgeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Check", "examine"]


def examine(data: Path) -> Iterator[Check]:
    """All checks, for one data folder."""
    yield from computer.checks()
    if not data.is_dir():
        yield Check(
            "data folder", False, f"there is none at {data}: name the portal's with --data, or "
            "start ./run, which makes it",
        )  # fmt: skip
        return
    try:
        chosen = settings.load(data)
        known = load_offerings(settings.PROJECT)
        offerings = offered(known, chosen)
        yield Check("settings", True, f"{data / settings.FILE}: valid")
        make_data_folder(data)
    except SceneBridgeError as exc:
        yield Check("data folder", False, exc.message)
        return
    yield Check("data folder", True, f"{data} can be written to")
    yield from folders.checks(chosen)
    yield from people.checks(chosen, offerings)
    yield from clusters.checks(chosen, known, offerings)
    yield from service.checks(chosen)
    if chosen.single_user:
        return
    yield computer.clock()
    yield from people.providers(chosen)
    yield from internet.checks(chosen)

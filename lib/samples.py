"""The sample scenes: taken in on the first start, and by `admin.py samples get`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.scenes.catalogue import Catalogue
from lib.settings import PROJECT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lib.model import Scene


def take_in_samples(data: Path, say: Callable[[str], None]) -> tuple[Scene, ...]:
    """Take in every sample scene that is not in `data` yet; all that are there then.

    Args:
        say: gets one short line per step.
    """
    catalogue = Catalogue(data / "scenes")
    scenes = []
    for product in sorted(
        (PROJECT.parent / "shared/data/landsat8").glob("LC08_L1TP_227074*.tar.gz")
    ):
        say(f"Taking in the sample {product.name}")
        scenes.append(catalogue.add(product))
    return tuple(scenes)

"""Small real products for the tests of `lib.scenes`: written by the project's generator."""

from __future__ import annotations

import tarfile
from datetime import date
from functools import cache
from pathlib import Path

from lib.scenes.synthetic import FormosatSpec, LandsatSpec

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"

LANDSAT = LandsatSpec(
    139.8, 35.3, 107, 36, date(2024, 1, 17), 1, fires=2, ships=3, turbines=1, size=260
)
FORMOSAT = FormosatSpec(120.5, 24.3, date(2012, 10, 5), 11, sea=0.8, ships=3, size=260)


@cache
def shared(*parts: str) -> Path | None:
    """A file of the optional sibling folder of real data, or None."""
    path = SHARED.joinpath(*parts)
    return path if path.exists() else None


def tar(folder: Path, target: Path) -> Path:
    """The folder's files as a flat tar archive, compressed as the name says."""
    mode = "w:gz" if target.name.endswith("gz") else "w"
    with tarfile.open(target, mode) as archive:  # type: ignore[call-overload]
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name)
    return target


def edit(path: Path, old: str, new: str) -> None:
    """Replace text that must be there."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")

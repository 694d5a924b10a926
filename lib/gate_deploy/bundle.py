"""What goes to a login node: the gate's code, the modules' notebooks, and their digest."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lib.config.settings import PROJECT
from lib.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

#: The closure of the gate (tests/unit/test_repository.py), and what it copies into sessions.
_FILES = ("lib/__init__.py", "lib/errors.py", "lib/loops.py")
_FOLDERS = ("lib/files", "lib/gate", "lib/jobs", "lib/model", "lib/protocol")
_NOTEBOOKS = ("modules/*/*.ipynb", "modules/*/module.toml")
_VERSION = re.compile(r'^VERSION = "([0-9A-Za-z.+]+)"$', re.MULTILINE)
_DIGEST_LENGTH = 12


@dataclass(frozen=True, slots=True)
class BundleFile:
    """One file of the bundle: where it goes below the version's folder, and its content."""

    path: str
    data: bytes

    @property
    def entry(self) -> tuple[str, int, str]:
        """Its line of the manifest."""
        return self.path, len(self.data), hashlib.sha256(self.data).hexdigest()


def shipped_files(project: Path = PROJECT) -> list[Path]:
    """The files that go out, in a fixed order."""
    found = [project / name for name in _FILES]
    found += [f for folder in _FOLDERS for f in (project / folder).rglob("*.py")]
    found += [f for pattern in _NOTEBOOKS for f in project.glob(pattern)]
    return sorted(found)


def code_pieces(project: Path = PROJECT) -> list[BundleFile]:
    """Read them. Raises `Unavailable`."""
    try:
        return list(_read(project))
    except OSError as exc:
        raise Unavailable(f"{exc.filename} cannot be read: {exc.strerror}.") from exc


def version_name(code: Sequence[BundleFile], pinned: str, target: str) -> str:
    """`VERSION-DIGEST`: another one for any other code, packages, Python or processor.

    Args:
        pinned: the text that pins the packages.
        target: tag of the cluster's Python and processor.
    """
    gate = next(piece.data for piece in code if piece.path == "lib/gate/__init__.py")
    found = _VERSION.search(gate.decode("utf-8"))
    if found is None:
        raise Unavailable("lib/gate/__init__.py names no version.")
    total = hashlib.sha256()
    for piece in code:
        total.update("\t".join(map(str, piece.entry)).encode() + b"\n")
    total.update(f"{target}\n{pinned}".encode())
    return f"{found[1]}-{total.hexdigest()[:_DIGEST_LENGTH]}"


def _read(project: Path) -> Iterator[BundleFile]:
    for file in shipped_files(project):
        yield BundleFile(file.relative_to(project).as_posix(), file.read_bytes())

"""Unpack a `.tar` or `.tar.gz` product without trusting a byte of it.

Only plain files with plain names leave the archive. A link, a device, a sparse file, a
name that is absolute or climbs, and anything above the limits refuse the whole archive,
because a product that contains such a thing was not made by a data provider.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from lib.errors import InvalidProduct
from lib.scenes import limits

_CHUNK = 2**20
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+ -]{0,150}")
_WANTED = frozenset({".tif", ".tiff", ".txt", ".xml", ".json", ".dim", ".geojson"})
SUFFIXES = (".tar", ".tar.gz", ".tgz")


def is_archive(path: Path) -> bool:
    """True for the file names that `unpack` reads."""
    return path.name.lower().endswith(SUFFIXES)


def unpack(archive: Path, folder: Path, *, max_bytes: int = limits.MAX_ARCHIVE_BYTES) -> None:
    """Write the rasters and metadata of `archive` below the existing, empty `folder`.

    Files that no reader needs (previews, checksums) are left out.

    Raises:
        InvalidProduct: broken, hostile or too large; `folder` may then hold a part.
    """
    try:
        if archive.name.lower().endswith(".tar"):
            with archive.open("rb") as stream:
                _unpack_tar(stream, archive.name, folder, max_bytes)
            return
        plain = folder / ".archive.tar"
        _gunzip(archive, plain, max_bytes)
        with plain.open("rb") as stream:
            _unpack_tar(stream, archive.name, folder, max_bytes)
        plain.unlink()
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, UnicodeError) as exc:
        raise InvalidProduct(
            f"{archive.name} is damaged or is not a tar archive ({exc}). Download it again."
        ) from exc


def _gunzip(archive: Path, target: Path, max_bytes: int) -> None:
    written = 0
    with gzip.open(archive, "rb") as source, target.open("xb") as sink:
        while chunk := source.read(_CHUNK):
            written += len(chunk)
            if written > max_bytes:
                raise _too_large(archive.name, max_bytes)
            sink.write(chunk)


def _unpack_tar(stream: BinaryIO, name: str, folder: Path, max_bytes: int) -> None:
    total = 0
    with tarfile.TarFile(fileobj=_SmallReads(stream, name)) as tar:
        for member in _members(tar, name):
            parts = _safe_parts(member.name, name)
            if member.isdir() or PurePosixPath(parts[-1]).suffix.lower() not in _WANTED:
                continue
            total += member.size
            if total > max_bytes:
                raise _too_large(name, max_bytes)
            target = folder.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                raise InvalidProduct(f"{name} contains the file {parts[-1]} twice.")
            _copy(tar, member, target)


def _members(tar: tarfile.TarFile, name: str) -> Iterator[tarfile.TarInfo]:
    for count, member in enumerate(tar, start=1):
        if count > limits.MAX_MEMBERS:
            raise InvalidProduct(f"{name} contains more than {limits.MAX_MEMBERS} files.")
        if member.issparse() or not (member.isreg() or member.isdir()):
            raise InvalidProduct(
                f"{name} contains a link or a special file ({member.name!r:.60}), which no "
                "satellite product does. It is refused."
            )
        yield member


def _safe_parts(member: str, name: str) -> tuple[str, ...]:
    parts = tuple(p for p in member.split("/") if p not in ("", "."))
    plain = not member.startswith("/") and all(_NAME.fullmatch(p) for p in parts)
    if not parts and member in (".", "./"):
        return (".",)
    if not parts or not plain or len(parts) > 3:
        raise InvalidProduct(f"{name} contains a file with the unsafe name {member!r:.60}.")
    return parts


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    source = tar.extractfile(member)
    if source is None:
        raise InvalidProduct(f"{member.name} in the archive cannot be read.")
    left = member.size
    with source, target.open("xb") as sink:
        while left and (chunk := source.read(min(_CHUNK, left))):
            sink.write(chunk)
            left -= len(chunk)
    if left:
        raise InvalidProduct(f"The archive ends in the middle of {member.name}. Download it again.")


def _too_large(name: str, max_bytes: int) -> InvalidProduct:
    return InvalidProduct(f"{name} unpacks to more than {max_bytes / 2**30:.3g} GiB.")


class _SmallReads(io.RawIOBase):
    """A file that refuses large single reads.

    `tarfile` reads a member's extended header whole, whatever size it claims, so an
    archive of a few kilobytes could otherwise fill the memory.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        super().__init__()
        self._stream = stream
        self._name = name

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > _CHUNK:
            raise InvalidProduct(f"{self._name} has a header that is too large.")
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

"""Archives from outside: what is a product leaves them, everything else is refused."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from lib.errors import InvalidProduct
from lib.scenes import limits
from lib.scenes.archive import is_archive, unpack


def member(name: str, data: bytes = b"x", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    mode = "w:gz" if path.name.endswith("gz") else "w"
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".TAR.GZ"])
def test_files_of_a_product_are_unpacked(tmp_path: Path, folder: Path, suffix: str) -> None:
    path = tmp_path / f"product{suffix}"
    plain = archive(
        tmp_path / f"p{suffix.lower()}",
        member("a_MTL.txt", b"text"),
        member("sub/b.TIF", b"tiff"),
        member("sub", b"", type=tarfile.DIRTYPE),
        member("preview.jpg", b"jpeg"),
        member("run.sh", b"#!/bin/sh"),
    )
    plain.rename(path)
    assert is_archive(path)
    unpack(path, folder)
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert files == {"a_MTL.txt": b"text", "sub/b.TIF": b"tiff"}


@pytest.mark.parametrize(
    "name",
    ["../escape.tif", "a/../../escape.tif", "/tmp/escape.tif", "a/b/c/d.tif", "..", "a\\b.tif",
     ".hidden.tif", "a\nb.tif", "-rf.tif", "x" * 300 + ".tif", "ü.tif"],
)  # fmt: skip
def test_unsafe_names_are_refused(tmp_path: Path, folder: Path, name: str) -> None:
    path = archive(tmp_path / "a.tar", member(name))
    with pytest.raises(InvalidProduct, match="unsafe name"):
        unpack(path, folder)
    assert not (tmp_path / "escape.tif").exists()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE],
)
def test_links_and_devices_are_refused(tmp_path: Path, folder: Path, kind: bytes) -> None:
    path = archive(tmp_path / "a.tar", member("b.tif", b"", type=kind, linkname="/etc/passwd"))
    with pytest.raises(InvalidProduct, match="link or a special file"):
        unpack(path, folder)
    assert list(folder.iterdir()) == []


def test_a_link_cannot_redirect_a_later_file(tmp_path: Path, folder: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    path = archive(
        tmp_path / "a.tar",
        member("sub", b"", type=tarfile.SYMTYPE, linkname=str(target)),
        member("sub/b.tif"),
    )
    with pytest.raises(InvalidProduct, match="link"):
        unpack(path, folder)
    assert list(target.iterdir()) == []


def test_a_file_twice_is_refused(tmp_path: Path, folder: Path) -> None:
    path = archive(tmp_path / "a.tar", member("b.tif", b"1"), member("b.tif", b"2"))
    with pytest.raises(InvalidProduct, match="twice"):
        unpack(path, folder)
    assert (folder / "b.tif").read_bytes() == b"1"


def test_too_many_members_are_refused(tmp_path: Path, folder: Path) -> None:
    many = [member(f"f{i}.jpg") for i in range(limits.MAX_MEMBERS + 1)]
    with pytest.raises(InvalidProduct, match="more than 500 files"):
        unpack(archive(tmp_path / "a.tar", *many), folder)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_bomb_is_stopped_at_the_limit(tmp_path: Path, folder: Path, suffix: str) -> None:
    path = archive(tmp_path / f"a{suffix}", member("b.tif", bytes(3 * 2**20)))
    with pytest.raises(InvalidProduct, match="unpacks to more than"):
        unpack(path, folder, max_bytes=2**20)
    assert sum(p.stat().st_size for p in folder.rglob("*")) <= 2**20
    for left in folder.iterdir():
        left.unlink()
    unpack(path, folder, max_bytes=4 * 2**20)
    assert (folder / "b.tif").stat().st_size == 3 * 2**20


def test_files_count_together(tmp_path: Path, folder: Path) -> None:
    path = archive(tmp_path / "a.tar", *(member(f"b{n}.TIF", b"x" * 600) for n in range(3)))
    with pytest.raises(InvalidProduct, match="unpacks to more than"):
        unpack(path, folder, max_bytes=1799)
    assert sorted(file.name for file in folder.iterdir()) == ["b0.TIF", "b1.TIF"]


def test_a_header_cannot_fill_the_memory(tmp_path: Path, folder: Path) -> None:
    """tarfile reads an extended header whole, however large it says it is."""
    pax = tarfile.TarInfo("././@PaxHeader")
    pax.type, pax.size = tarfile.XHDTYPE, 60 * 2**20
    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb") as stream:
        stream.write(pax.tobuf(format=tarfile.USTAR_FORMAT))
        for _ in range(60):
            stream.write(bytes(2**20))
    tracemalloc.start()
    try:
        with pytest.raises(InvalidProduct, match="header that is too large"):
            unpack(path, folder)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def garble(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = b"\0" * 40
    path.write_bytes(bytes(data))


def replace_by_text(path: Path) -> None:
    path.write_bytes(b"<html>Please log in</html>" * 100)


@pytest.mark.parametrize("damage", [cut, replace_by_text])
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_damaged_archive_is_refused(
    tmp_path: Path, folder: Path, suffix: str, damage: Callable[[Path], None]
) -> None:
    noise = bytes(range(256)) * 4000
    path = archive(tmp_path / f"a{suffix}", member("b.tif", noise), member("c.tif", noise))
    damage(path)
    with pytest.raises(InvalidProduct, match=r"damaged|ends in the middle"):
        unpack(path, folder)


def test_a_garbled_gzip_is_refused(tmp_path: Path, folder: Path) -> None:
    path = archive(tmp_path / "a.tar.gz", member("b.tif", bytes(range(256)) * 4000))
    garble(path)
    with pytest.raises(InvalidProduct, match="damaged"):
        unpack(path, folder)

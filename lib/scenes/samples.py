"""The sample scenes: real crops that are downloaded, and synthetic scenes of the generator.

The real ones are three crops of the `xlandsat` sample data (Corumbá before and during a
wildfire, and wind turbines off Liverpool; CC0, Landsat data of the U.S. Geological
Survey). They are pinned to one commit and checked by their SHA-256.
"""

from __future__ import annotations

import hashlib
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from lib.config.settings import PROJECT
from lib.errors import NotFound, SceneUnavailable, StorageFull
from lib.model import Scene, SceneId
from lib.scenes.local_catalog import LocalCatalog
from lib.scenes.synthetic import FormosatSpec, LandsatSpec, write_formosat, write_landsat

_COMMIT = "20c25691d4e30d026a90e0a64d9f2e087634b3dc"
BASE = f"https://raw.githubusercontent.com/compgeolab/xlandsat/{_COMMIT}/data"
_TOTAL_S = 180.0


@dataclass(frozen=True, slots=True)
class RealSample:
    """A file to download; `title` says what it shows."""

    scene: str
    title: str
    size: int
    sha256: str

    @property
    def file(self) -> str:
        """Name of the archive."""
        return f"{self.scene}-cropped.tar.gz"


REAL = (
    RealSample(
        "LC08_L1TP_227074_20190809_20200827_02_T1",
        "Corumbá, before a wildfire",
        4_097_178,
        "570f8a143fff299ef887db2f9f6b28cae8229089609c5bdb5140660baf10ac2a",
    ),
    RealSample(
        "LC08_L1TP_227074_20190825_20200826_02_T1",
        "Corumbá, during a wildfire",
        4_015_154,
        "b2dbb3df7431f829b0d2a30ae43a5b43f2a12234733caef30e2a22acf98b49e5",
    ),
    RealSample(
        "LC08_L2SP_204023_20200927_20201006_02_T1",
        "Wind turbines off Liverpool",
        801_245,
        "e787ea58df1e4754533c232ceb904a4076cba54878fe61286a41b2f38a09126d",
    ),
)

#: (what it shows, how it is made)
SYNTHETIC: tuple[tuple[str, LandsatSpec | FormosatSpec], ...] = (
    ("Tokyo Bay, winter", LandsatSpec(139.80, 35.30, 107, 36, date(2024, 1, 17), 1)),
    ("Tokyo Bay, spring", LandsatSpec(139.80, 35.30, 107, 36, date(2024, 4, 22), 1, cloud=0.12)),
    ("Osaka Bay", LandsatSpec(135.20, 34.45, 110, 36, date(2023, 10, 28), 2, fires=3)),
    ("Kagoshima", LandsatSpec(130.60, 31.50, 112, 38, date(2023, 12, 13), 3, sea=0.35, fires=12)),
    ("Taipei", LandsatSpec(121.60, 25.20, 117, 43, date(2024, 2, 20), 4, cloud=0.08)),
    ("Kaohsiung", LandsatSpec(120.25, 22.60, 118, 45, date(2023, 11, 7), 5, turbines=16)),
    ("Taichung harbour", FormosatSpec(120.50, 24.30, date(2012, 10, 5), 11)),
    ("Keelung harbour", FormosatSpec(121.75, 25.17, date(2014, 5, 3), 12, cloud=0.06)),
    ("Naha harbour", FormosatSpec(127.66, 26.21, date(2010, 7, 21), 13, cloud=None, ships=20)),
)


def get_real_samples(
    cache: Path, *, sibling: Path | None = None, timeout_s: float = 5.0, base: str = BASE
) -> list[Path]:
    """Archives of the real samples, from `sibling` or `cache`, else downloaded to `cache`.

    Args:
        sibling: a folder that may hold the files already; it is only read.
        timeout_s: for connecting, and for each wait after that.
        base: where they are downloaded from.
    Raises:
        SceneUnavailable: there is no internet, or a file is not what it should be.
        StorageFull: `cache` cannot be written.
    """
    return [_get(sample, cache, sibling, timeout_s, base) for sample in REAL]


def write_synthetic(folder: Path, spec: LandsatSpec | FormosatSpec) -> Path:
    """Write one synthetic product below `folder`."""
    if isinstance(spec, LandsatSpec):
        return write_landsat(folder, spec)
    return write_formosat(folder, spec)


def ingest_samples(
    catalog: LocalCatalog,
    cache: Path,
    say: Callable[[str], None],
    *,
    complain: Callable[[str], None] | None = None,
    sibling: Path | None = None,
    timeout_s: float = 5.0,
    base: str = BASE,
) -> tuple[Scene, ...]:
    """Take in every sample that is not in the catalog yet; returns all that are there.

    A real sample that cannot be had is said and left out; the synthetic ones need nothing.

    Args:
        cache: where downloads are kept.
        say: gets one short line per step.
        complain: gets one sentence where the real ones cannot be had; without it, `say` does.
    Raises:
        StorageFull: no space is left.
    """
    return (
        *_real(catalog, cache, say, complain or say, sibling, timeout_s, base),
        *_synthetic(catalog, say),
    )


def ingest_samples_into(
    data: Path, say: Callable[[str], None], complain: Callable[[str], None] | None = None
) -> tuple[Scene, ...]:
    """`ingest_samples` for a portal's data folder.

    The real ones may lie in a folder beside the project; else they are downloaded.
    """
    beside = PROJECT.parent / "shared" / "data" / "landsat8"
    catalog = LocalCatalog(data / "scenes")
    cache = data / "cache" / "samples"
    return ingest_samples(catalog, cache, say, complain=complain, sibling=beside)


def _real(
    catalog: LocalCatalog,
    cache: Path,
    say: Callable[[str], None],
    complain: Callable[[str], None],
    sibling: Path | None,
    timeout_s: float,
    base: str,
) -> Iterator[Scene]:
    reachable = True
    for sample in REAL:
        if (known := _known(catalog, sample.scene)) is not None:
            yield known
        elif reachable:
            say(f"Getting the real sample scene {sample.scene} ({sample.title})")
            try:
                archive = _get(sample, cache, sibling, timeout_s, base)
                yield catalog.add(archive, place=sample.title)
            except SceneUnavailable as exc:
                reachable = False
                complain(f"{exc.message} To try again later: python admin.py samples get")


def _synthetic(catalog: LocalCatalog, say: Callable[[str], None]) -> Iterator[Scene]:
    for number, (title, spec) in enumerate(SYNTHETIC, start=1):
        if (known := _known(catalog, spec.scene_id)) is not None:
            yield known
            continue
        say(f"Making the synthetic sample scene {number} of {len(SYNTHETIC)} ({title})")
        with TemporaryDirectory(prefix=".samples-", dir=catalog.root.parent) as work:
            product = write_synthetic(Path(work), spec)
            yield catalog.add(product, synthetic=True, place=title)


def _known(catalog: LocalCatalog, ident: str) -> Scene | None:
    try:
        return catalog.get(SceneId(ident))
    except NotFound:
        return None


def _get(
    sample: RealSample, cache: Path, sibling: Path | None, timeout_s: float, base: str
) -> Path:
    for folder in (sibling, cache):
        path = folder / sample.file if folder else None
        if path and path.is_file() and _sha256(path) == sample.sha256:
            return path
    target, draft = cache / sample.file, cache / f"{sample.file}.part"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as sink:
            _download(f"{base}/{sample.file}", sink, sample.size, timeout_s)
        if _sha256(draft) != sample.sha256:
            raise SceneUnavailable(f"The download of {sample.file} is not the expected file.")
        draft.replace(target)
    except (urllib.error.URLError, TimeoutError, ConnectionError, HTTPException) as exc:
        raise SceneUnavailable(
            "The real sample scenes could not be downloaded: there is no connection to GitHub."
        ) from exc
    except OSError as exc:
        raise StorageFull(f"{target} could not be written.") from exc
    finally:
        draft.unlink(missing_ok=True)
    return target


def _download(address: str, sink: IO[bytes], size: int, timeout_s: float) -> None:
    """Write what `address` sends, at most `size` bytes and three minutes long."""
    opener = urllib.request.build_opener(_NoRedirect)
    started, received = time.monotonic(), 0
    with opener.open(address, timeout=timeout_s) as source:
        while received <= size and (chunk := source.read(1 << 16)):
            received += len(chunk)
            sink.write(chunk)
            if time.monotonic() - started > _TOTAL_S:
                raise TimeoutError("too slow")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The files are where they are, or not at all."""

    def redirect_request(self, *_args: object, **_kwargs: object) -> None:
        return None

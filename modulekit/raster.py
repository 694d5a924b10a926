"""Reading the bands of a scene: safely, in strips, each pixel decoded once.

The files come from outside, so GDAL may use one driver only, looks at no
sidecar file, and opens only regular files and addresses that we form from an https href.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.windows import Window

from modulekit.arrays import Numbers
from modulekit.errors import SceneError
from modulekit.scenes import Band, SceneItem

#: Height and width in pixels, affine from (column, row) to coordinates, and their system.
Grid = tuple[int, int, Affine, CRS]

#: The one driver that may open files; a COG is a GeoTIFF to read.
DRIVER = "GTiff"
#: Cached blocks of all files together; GDAL's default is 5 % of the memory. In bytes:
#: rasterio 1.4 hands the number to GDALSetCacheMax, and 64 would be 64 bytes.
CACHE_BYTES = 64 * 2**20
READ_THREADS = 2


def gdal_environment() -> rasterio.Env:
    """The settings under which every file of a scene is opened. Use as a context."""
    return rasterio.Env(
        GDAL_CACHEMAX=CACHE_BYTES,
        GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR",
        GDAL_PAM_ENABLED=False,
        GDAL_HTTP_TIMEOUT=60,
        GDAL_HTTP_CONNECTTIMEOUT=20,
        GDAL_HTTP_MAX_RETRY=3,
        GDAL_HTTP_RETRY_DELAY=1,
        GDAL_INGESTED_BYTES_AT_OPEN=32768,
    )


@dataclass(frozen=True)
class Strip:
    """Some rows of a scene with a halo.

    `bands[name]` has shape (rows, width); its first row is row `top` of the scene.
    Rows `y0` to `y1` (exclusive) are to be worked on; the others are their surroundings,
    cut off at the edge of the scene.
    """

    y0: int
    y1: int
    top: int
    bands: dict[str, Numbers]

    @property
    def inner(self) -> slice:
        """The rows of the arrays that are to be worked on."""
        return slice(self.y0 - self.top, self.y1 - self.top)


class SceneReader:
    """The band files of one scene, on one common grid.

    Opens a file when a band of it is first asked for. Not for use by several threads
    at once; it reads with threads of its own. Close it, or use it as a context.
    """

    def __init__(self, item: SceneItem) -> None:
        self.item = item
        self._files: dict[str, DatasetReader] = {}
        self._grid: Grid | None = None
        self._pool = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="read")

    def __enter__(self) -> SceneReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        for file in self._files.values():
            file.close()
        self._files.clear()

    def open(self, names: Sequence[str]) -> None:
        """Open the files of the bands `names` and make sure that they share a grid.

        Raises:
            SceneError: a band is missing, a file cannot be read, has no georeference,
                or lies on another grid than the others.
        """
        for name in names:
            self._file(self.item.band(name))

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width), pixels; known once a band is open."""
        height, width, _, _ = self._known_grid()
        return height, width

    @property
    def transform(self) -> Affine:
        """Affine from (column, row) to the coordinates of `crs`."""
        return self._known_grid()[2]

    @property
    def crs(self) -> CRS:
        """`rasterio.crs.CRS` of the grid."""
        return self._known_grid()[3]

    @property
    def pixel_area_m2(self) -> float:
        """Area of one pixel in square metres.

        On a grid in degrees it is taken at the scene's centre.
        """
        transform, crs = self.transform, self.crs
        area = float(abs(transform.a * transform.e - transform.b * transform.d))
        if not crs.is_geographic:
            return area * float(crs.linear_units_factor[1]) ** 2
        height, width = self.shape
        _, latitude = transform @ (width / 2, height / 2)
        return area * 111_320.0**2 * float(np.cos(np.radians(latitude)))

    def strips(self, names: Sequence[str], rows: int, halo: int) -> Iterator[Strip]:
        """The whole scene in strips of about `rows` rows, from the top.

        Chunks of `rows` rows are read once each, the next one while the caller works;
        what a strip needs of the chunk before is kept. So a strip ends `halo` rows
        before its chunk does. Whatever is computed from a pixel and up to `halo`
        pixels around it does not depend on `rows`.

        Raises:
            SceneError: as `open`, or a file turns out to be damaged.
        """
        self.open(names)
        height, _ = self.shape
        rows = max(1, min(rows, height))
        starts = range(0, height, rows)
        upcoming = self._submit(names, 0, min(rows, height))
        kept: dict[str, Numbers] = {}
        top = y0 = 0
        for start in starts:
            bands = self._assemble(upcoming, kept)
            end = min(start + rows, height)
            if end < height:
                upcoming = self._submit(names, end, min(end + rows, height))
            y1 = height if end == height else end - halo
            if y1 > y0:
                yield Strip(y0, y1, top, bands)
                y0 = y1
            keep = max(0, y0 - halo)
            kept = {name: array[keep - top :].copy() for name, array in bands.items()}
            top = keep

    def window(self, name: str, row: int, column: int, height: int, width: int) -> Numbers:
        """One band in a window that lies inside the scene, shape (height, width)."""
        band = self.item.band(name)
        file = self._file(band)
        data = _read(file, [band.index], Window(column, row, width, height))
        return data.reshape(height, width)

    def reduced(self, name: str, height: int, width: int) -> Numbers:
        """One band of the whole scene at a smaller size, nearest neighbour."""
        band = self.item.band(name)
        file = self._file(band)
        data = _read(file, [band.index], None, out_shape=(1, height, width))
        return data.reshape(height, width)

    def _known_grid(self) -> Grid:
        if self._grid is None:
            raise SceneError("No band of the scene is open yet.")
        return self._grid

    def _file(self, band: Band) -> DatasetReader:
        if band.href not in self._files:
            file = _open(band, self.item.folder)
            self._files[band.href] = file
            self._check_grid(band, file)
        file = self._files[band.href]
        if band.index > file.count:
            raise SceneError(
                f"The file of band {band.name} has {file.count} bands, not {band.index}."
            )
        return file

    def _check_grid(self, band: Band, file: DatasetReader) -> None:
        grid = (file.height, file.width, file.transform, file.crs)
        if file.crs is None:
            raise SceneError(
                f"The file of band {band.name} has no georeference; take the product in again."
            )
        if self._grid is None:
            self._grid = grid
        elif self._grid != grid:
            raise SceneError(
                f"The file of band {band.name} ({file.width} x {file.height} pixels) lies on "
                f"another grid than the other bands ({self._grid[1]} x {self._grid[0]})."
            )

    def _submit(self, names: Sequence[str], y0: int, y1: int) -> list[Future[dict[str, Numbers]]]:
        by_file: dict[str, list[Band]] = {}
        for name in names:
            band = self.item.band(name)
            by_file.setdefault(band.href, []).append(band)
        return [self._pool.submit(self._read_rows, bands, y0, y1) for bands in by_file.values()]

    def _read_rows(self, bands: list[Band], y0: int, y1: int) -> dict[str, Numbers]:
        file = self._files[bands[0].href]
        window = Window(0, y0, file.width, y1 - y0)
        data = _read(file, [b.index for b in bands], window)
        return {band.name: data[i] for i, band in enumerate(bands)}

    @staticmethod
    def _assemble(
        upcoming: list[Future[dict[str, Numbers]]], kept: dict[str, Numbers]
    ) -> dict[str, Numbers]:
        new: dict[str, Numbers] = {}
        for future in upcoming:
            new.update(future.result())
        if not kept:
            return new
        return {name: np.concatenate([kept[name], new.pop(name)]) for name in list(new)}


def _open(band: Band, folder: Path) -> DatasetReader:
    address = _address(band, folder)
    try:
        # `sharing` off: a file that is used by two readers must not share a handle.
        return rasterio.open(address, driver=DRIVER, sharing=False)
    except RasterioError as exc:
        raise SceneError(_unreadable(band)) from exc


def _unreadable(band: Band) -> str:
    """One sentence; of an address only the host, since its query may hold a signature."""
    parts = urlsplit(band.href)
    if parts.scheme:
        return (
            f"The file of band {band.name} cannot be read from {parts.hostname}; "
            "see whether it is still offered there, and run again."
        )
    return (
        f"The file of band {band.name} ({Path(band.href).name}) is no readable GeoTIFF; "
        "get the product again."
    )


def _address(band: Band, folder: Path) -> str:
    if band.href.startswith("https://"):
        return f"/vsicurl/{band.href}"
    path = folder / band.href
    if not path.as_posix().startswith("/vsi") and path.is_file():
        return str(path.resolve())
    raise SceneError(
        f"The file of band {band.name} ({Path(urlsplit(band.href).path).name}) is not there; "
        "complete the product and take it in again."
    )


def _read(
    file: DatasetReader,
    indexes: list[int],
    window: Window | None,
    out_shape: tuple[int, ...] | None = None,
) -> Numbers:
    try:
        data: Numbers = file.read(indexes, window=window, out_shape=out_shape)
    except RasterioError as exc:
        name = Path(urlsplit(file.name).path).name
        raise SceneError(f"{name} is damaged or cut short; get the product again.") from exc
    return data

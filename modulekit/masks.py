"""The mask of a scene as a Cloud Optimized GeoTIFF."""

from __future__ import annotations

from pathlib import Path

from rasterio.crs import CRS
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from modulekit.arrays import Bits
from modulekit.files import write_bytes


def write_mask(path: Path, mask: Bits, transform: Affine, crs: CRS, bits: tuple[str, ...]) -> None:
    """Write `mask`, uint8 (height, width), on the scene's grid.

    The file is made in memory, where it is small, and written in one piece: GDAL does
    not report every failed write, the operating system does. Errors as in
    `modulekit.files.writing`.

    Args:
        bits: names of the mask's bits from bit 0; kept as the band's description.
    """
    described = ", ".join(f"{1 << k} {name}" for k, name in enumerate(bits))
    height, width = mask.shape
    with MemoryFile() as memory:
        with memory.open(
            driver="COG",
            height=height,
            width=width,
            count=1,
            dtype="uint8",
            crs=crs,
            transform=transform,
            compress="DEFLATE",
            level=1,
            overview_resampling="nearest",
            num_threads="2",
        ) as file:
            file.write(mask, 1)
            file.set_band_description(1, described)
        write_bytes(path, memory.read())

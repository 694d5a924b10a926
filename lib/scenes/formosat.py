"""Read FORMOSAT products: DIMAP 1.1 folders of `METADATA.DIM` and `IMAGERY.TIF`.

GDAL's DIMAP driver is not used: the metadata is parsed here, so nothing in it can name a
file outside of the folder. Level 1A is located by its tie points and warped to UTM.

Known traps, and what is done about them (Orfeo Toolbox met them first):

* the spectral information is listed in another order than the raster's bands, which are
  B1 to B4 (blue, green, red, near infrared): gains are matched by name, never by place;
* CLOUDCOVER 999 means unknown;
* the solar irradiance is 0, so no reflectance can be computed: pixels stay numbers;
* the satellite's azimuth of software R2P_02.02 and R2P_02.03 is wrong: left out.

FORMOSAT-5 has no public sample. Its profile in `catalogs/formosat/profiles.toml` follows
the published sensor description and can be corrected there.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from affine import Affine
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring
from rasterio.control import GroundControlPoint

from lib.errors import InvalidProduct
from lib.imagery.raster import Grid, RasterInfo, describe
from lib.model import JsonValue
from lib.scenes import limits
from lib.scenes.product import Product, ProductFile, is_plain

COLLECTION = "formosat"
PROFILES = Path(__file__).resolve().parents[2] / "catalogs" / "formosat" / "profiles.toml"
SYNTHETIC_PRODUCER = "SceneBridge synthetic"
_SCENE = "Dataset_Sources/Source_Information/Scene_Source"
_WRONG_AZIMUTH = re.compile(r"R2P_02\.0[23](\.P1)?")


@dataclass(frozen=True, slots=True)
class Profile:
    """One FORMOSAT sensor. `order` is the raster's: `eo:common_name` of each band."""

    mission_index: str
    platform: str
    prefix: str
    order: tuple[str, ...]
    names: tuple[str, ...]
    centres_um: tuple[float, ...]
    ms_gsd_m: float
    pan_gsd_m: float


@cache
def profiles(path: Path = PROFILES) -> dict[str, Profile]:
    """Sensor profiles by mission index."""
    with path.open("rb") as stream:
        table = tomllib.load(stream)
    found = {}
    for index, entry in table["formosat"].items():
        found[index] = Profile(
            index, entry["platform"], entry["prefix"], tuple(entry["order"]), tuple(entry["names"]),
            tuple(entry["centres_um"]), entry["ms_gsd_m"], entry["pan_gsd_m"],
        )  # fmt: skip
    return found


def find_dims(folder: Path) -> list[Path]:
    """The DIMAP metadata files of a folder and of its direct sub-folders."""
    near = [folder, *(p for p in sorted(folder.iterdir()) if p.is_dir() and not p.is_symlink())]
    files = (path for place in near for path in sorted(place.iterdir()))
    return [path for path in files if path.suffix.lower() == ".dim" and is_plain(path)]


def read(dims: list[Path]) -> Product:
    """Read one multispectral or panchromatic product, or the pair of one acquisition.

    Raises:
        InvalidProduct: unknown sensor, missing field, or the image does not fit it.
    """
    parts = [_Part.read(path) for path in dims]
    parts.sort(key=lambda part: part.asset != "ms")
    first = parts[0]
    if len(parts) > 2 or len({p.asset for p in parts}) != len(parts):
        raise InvalidProduct("The folder holds several FORMOSAT products. Keep one in a folder.")
    if any(abs((p.time - first.time).total_seconds()) > 120 for p in parts):
        raise InvalidProduct("The two METADATA.DIM are of different times; add them one by one.")
    job = first.text("Production/JOB_ID", "Dataset_Id/DATASET_NAME")
    synthetic = first.find("Production/DATASET_PRODUCER_NAME") == SYNTHETIC_PRODUCER
    ident = re.sub(r"[^A-Za-z0-9_.-]+", "-", job)[:80]
    title = f"{first.profile.platform.upper()} level {first.level}, {first.time:%Y-%m-%d}"
    truth = first.path.parent / "truth.geojson"
    return Product(
        id=f"{first.profile.prefix}_{first.time:%Y%m%d}_{ident}",
        collection=COLLECTION,
        platform=first.profile.platform,
        time=first.time,
        title=f"Synthetic {title}" if synthetic else title,
        level=first.level,
        synthetic=synthetic,
        properties=_properties(first),
        files=tuple(part.file() for part in parts),
        outline_asset=first.asset,
        sidecars={"dim": first.path} | ({"truth": truth} if synthetic and is_plain(truth) else {}),
    )


def _properties(part: _Part) -> dict[str, JsonValue]:
    elevation = part.number(f"{_SCENE}/SUN_ELEVATION")
    if not -90 <= elevation <= 90:
        raise InvalidProduct(f"{part.path.name}: SUN_ELEVATION is not an angle ({elevation:g}).")
    found: dict[str, JsonValue] = {
        "instruments": [part.text(f"{_SCENE}/INSTRUMENT").lower()],
        "view:sun_elevation": elevation,
        "view:sun_azimuth": part.number(f"{_SCENE}/SUN_AZIMUTH") % 360,
    }
    if (cloud := part.cloud()) is not None:
        found["eo:cloud_cover"] = cloud
    software = part.find("Production/Production_Facility/SOFTWARE_VERSION") or ""
    if software:
        found["processing:software"] = {"R2P": software}
    azimuth = part.find(f"{_SCENE}/SATELLITE_AZIMUTH_ANGLE")
    if azimuth and not _WRONG_AZIMUTH.fullmatch(software):
        found["view:azimuth"] = part.number(f"{_SCENE}/SATELLITE_AZIMUTH_ANGLE") % 360
    if part.find(f"{_SCENE}/SATELLITE_INCIDENCE_ANGLE"):
        found["view:incidence_angle"] = abs(part.number(f"{_SCENE}/SATELLITE_INCIDENCE_ANGLE"))
    return found


@dataclass(frozen=True, slots=True)
class _Part:
    """One METADATA.DIM with its image."""

    path: Path
    root: Element
    profile: Profile
    asset: str
    level: str
    time: datetime

    @staticmethod
    def read(path: Path) -> _Part:
        root = _parse(path)
        mission = (root.findtext(f"{_SCENE}/MISSION") or "").strip()
        index = (root.findtext(f"{_SCENE}/MISSION_INDEX") or "").strip()
        known = profiles()
        if mission.upper() != "FORMOSAT" or index not in known:
            raise InvalidProduct(
                f"{path.name} is of {mission or 'an unnamed mission'} {index}; DIMAP products of "
                f"FORMOSAT {' and '.join(sorted(known))} can be read."
            )
        draft = _Part(path, root, known[index], "", "", datetime.min)
        count = int(draft.number("Raster_Dimensions/NBANDS"))
        if count not in (1, len(known[index].order)):
            raise InvalidProduct(f"{path.name}: NBANDS is {count}; 1 or 4 can be read.")
        level = draft.text("Data_Processing/PROCESSING_LEVEL").upper()[:8]
        return _Part(path, root, known[index], "pan" if count == 1 else "ms", level, draft._time())

    def find(self, where: str) -> str | None:
        value = self.root.findtext(where)
        return value.strip() if value and value.strip() else None

    def text(self, *places: str) -> str:
        for where in places:
            if value := self.find(where):
                return value
        raise InvalidProduct(f"{self.path.name} lacks the field {places[0]}.")

    def number(self, where: str) -> float:
        return _number(self.text(where), where, self.path)

    def cloud(self) -> float | None:
        for name in ("CLOUDCOVER", "CLOUD_COVER", "CLOUD_COVERAGE"):
            for found in self.root.iter(name):
                value = _number(found.text or "", name, self.path)
                return value if 0 <= value <= 100 else None
        return None

    def file(self) -> ProductFile:
        source = self._source()
        info = describe(source)
        declared = tuple(
            int(self.number(f"Raster_Dimensions/{name}")) for name in ("NCOLS", "NROWS", "NBANDS")
        )
        if declared != (info.width, info.height, info.count):
            raise InvalidProduct(
                f"{source.name} is {info.width} x {info.height} pixels in {info.count} bands, but "
                f"{self.path.name} says NCOLS, NROWS, NBANDS are {declared[0]}, {declared[1]}, "
                f"{declared[2]}."
            )
        grid = info.grid or self._inserted(info)
        gcps = () if grid else tuple(self._tie_points())
        if not grid and len(gcps) < 3:
            raise InvalidProduct(
                f"{source.name} cannot be located: it carries no georeference and "
                f"{self.path.name} has neither Geoposition_Insert nor 3 Tie_Points."
            )
        gsd = self.profile.ms_gsd_m if self.asset == "ms" else self.profile.pan_gsd_m
        return ProductFile(
            self.asset, source, tuple(self._bands(info)), ("data",), grid, gcps=gcps,
            warp_epsg=_utm(gcps) if gcps else 0, warp_resolution_m=gsd,
        )  # fmt: skip

    def _time(self) -> datetime:
        text = self.find("Data_Strip/Time_Stamp/REFERENCE_TIME")
        if text is None:
            text = f"{self.text(f'{_SCENE}/IMAGING_DATE')} {self.text(f'{_SCENE}/IMAGING_TIME')}"
        try:
            plain = re.sub(r"(\.\d{6})\d+", r"\1", text.rstrip("Z"))
            return datetime.fromisoformat(f"{plain}+00:00")
        except ValueError as exc:
            raise InvalidProduct(
                f"{self.path.name}: REFERENCE_TIME is no time ({text!r:.40})."
            ) from exc

    def _source(self) -> Path:
        element = self.root.find("Data_Access/Data_File/DATA_FILE_PATH")
        name = (element.get("href") if element is not None else None) or "IMAGERY.TIF"
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,120}", name) or not name.lower().endswith(
            (".tif", ".tiff")
        ):
            raise InvalidProduct(
                f"{self.path.name}: DATA_FILE_PATH is not a plain file name ({name!r:.60})."
            )
        for path in self.path.parent.iterdir():
            if path.name.lower() == name.lower() and is_plain(path):
                return path
        raise InvalidProduct(f"{name} is missing: {self.path.name} names it, but it is not there.")

    def _inserted(self, info: RasterInfo) -> Grid | None:
        place = "Geoposition/Geoposition_Insert"
        code = self.find("Coordinate_Reference_System/Horizontal_CS/HORIZONTAL_CS_CODE") or ""
        found = re.fullmatch(r"(?:EPSG|epsg):(\d{4,5})", code)
        if self.root.find(place) is None or not found:
            return None
        x, y = self.number(f"{place}/ULXMAP"), self.number(f"{place}/ULYMAP")
        dx, dy = self.number(f"{place}/XDIM"), self.number(f"{place}/YDIM")
        if dx <= 0 or dy <= 0:
            raise InvalidProduct(f"{self.path.name}: XDIM and YDIM must be more than 0.")
        centre = 0.5 if (self.find("Raster_CS/RASTER_CS_TYPE") or "") == "POINT" else 0.0
        transform = Affine(dx, 0, x - centre * dx, 0, -dy, y + centre * dy)
        return Grid(int(found[1]), transform, info.width, info.height)

    def _tie_points(self) -> Iterator[GroundControlPoint]:
        origin = _number(self.find("Raster_CS/PIXEL_ORIGIN") or "1", "PIXEL_ORIGIN", self.path)
        centre = 0.0 if (self.find("Raster_CS/RASTER_CS_TYPE") or "") == "CELL" else 0.5
        for point in self.root.findall("Geoposition/Geoposition_Points/Tie_Point")[:1000]:
            x, y, col, row = (
                _number(point.findtext(f"TIE_POINT_{name}") or "", f"TIE_POINT_{name}", self.path)
                for name in ("CRS_X", "CRS_Y", "DATA_X", "DATA_Y")
            )
            if not (-180 <= x <= 180 and -90 <= y <= 90):
                raise InvalidProduct(
                    f"{self.path.name}: a Tie_Point is not in longitude and latitude."
                )
            yield GroundControlPoint(
                row=row - origin + centre, col=col - origin + centre, x=x, y=y, z=0.0
            )

    def _bands(self, info: RasterInfo) -> Iterator[dict[str, JsonValue]]:
        if self.asset == "pan":
            yield self._band("PAN", "pan", 0.675, info)
            return
        profile = self.profile
        for name, common, centre in zip(
            profile.names, profile.order, profile.centres_um, strict=True
        ):
            yield self._band(name, common, centre, info)

    def _band(
        self, name: str, common: str, centre_um: float, info: RasterInfo
    ) -> dict[str, JsonValue]:
        band: dict[str, JsonValue] = {
            "name": name, "eo:common_name": common, "eo:center_wavelength": centre_um,
            "data_type": info.dtype, "nodata": 0,
        }  # fmt: skip
        for entry in self.root.findall("Image_Interpretation/Spectral_Band_Info"):
            gain = entry.findtext("PHYSICAL_GAIN")
            if (entry.findtext("BAND_DESCRIPTION") or "").strip().upper() == name and gain:
                band["formosat:physical_gain"] = _number(gain, "PHYSICAL_GAIN", self.path)
                bias = entry.findtext("PHYSICAL_BIAS") or "0"
                band["formosat:physical_bias"] = _number(bias, "PHYSICAL_BIAS", self.path)
        return band


def _parse(path: Path) -> Element:
    with path.open("rb") as stream:
        data = stream.read(limits.MAX_TEXT_BYTES + 1)
    if len(data) > limits.MAX_TEXT_BYTES:
        raise InvalidProduct(f"{path.name} is too large to be DIMAP metadata.")
    try:
        root: Element = fromstring(data)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as exc:
        raise InvalidProduct(f"{path.name} cannot be read as DIMAP metadata: {exc}") from exc
    if root.tag != "Dimap_Document":
        raise InvalidProduct(f"{path.name} is not DIMAP metadata: it starts with {root.tag!r:.40}.")
    return root


def _number(text: str, what: str, path: Path) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidProduct(f"{path.name}: {what} is not a number ({text!r:.40}).")
    return value


def _utm(gcps: tuple[GroundControlPoint, ...]) -> int:
    lon = sum(p.x for p in gcps) / len(gcps)
    lat = sum(p.y for p in gcps) / len(gcps)
    zone = min(60, int((lon + 180) // 6) + 1)
    return (32600 if lat >= 0 else 32700) + zone

"""Write a synthetic FORMOSAT-2 multispectral product, level 1A, in its real layout.

`METADATA.DIM` (DIMAP 1.1) with four tie points, and `IMAGERY.TIF` without any
georeference: 8 bits, B1 to B4, turned by the orbit's inclination.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import rasterio
from affine import Affine
from rasterio.warp import transform as transform_points

from lib.imagery.raster import without_georeference
from lib.scenes.formosat import SYNTHETIC_PRODUCER
from lib.scenes.synthetic import objects
from lib.scenes.synthetic.geometry import overpass, sun_angles, utm_epsg
from lib.scenes.synthetic.landscape import Landscape, Window
from lib.scenes.synthetic.objects import Planted

_PIXEL_M = 8.0
_STRIP = 256
_LOCAL_HOUR = 9.7
_ORIENTATION = 12.0
#: Counts per unit of reflectance, B1..B4; and the gains of a real product of 2007.
_COUNTS = np.array([330, 330, 330, 300], dtype=np.float32)[:, None, None]
_GAINS = {"B3": 0.332615, "B2": 0.354691, "B1": 0.255004, "B4": 0.433054}
#: Rows of the Landsat-like reflectance that the four bands take.
_ROWS = [1, 2, 3, 4]


@dataclass(frozen=True, slots=True)
class FormosatSpec:
    """A synthetic acquisition; fields as in `LandsatSpec`, `size` in pixels of 8 m."""

    lon: float
    lat: float
    day: date
    ground: int
    sea: float = 0.55
    cloud: float | None = 0.02
    ships: int = 14
    size: int = 1200

    @property
    def job_id(self) -> str:
        """Named like a real production job."""
        done = self.day + timedelta(days=2)
        return f"R2_SYN_{done:%y%m%d}{self.ground:06d}_1"

    @property
    def scene_id(self) -> str:
        """Id of the scene that it becomes."""
        time = overpass(self.day, self.lon, local_hour=_LOCAL_HOUR)
        return f"FS2_{time:%Y%m%d}_{self.job_id}"


def write_formosat(folder: Path, spec: FormosatSpec) -> Path:
    """Write the product as `folder/JOB_ID/`; the same `spec` gives the same pixels."""
    product = folder / spec.job_id
    product.mkdir(parents=True)
    land = Landscape(spec.ground, spec.day.toordinal(), (spec.size, spec.size), _PIXEL_M,
                     sea=spec.sea, cloud=spec.cloud or 0.0)  # fmt: skip
    elevation, azimuth = sun_angles(spec.day, spec.lat, local_hour=_LOCAL_HOUR)
    rng = np.random.default_rng([spec.ground, spec.day.toordinal(), 5])
    planted = objects.plant(land, rng, _PIXEL_M, math.sin(math.radians(elevation)), fires=0,
                            ships=spec.ships, turbines=0, ship_lengths_m=(25, 90))  # fmt: skip
    _write_image(product / "IMAGERY.TIF", spec, land, planted)
    place = _Place.of(spec)
    document = _dim(spec, place, elevation, azimuth)
    (product / "METADATA.DIM").write_text(document, encoding="utf-8")
    (product / "truth.geojson").write_text(json.dumps(objects.truth(planted, place.lonlat)))
    return product


@dataclass(frozen=True, slots=True)
class _Place:
    """The turned grid of a level 1A image: pixels to metres of a UTM zone."""

    epsg: int
    transform: Affine

    @staticmethod
    def of(spec: FormosatSpec) -> _Place:
        epsg = utm_epsg(spec.lon, spec.lat)
        xs, ys = transform_points("EPSG:4326", f"EPSG:{epsg}", [spec.lon], [spec.lat])
        turn, half = math.radians(_ORIENTATION), spec.size / 2
        cos, sin = _PIXEL_M * math.cos(turn), _PIXEL_M * math.sin(turn)
        west = xs[0] - half * cos + half * sin
        north = ys[0] + half * sin + half * cos
        return _Place(epsg, Affine(cos, -sin, west, -sin, -cos, north))

    def lonlat(self, col: float, row: float) -> tuple[float, float]:
        x, y = self.transform @ (col, row)
        lons, lats = transform_points(f"EPSG:{self.epsg}", "EPSG:4326", [x], [y])
        return float(lons[0]), float(lats[0])


def _write_image(path: Path, spec: FormosatSpec, land: Landscape, planted: list[Planted]) -> None:
    profile: dict[str, object] = {
        "driver": "GTiff", "width": spec.size, "height": spec.size, "count": 4, "dtype": "uint8",
        "compress": "deflate", "interleave": "pixel",
    }  # fmt: skip
    with without_georeference(), rasterio.open(path, "w", **profile) as sink:
        for top in range(0, spec.size, _STRIP):
            window = Window(top, min(spec.size, top + _STRIP), 0, spec.size)
            reflectance, _, _ = land.reflectance(window)
            objects.stamp(reflectance, window, planted)
            counts = np.clip(reflectance[_ROWS] * _COUNTS + 0.5, 1, 255).astype(np.uint8)
            area = rasterio.windows.Window(0, top, spec.size, counts.shape[1])
            sink.write(counts, window=area)


def _dim(spec: FormosatSpec, place: _Place, elevation: float, azimuth: float) -> str:
    time = overpass(spec.day, spec.lon, local_hour=_LOCAL_HOUR)
    cloud = 999 if spec.cloud is None else round(100 * spec.cloud)
    corners = [(1, 1), (spec.size, 1), (spec.size, spec.size), (1, spec.size)]
    ties = "".join(_tie_point(place, col, row) for col, row in corners)
    bands = "".join(_band_info(i, *gain) for i, gain in enumerate(_GAINS.items(), start=1))
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<Dimap_Document name="METADATA.DIM">
  <Metadata_Id>
    <METADATA_FORMAT version="1.1">DIMAP</METADATA_FORMAT>
    <METADATA_PROFILE>FORMOSAT_1A</METADATA_PROFILE>
  </Metadata_Id>
  <Dataset_Id>
    <DATASET_NAME>{escape(spec.job_id)}</DATASET_NAME>
    <COPYRIGHT>Synthetic, free to use</COPYRIGHT>
  </Dataset_Id>
  <Dataset_Frame>
    <SCENE_ORIENTATION>{_ORIENTATION:.6f}</SCENE_ORIENTATION>
  </Dataset_Frame>
  <Production>
    <JOB_ID>{escape(spec.job_id)}</JOB_ID>
    <DATASET_PRODUCER_NAME>{SYNTHETIC_PRODUCER}</DATASET_PRODUCER_NAME>
    <DATASET_PRODUCTION_DATE>{spec.day + timedelta(days=2)} 00:00:00</DATASET_PRODUCTION_DATE>
    <Production_Facility>
      <SOFTWARE_NAME>SceneBridge</SOFTWARE_NAME>
    </Production_Facility>
  </Production>
  <Dataset_Sources>
    <Source_Information>
      <SOURCE_TYPE>SCENE</SOURCE_TYPE>
      <SOURCE_ID>{escape(spec.job_id)}</SOURCE_ID>
      <Scene_Source>
        <IMAGING_DATE>{time:%Y-%m-%d}</IMAGING_DATE>
        <IMAGING_TIME>{time:%H:%M:%S}</IMAGING_TIME>
        <MISSION>FORMOSAT</MISSION>
        <MISSION_INDEX>2</MISSION_INDEX>
        <INSTRUMENT>RSI</INSTRUMENT>
        <INSTRUMENT_INDEX>1</INSTRUMENT_INDEX>
        <SUN_AZIMUTH>{azimuth:.6f}</SUN_AZIMUTH>
        <SUN_ELEVATION>{elevation:.6f}</SUN_ELEVATION>
        <CLOUDCOVER>{cloud}</CLOUDCOVER>
      </Scene_Source>
    </Source_Information>
  </Dataset_Sources>
  <Data_Strip>
    <Time_Stamp>
      <REFERENCE_TIME>{_stamp(time)}</REFERENCE_TIME>
    </Time_Stamp>
  </Data_Strip>
  <Coordinate_Reference_System>
    <Horizontal_CS>
      <HORIZONTAL_CS_CODE>EPSG:4326</HORIZONTAL_CS_CODE>
      <HORIZONTAL_CS_TYPE>GEOGRAPHIC</HORIZONTAL_CS_TYPE>
    </Horizontal_CS>
  </Coordinate_Reference_System>
  <Raster_CS>
    <RASTER_CS_TYPE>POINT</RASTER_CS_TYPE>
    <PIXEL_ORIGIN>1</PIXEL_ORIGIN>
  </Raster_CS>
  <Geoposition>
    <Geoposition_Points>{ties}
    </Geoposition_Points>
  </Geoposition>
  <Raster_Dimensions>
    <NCOLS>{spec.size}</NCOLS>
    <NROWS>{spec.size}</NROWS>
    <NBANDS>4</NBANDS>
  </Raster_Dimensions>
  <Raster_Encoding>
    <NBITS>8</NBITS>
    <DATA_TYPE>UNSIGNED</DATA_TYPE>
  </Raster_Encoding>
  <Data_Access>
    <DATA_FILE_FORMAT>GEOTIFF</DATA_FILE_FORMAT>
    <Data_File>
      <DATA_FILE_PATH href="IMAGERY.TIF"/>
    </Data_File>
  </Data_Access>
  <Data_Processing>
    <PROCESSING_LEVEL>1A</PROCESSING_LEVEL>
  </Data_Processing>
  <Image_Interpretation>{bands}
  </Image_Interpretation>
</Dimap_Document>
"""


def _stamp(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S.%f")


def _tie_point(place: _Place, col: int, row: int) -> str:
    """`col` and `row` count from 1 at the centre of the first pixel."""
    lon, lat = place.lonlat(col - 0.5, row - 0.5)
    return f"""
      <Tie_Point>
        <TIE_POINT_CRS_X>{lon:.10f}</TIE_POINT_CRS_X>
        <TIE_POINT_CRS_Y>{lat:.10f}</TIE_POINT_CRS_Y>
        <TIE_POINT_CRS_Z>0</TIE_POINT_CRS_Z>
        <TIE_POINT_DATA_X>{col}</TIE_POINT_DATA_X>
        <TIE_POINT_DATA_Y>{row}</TIE_POINT_DATA_Y>
      </Tie_Point>"""


def _band_info(index: int, name: str, gain: float) -> str:
    """Listed as real products list them: red before green before blue."""
    return f"""
    <Spectral_Band_Info>
      <BAND_INDEX>{index}</BAND_INDEX>
      <BAND_DESCRIPTION>{name}</BAND_DESCRIPTION>
      <PHYSICAL_UNIT>equivalent radiance (W.m-2.Sr-1.um-1)</PHYSICAL_UNIT>
      <PHYSICAL_BIAS>0</PHYSICAL_BIAS>
      <PHYSICAL_GAIN>{gain}</PHYSICAL_GAIN>
    </Spectral_Band_Info>"""

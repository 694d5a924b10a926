"""A run's detections as one GeoJSON document (RFC 7946)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lib.model import Detection, Run


def geojson(run: Run, detections: Iterable[Detection], *, synthetic: frozenset[str]) -> bytes:
    """UTF-8 GeoJSON; outlines in lon, lat; one feature per detection.

    Args:
        synthetic: ids of scenes that are not real; their objects say so.
    """
    document = {
        "type": "FeatureCollection",
        "run": run.id,
        "module": run.module,
        "version": run.module_version,
        "params": dict(run.params),
        "state": run.state.value,
        "scenes": [s.scene for s in run.scenes],
        "features": [
            {
                "type": "Feature",
                "id": f"{d.scene}/{d.n}",
                "geometry": dict(d.geometry),
                "properties": {
                    "scene": d.scene,
                    "n": d.n,
                    "class": d.kind,
                    "score": round(d.score, 6),
                    "datetime": d.time.isoformat().replace("+00:00", "Z"),
                    "lon": d.lon,
                    "lat": d.lat,
                    "pixels": d.pixels,
                    "area_m2": d.area_m2,
                    "flags": list(d.flags),
                    "synthetic": d.scene in synthetic,
                    **{k: v for k, v in d.properties.items() if k not in _OWN},
                },
            }
            for d in detections
        ],
    }
    return json.dumps(document, ensure_ascii=False).encode()


_OWN = frozenset(
    [
        "scene",
        "n",
        "class",
        "score",
        "datetime",
        "lon",
        "lat",
        "pixels",
        "area_m2",
        "flags",
        "synthetic",
    ]
)

"""One constant folium map that needs no internet and is never rebuilt.

The map is rendered once per process. What changes (footprints, choice, area, marks) is a `MapState`
of a few hundred bytes, handed over with streamlit-folium's `feature_group_to_add`;
footprints and detections are fetched by the browser itself. What the user does comes back
as `ui.component_events`, see `ui/components/map/core.js`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import folium
import streamlit as st
from folium.elements import JSCSSMixin
from folium.plugins import Draw
from folium.template import Template
from streamlit_folium import st_folium

from lib.model import BBox, Scene
from ui import assets, component_events
from ui.component_events import Event

MAX_DRAPED = 8
#: A marked object's surroundings: this many times its larger side, and so many metres at least.
VIEW_MARGIN, LEAST_VIEW_M = 6.0, 800.0
METRES_PER_DEGREE = 111_195.0
#: Where Web Mercator ends, degrees.
_MAP_END = 85.0
#: Tiles of finer zooms would show no more of a sensor; 8 m of FORMOSAT, 15 and 30 m of Landsat.
_FINEST_TILES = {"formosat-2": 16, "formosat-5": 16}
_SCRIPTS = ("core.js", "base.js", "scenes.js", "results.js")


@dataclass(frozen=True, slots=True)
class MapState:
    """All that the map shows beside the world.

    Args:
        footprints: address of the GeoJSON of the search, "" for none.
        chosen: scenes drawn on top, whether or not the search finds them.
        drape: ids of chosen scenes whose imagery lies on the map, at most `MAX_DRAPED`.
        pick: whether a click on a footprint chooses it.
        area: GeoJSON geometry of the search's area.
        view, view_seq: (west, south, east, north) to show whenever `view_seq` changes.
        detections: address of a run's GeoJSON, "" for none.
        filter: class, scene and lowest score of the detections to show.
        mark: one detection to ring and fly to: scene, n, its `box` (west, south, east, north)
            and the `view` around it, as `mark_of` makes them.
    """

    footprints: str = ""
    chosen: tuple[Scene, ...] = ()
    drape: tuple[str, ...] = ()
    pick: bool = False
    area: Mapping[str, object] | None = None
    view: BBox | None = None
    view_seq: int = 0
    detections: str = ""
    filter: Mapping[str, object] = field(default_factory=dict)
    mark: Mapping[str, object] | None = None


def show(state: MapState, *, key: str, height: int, on_event: Callable[[Event], None]) -> None:
    """Draw the map; `on_event` is called once for each thing the user did, oldest first."""

    def arrived() -> None:
        for event in component_events.new_events(key, st.session_state.get(key)):
            on_event(event)

    st_folium(
        _base_map(draw=state.pick).copy_for_rerun(),
        key=key,
        height=height,
        use_container_width=True,
        returned_objects=[],
        render=False,
        feature_group_to_add=_State(_to_json(state, key)),
        on_change=arrived,
    )


def feature_of(scene: Scene) -> dict[str, object]:
    """A scene as the map and the table know it; the same fields as /api/footprints."""
    return {
        "type": "Feature",
        "geometry": dict(scene.footprint),
        "properties": {
            "id": scene.id,
            "title": scene.title,
            "platform": scene.platform,
            "time": scene.time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "cloud": scene.cloud_cover,
            "synthetic": scene.synthetic,
        },
    }


def _to_json(state: MapState, key: str) -> dict[str, object]:
    boot, seq = component_events.last_seen(key)
    by_id = {str(s.id): s for s in state.chosen}
    return {
        "boot": boot,
        "seq": seq,
        "footprints": state.footprints,
        "pick": state.pick,
        "chosen": [feature_of(s) for s in state.chosen],
        "drape": [
            {"id": i, "bbox": by_id[i].bbox, "max_zoom": _FINEST_TILES.get(by_id[i].platform, 14)}
            for i in state.drape[:MAX_DRAPED]
            if i in by_id
        ],
        "area": state.area,
        "view": {"bbox": state.view, "seq": state.view_seq} if state.view else None,
        "detections": state.detections,
        "filter": dict(state.filter),
        "mark": state.mark,
    }


def mark_of(scene: str, n: int, box: BBox) -> dict[str, object]:
    """The mark of a detection whose outline lies in `box`."""
    return {"scene": scene, "n": n, "box": box, "view": view_around(box)}


def view_around(box: BBox) -> BBox:
    """What to show of the map so that an object is well visible, with something around it: so
    many times the object's larger side, and no less than `LEAST_VIEW_M`, around its middle.

    Args:
        box: (west, south, east, north), west > east over the antimeridian.
    Returns:
        the same, but with an east beyond 180 there; north and south end where the map does.
    """
    west, south, east, north = box
    east = east + 360 if east < west else east
    lon, lat = (west + east) / 2, (south + north) / 2
    lat = min(_MAP_END, max(-_MAP_END, lat))
    shrink = math.cos(math.radians(lat))
    side = max(north - south, (east - west) * shrink)  # degrees of a meridian
    reach = max(VIEW_MARGIN * side, LEAST_VIEW_M / METRES_PER_DEGREE) / 2
    reach = min(reach, 90.0)
    return (
        lon - reach / shrink,
        max(-_MAP_END, lat - reach),
        lon + reach / shrink,
        min(_MAP_END, lat + reach),
    )


def union_bbox(boxes: Sequence[BBox]) -> BBox | None:
    """The smallest box around all; boxes that cross the antimeridian stay east of it."""
    if not boxes:
        return None
    east = [e + 360 if e < w else e for w, _, e, _ in boxes]
    return (min(b[0] for b in boxes), min(b[1] for b in boxes), max(east), max(b[3] for b in boxes))


# --- the parts of the folium map ---------------------------------------------


class _Rendered:
    """Stands in place of a template, or of a part of a page, that was rendered: folium would run
    fifteen templates for each rerun that say the same each time."""

    def __init__(self, text: str) -> None:
        self._text = text

    @property
    def module(self) -> _Rendered:
        return self

    def script(self, _element: object) -> str:
        return self._text

    def render(self, **_: object) -> str:
        return self._text


class _OfflineMap(folium.Map):
    """folium's map with Leaflet from the portal instead of a public server.

    It is rendered once (`render_once`); streamlit-folium 0.27 asks for it three times a rerun.
    """

    default_js = [("leaflet", "/assets/leaflet/leaflet.js")]  # noqa: RUF012 - as folium declares it
    default_css = [("leaflet_css", "/assets/leaflet/leaflet.css")]  # noqa: RUF012
    _rendered = False

    def render(self, **kwargs: object) -> str:
        if not self._rendered:
            super().render(**kwargs)  # type: ignore[no-untyped-call]
            self._rendered = True
        return ""

    def render_once(self) -> None:
        """Keep all that this map and what was added to it will ever say."""
        self._id = "div"  # as streamlit-folium calls it and, by their places, what was added
        figure = self.get_root()
        figure.render()
        for name in ("header", "html"):
            setattr(figure, name, _Rendered(getattr(figure, name).render()))
        for place, child in enumerate(self._children.values()):
            child._id = f"{self._id}_{place}"
        for element in (self, *self._children.values()):
            script = element._template.module.script(element)  # type: ignore[attr-defined]
            element._template = _Rendered(script)  # type: ignore[assignment]

    def copy_for_rerun(self) -> _OfflineMap:
        """The same map for one rerun: what streamlit-folium adds to it stays in it."""
        copy = object.__new__(type(self))
        copy.__dict__ = {**self.__dict__, "_children": self._children.copy()}
        return copy


class _OfflineDraw(Draw):
    default_js = [("leaflet_draw_js", "/assets/leaflet-draw/leaflet.draw.js")]  # noqa: RUF012
    default_css = [("leaflet_draw_css", "/assets/leaflet-draw/leaflet.draw.css")]  # noqa: RUF012


class _Bridge(JSCSSMixin):
    """Loads our scripts and gives them the map."""

    _template = Template(
        "{% macro script(this, kwargs) %}"
        "window.sceneBridge.attach({{ this._parent.get_name() }});"
        "{% endmacro %}"
    )

    def __init__(self, version: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._name = "Bridge"
        base = "/assets/scenebridge"
        self.default_js = [
            ("topojson", "/assets/topojson/topojson-client.min.js"),
            *((name, f"{base}/{name}?v={version}") for name in _SCRIPTS),
        ]
        self.default_css = [("scenebridge_css", f"{base}/map.css?v={version}")]


class _State(folium.FeatureGroup):
    """Carries a state to the browser without touching the map."""

    _template = Template(
        "{% macro script(this, kwargs) %}"
        "var {{ this.get_name() }} = L.featureGroup();"
        "window.sceneBridge.apply({{ this.state|tojson }});"
        "{% endmacro %}"
    )

    def __init__(self, state: Mapping[str, object]) -> None:
        super().__init__(name="state")
        self.state = state

    def render(self, **_: object) -> str:
        """Nothing: streamlit-folium takes the script from the template itself, and the figure
        that rendering would write to is everybody's."""
        return ""


@lru_cache(maxsize=1)
def _version() -> str:
    return assets.fingerprint()[:10]


@lru_cache(maxsize=2)
def _base_map(*, draw: bool) -> _OfflineMap:
    """The rendered map, with or without the tools to draw an area."""
    world = _OfflineMap(
        location=[24, 122],
        zoom_start=4,
        tiles=None,
        prefer_canvas=True,
        world_copy_jump=True,
        max_bounds=True,
        min_lat=-86,
        max_lat=86,
        min_lon=-400,
        max_lon=400,
        minZoom=2,
        maxZoom=18,
    )
    if draw:
        # showArea must be off: leaflet-draw 1.0.4 fails on it in strict mode.
        shape = {"showArea": False, "shapeOptions": {"color": "#5b6b76", "weight": 1.5}}
        off = dict.fromkeys(("polyline", "circle", "marker", "circlemarker"), False)
        _OfflineDraw(  # type: ignore[no-untyped-call]
            show_geometry_on_click=False,
            draw_options={
                **off,
                "rectangle": shape,
                "polygon": {**shape, "allowIntersection": False},
            },
            edit_options={"edit": False, "remove": False},
        ).add_to(world)
    _Bridge(_version()).add_to(world)
    world.render_once()
    return world

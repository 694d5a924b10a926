"""What the addresses of the API ask for: reading query parameters, and what is wrong with them."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, NoReturn

from lib.errors import InvalidInput, NotFound
from lib.model import JsonObject, SceneQuery, json_list, json_object
from lib.store.audit import AuditQuery

if TYPE_CHECKING:
    from starlette.requests import Request

_LAST_MOMENT = timedelta(days=1) - timedelta(microseconds=1)
_DAY_S = 86_400.0
_LONGEST_TEXT = 200


def scene_query(request: Request, *, default_limit: int) -> SceneQuery:
    """A search for scenes; the last day is included whole. Raises InvalidInput."""
    end = _date(request, "end")
    return SceneQuery(
        area=_bbox(_one(request, "bbox")),
        polygon=_polygon(_one(request, "polygon")),
        start=_date(request, "start"),
        end=end + _LAST_MOMENT if end else None,
        max_cloud=_percent(_one(request, "cloud")),
        platforms=tuple(request.query_params.getlist("platform")),
        text=_text(request, "q"),
        limit=whole(request, "limit", default_limit, 1, 20_000),
    )


def audit_query(request: Request) -> AuditQuery:
    """What to look for in the audit log; the last day is included whole. Raises InvalidInput."""
    since, until = _date(request, "since"), _date(request, "until")
    return AuditQuery(
        text=_text(request, "text"),
        user=_text(request, "user"),
        action=_text(request, "action"),
        refused=_yes(request, "refused"),
        since=since.timestamp() if since else None,
        until=until.timestamp() + _DAY_S if until else None,
    )


def no_constant(name: str) -> NoReturn:
    """For `json.loads`: NaN and Infinity are no JSON."""
    raise ValueError(name)


def _one(request: Request, name: str) -> str:
    """What is given by that name; "" where nothing is. Raises InvalidInput where it comes twice."""
    given = request.query_params.getlist(name)
    if len(given) > 1:
        raise InvalidInput(f"{name} may be given once only.")
    return given[0] if given else ""


def _text(request: Request, name: str) -> str:
    text = _one(request, name)
    if len(text) > _LONGEST_TEXT:
        raise InvalidInput(f"{name} has at most {_LONGEST_TEXT} characters.")
    return text


def _yes(request: Request, name: str) -> bool:
    text = _one(request, name)
    if text not in ("", "0", "1"):
        raise InvalidInput(f"{name} is 1 or 0.")
    return text == "1"


def _bbox(text: str) -> tuple[float, float, float, float] | None:
    if not text:
        return None
    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError as exc:
        raise InvalidInput("bbox is west,south,east,north in degrees.") from exc
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= north <= 90):
        raise InvalidInput("bbox is west,south,east,north in degrees.")
    return west, south, east, north


def _polygon(text: str) -> JsonObject | None:
    if not text:
        return None
    try:
        polygon = json_object(json.loads(text, parse_constant=no_constant))
        coordinates = json_list(polygon["coordinates"])
        if polygon["type"] != "Polygon" or not coordinates[0]:
            raise InvalidInput("polygon is a GeoJSON Polygon.")
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as exc:
        raise InvalidInput("polygon is a GeoJSON Polygon.") from exc
    return {"type": "Polygon", "coordinates": coordinates}


def _date(request: Request, name: str) -> datetime | None:
    text = _one(request, name)
    if not text:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=timezone.utc)
    except ValueError as exc:
        raise InvalidInput(f"{name} is a date like 2019-08-25.") from exc


def _percent(text: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError as exc:
        raise InvalidInput("cloud is a percentage, 0 to 100.") from exc
    if not 0 <= value <= 100:
        raise InvalidInput("cloud is a percentage, 0 to 100.")
    return value


def whole(request: Request, name: str, default: int, low: int, high: int) -> int:
    text = _one(request, name)
    if not text:
        return default
    known = text.isascii() and text.isdigit() and len(text) <= 9
    if not known or not low <= int(text) <= high:
        raise InvalidInput(f"{name} is a whole number from {low} to {high}.")
    return int(text)


def number_in_path(request: Request, name: str) -> int:
    text: str = request.path_params[name]
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise NotFound("There is no such picture.")
    return int(text)

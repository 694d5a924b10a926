"""Sun and overpass, near enough for a synthetic scene."""

from __future__ import annotations

import math
from datetime import date, datetime, time, timedelta, timezone


def overpass(day: date, lon: float, *, local_hour: float) -> datetime:
    """UTC time at which it is `local_hour` by the sun on the local `day`."""
    midnight = datetime.combine(day, time(0), tzinfo=timezone.utc)
    return midnight + timedelta(hours=local_hour - lon / 15)


def sun_angles(day: date, lat: float, *, local_hour: float) -> tuple[float, float]:
    """Elevation and azimuth (from north, clockwise) in degrees."""
    declination = math.radians(-23.44) * math.cos(
        2 * math.pi * (day.timetuple().tm_yday + 10) / 365.25
    )
    hour, phi = math.radians(15 * (local_hour - 12)), math.radians(lat)
    sine = math.sin(phi) * math.sin(declination)
    sine += math.cos(phi) * math.cos(declination) * math.cos(hour)
    east = -math.cos(declination) * math.sin(hour)
    north = math.cos(phi) * math.sin(declination)
    north -= math.sin(phi) * math.cos(declination) * math.cos(hour)
    return math.degrees(math.asin(sine)), math.degrees(math.atan2(east, north)) % 360


def utm_epsg(lon: float, lat: float) -> int:
    """EPSG code of the UTM zone."""
    return (32600 if lat >= 0 else 32700) + int((lon + 180) // 6) + 1

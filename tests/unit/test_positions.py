"""A detection's position: what modulekit writes and what the portal computes are the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.model import BBox
from lib.model.position import box_geometry, box_of, centre
from modulekit import objects

#: Small boxes anywhere: their west corner, their sizes, their south corner.
BOXES = st.tuples(
    st.integers(-1800, 1799), st.integers(0, 600), st.integers(-900, 700), st.integers(0, 200)
)


@given(BOXES)
def test_both_sides_find_the_same_box_and_centre(numbers: tuple[int, int, int, int]) -> None:
    west, width, south, height = (n / 10 for n in numbers)
    east = west + width
    box: BBox = (west, south, east if east <= 180 else east - 360, south + height)
    geometry = box_geometry(box)
    assert box_of(geometry) == box
    assert centre(box) == objects.centre(box)
    if width:
        assert tuple(objects.lonlat_box(geometry)) == box
    lon, lat = centre(box)
    assert -180 <= lon < 180
    assert (lon - west) % 360 == pytest.approx(width / 2, abs=1e-6)
    assert lat == pytest.approx(south + height / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("box", "middle"),
    [
        ((179.0, 0.0, -179.5, 2.0), (179.75, 1.0)),
        ((179.5, 0.0, -179.0, 2.0), (-179.75, 1.0)),
        ((179.5, 0.0, -179.5, 0.0), (-180.0, 0.0)),
        ((-180.0, -90.0, 180.0, 90.0), (0.0, 0.0)),
        ((180.0, 1.0, 180.0, 1.0), (-180.0, 1.0)),
        ((-10.0, 0.0, 30.0, 1.0), (10.0, 0.5)),
    ],
)
def test_the_centre_of_a_box(box: BBox, middle: tuple[float, float]) -> None:
    assert centre(box) == objects.centre(box) == middle
    assert box_of(box_geometry(box)) == box


def test_parts_that_touch_nowhere_share_the_smallest_box() -> None:
    def part(west: float, east: float) -> list[list[list[float]]]:
        return [[[west, 0.0], [east, 0.0], [east, 1.0], [west, 0.0]]]

    apart = {"type": "MultiPolygon", "coordinates": [part(3, 4), part(1, 2), part(6, 7)]}
    assert box_of(apart) == (1, 0, 7, 1)  # type: ignore[arg-type]
    over = {
        "type": "MultiPolygon",
        "coordinates": [part(-179, -178), part(170, 172), part(178, 180)],
    }
    assert box_of(over) == (170, 0, -178, 1)  # type: ignore[arg-type]
    assert objects.lonlat_box(over) == [170, 0, -178, 1]
    point = {"type": "Point", "coordinates": [5.0, 6.0]}
    assert box_of(point) == (5, 6, 5, 6)  # type: ignore[arg-type]

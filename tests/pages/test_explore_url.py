"""The address of Explore: what is written can be read back, what is broken is said."""

from __future__ import annotations

from datetime import date, datetime, timezone

import pytest

from ui.explore_url import (
    ExploreState,
    footprints_url,
    format_bbox,
    format_query,
    nothing_found,
    parse_bbox,
    parse_query,
    ring_bbox,
    wrap_ring,
)

RING = ((120.0, 22.0), (121.0, 22.0), (120.5, 23.0), (120.0, 22.0))


@pytest.mark.parametrize(
    "state",
    [
        ExploreState(),
        ExploreState(scenes=("A", "B & C", "ä/ö"), text="50 % + x"),
        ExploreState(area=(170.0, -10.0, -170.0, 10.5)),
        ExploreState(area=ring_bbox(RING), ring=RING),
        ExploreState(start=date(2019, 8, 1), end=date(2019, 8, 31), max_cloud=0),
        ExploreState(
            platforms=("landsat-8", "formosat-2"),
            module="active-fire",
            cluster="far",
            preset="large",
            walltime_s=7200,
            params={"min_pixels": 3, "night": True, "name": "ü"},
        ),
    ],
)
def test_written_and_read_again(state):
    assert parse_query(format_query(state)) == (state, ())


def test_an_empty_page_has_an_empty_address():
    assert format_query(ExploreState()) == {}


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ({"bbox": ["1,2,3"]}, "area"),
        ({"bbox": ["0,9,5,8"]}, "area"),
        ({"ring": ["1,2,3,4"]}, "drawn area"),
        ({"ring": ["1,2,3,4,5,6,1,2,9"]}, "drawn area"),
        ({"ring": ["nan,2,3,4,5,6,nan,2"]}, "drawn area"),
        ({"from": ["2019-13-01"]}, "first day"),
        ({"to": ["yesterday"]}, "last day"),
        ({"cloud": ["101"]}, "cloud cover"),
        ({"walltime": ["-5"]}, "walltime"),
        ({"params": ["[1]"]}, "parameters"),
        ({"params": ["{"]}, "parameters"),
        ({"params": ["[" * 100_000]}, "parameters"),
    ],
)
def test_a_broken_part_is_said_and_the_rest_kept(query, word):
    state, problems = parse_query({**query, "scene": ["A"], "unknown": ["1"]})
    assert state == ExploreState(scenes=("A",))
    assert len(problems) == 1
    assert word in problems[0]


def test_more_scenes_than_may_run_are_cut_and_said():
    state, problems = parse_query({"scene": [f"S{i}" for i in range(501)]})
    assert len(state.scenes) == 500
    assert "more than 500" in problems[0]


@pytest.mark.parametrize(
    "text", ["119.9, 21.8, 122.1, 25.4", "119.9 21.8 122.1 25.4", "[119.9,21.8,122.1,25.4]"]
)
def test_a_box_is_read_as_people_paste_it(text):
    assert parse_bbox(text) == (119.9, 21.8, 122.1, 25.4)
    assert parse_bbox(format_bbox(parse_bbox(text))) == parse_bbox(text)


def test_both_days_are_included_whole():
    query = ExploreState(start=date(2019, 8, 9), end=date(2019, 8, 9), max_cloud=40).query(limit=7)
    assert query.start == datetime(2019, 8, 9, tzinfo=timezone.utc)
    assert query.end == datetime(2019, 8, 9, 23, 59, 59, 999999, tzinfo=timezone.utc)
    assert (query.max_cloud, query.limit) == (40.0, 7)
    assert ExploreState().query(limit=1).max_cloud is None


def test_a_ring_drawn_a_turn_away_comes_home():
    away = tuple((x + 360, y) for x, y in RING)
    assert wrap_ring(away) == RING
    assert ring_bbox(wrap_ring(away)) == (120.0, 22.0, 121.0, 23.0)


def test_a_box_across_the_antimeridian_keeps_its_order():
    ring = wrap_ring(((175.0, 0.0), (185.0, 0.0), (185.0, 5.0), (175.0, 5.0), (175.0, 0.0)))
    assert ring_bbox(ring) == (175.0, 0.0, -175.0, 5.0)
    shape = ExploreState(area=ring_bbox(ring)).shape
    assert shape["coordinates"][0][1] == [185.0, 0.0]


def test_the_browser_asks_for_what_the_search_means():
    url = footprints_url(
        ExploreState(area=(1, 2, 3, 4), max_cloud=20, platforms=("a", "b"), text="x&y")
    )
    assert url == "/api/footprints?bbox=1%2C2%2C3%2C4&cloud=20&platform=a&platform=b&q=x%26y"
    assert footprints_url(ExploreState()) == "/api/footprints"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({}, "There is no scene here yet."),
        ({"q": ["Osaka"]}, "No scene matches the name or id “Osaka”. Change that, or"),
        (
            {"cloud": ["20"], "from": ["2024-01-01"]},
            "from 2024-01-01 and cloud at most 20 % together.",
        ),
        ({"bbox": ["1,2,3,4"], "sensor": ["x"]}, "the area and the sensor together."),
    ],
)
def test_where_nothing_is_found_the_advice_is_of_the_filters_that_are_set(query, said):
    assert said in nothing_found(parse_query(query).state)

"""The pages in a real Chromium: map, table, chips, links, looks for everybody."""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import Frame, Page, expect

from lib.auth import OWNER
from lib.model import RunState, SceneId, SceneState, SessionState
from lib.model.position import box_of
from lib.store.changes import RunChange, SceneChange, SessionChange
from tests.pages.browser_fixtures import Served

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def the_map(page: Page) -> Frame:
    """The map's frame, once its footprints are drawn."""
    page.locator("iframe[title^=streamlit_folium]").wait_for()
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        for frame in page.frames:
            if "st_folium" in frame.url and frame.evaluate("window.map !== undefined"):
                frame.wait_for_function("document.documentElement.dataset.land")
                return frame
        page.wait_for_timeout(100)
    raise AssertionError("the map did not appear")


def with_footprints(page: Page, n: int) -> Frame:
    frame = the_map(page)
    frame.wait_for_function(f"document.documentElement.dataset.footprints === '{n}'")
    return frame


def screen_point(page: Page, frame: Frame, lon: float, lat: float) -> tuple[float, float]:
    """Where a place of the map is on the page, pixels."""
    p = frame.evaluate(
        f"(() => {{ const p = map.latLngToContainerPoint([{lat}, {lon}]); return [p.x, p.y]; }})()"
    )
    element = page.locator("iframe[title^=streamlit_folium]")
    element.scroll_into_view_if_needed()
    box = element.bounding_box()
    assert box
    return box["x"] + p[0], box["y"] + p[1]


def look(frame: Frame, lon: float, lat: float, zoom: int) -> None:
    frame.evaluate(f"void map.setView([{lat}, {lon}], {zoom}, {{animate: false}})")


def test_the_map_and_the_table_choose_the_same(visit):
    page = visit()
    frame = with_footprints(page, 6)
    # A click selects, and the map stays.
    look(frame, 135.2, 34.4, 8)
    frame.evaluate("window.__same = true")
    x, y = screen_point(page, frame, 135.2, 34.4)
    page.mouse.click(x, y)
    page.get_by_text("1 scene chosen").wait_for()
    expect(page.get_by_label("Choose landsat-8 LC08_REAL")).to_be_checked()
    page.wait_for_url("**scene=LC08_REAL**")
    page.mouse.click(x, y)
    page.get_by_text("Nothing chosen yet").wait_for()
    assert frame.evaluate("window.__same && map.getZoom()") == 8
    # Footprints over each other offer a list.
    look(frame, 121.2, 23.7, 9)
    page.mouse.click(*screen_point(page, frame, 121.2, 23.7))
    choose = frame.locator(".sb-choose")
    assert choose.locator("li").count() == 2
    assert "synthetic" in choose.inner_text()
    choose.locator("input").nth(0).check()
    choose.locator("input").nth(1).check()
    page.get_by_text("2 scenes chosen").wait_for()
    page.get_by_role("button", name="Clear", exact=True).click()
    frame.wait_for_function("!document.documentElement.dataset.chosen")
    # What is chosen in the table is chosen on the map.
    page.get_by_label("Choose Synthetic landsat-8 LC08_A").check()
    page.get_by_label("Choose Synthetic formosat-2 FS2_A").check()
    frame.wait_for_function("document.documentElement.dataset.chosen === 'LC08_A FS2_A'")
    page.get_by_text("2 scenes chosen").wait_for()
    page.get_by_role("button", name="Remove LC08_A").click()
    frame.wait_for_function("document.documentElement.dataset.chosen === 'FS2_A'")
    expect(page.get_by_label("Choose Synthetic landsat-8 LC08_A")).not_to_be_checked()
    # The table is sorted, and chosen by keyboard.
    page.get_by_role("button", name="Cloud").click()
    page.locator("th[aria-sort=ascending][data-order=cloud]").wait_for()
    page.get_by_label("Choose Synthetic landsat-8 LC08_L2").focus()
    page.keyboard.press("Space")
    page.get_by_text("2 scenes chosen").wait_for()


def test_a_filter_and_what_is_drawn_narrow_the_search(visit, served):
    page = visit("/healthz")
    page.goto(served.origin)
    frame = with_footprints(page, 6)
    page.wait_for_function("window[Symbol.for('scenebridge-frame')]")
    look(frame, 120.5, 23, 6)
    frame.evaluate("window.__same = true")
    # A filter changes the footprints but not the view.
    page.get_by_role("button", name="FORMOSAT-2").click()
    with_footprints(page, 1)
    page.get_by_text("1 scene matches").wait_for()
    assert frame.evaluate("window.__same && map.getZoom()") == 6
    page.wait_for_url("**sensor=formosat-2**")
    page.get_by_role("button", name="FORMOSAT-2").click()
    with_footprints(page, 6)
    # A rectangle drawn on the map is the area.
    look(frame, 121.0, 23.6, 6)
    frame.locator(".leaflet-draw-draw-rectangle").click()
    x0, y0 = screen_point(page, frame, 119, 22)
    x1, y1 = screen_point(page, frame, 123, 26)
    page.mouse.move(x0, y0)
    page.mouse.down()
    page.mouse.move(x1, y1, steps=5)
    page.mouse.up()
    with_footprints(page, 3)
    page.wait_for_url("**bbox=**")
    page.get_by_text("3 scenes match").wait_for()
    page.go_back()  # whatever was chosen, one step leaves the page
    expect(page).to_have_url(f"{served.origin}/healthz")


def test_a_polygon_drawn_on_the_map_refines_the_area(visit):
    page = visit("/?bbox=119,21,124,26", clocked=True)
    page.clock.install()
    frame = with_footprints(page, 3)
    look(frame, 121.0, 23.6, 6)
    frame.locator(".leaflet-draw-draw-polygon").click()
    corners = [(120.0, 22.0), (120.9, 22.0), (120.5, 23.0)]
    for lon, lat in (*corners, corners[0]):
        x, y = screen_point(page, frame, lon, lat)
        page.mouse.click(x, y)
        page.clock.run_for(1000)  # two quick clicks would end the shape
    with_footprints(page, 1)
    page.wait_for_url("**ring=**")


def test_a_copied_link_restores_the_choice_and_the_view(visit):
    page = visit("/?scene=LC08_A&scene=LC08_B&module=active-fire&cloud=50")
    frame = with_footprints(page, 5)
    page.get_by_text("2 scenes chosen").wait_for()
    frame.wait_for_function("document.documentElement.dataset.chosen === 'LC08_A LC08_B'")
    frame.wait_for_function("map.getZoom() >= 8")
    # In the middle, whatever size the frame had when the view was first set.
    frame.wait_for_function(
        """() => {
          const size = map.getSize(), box = map.getContainer().getBoundingClientRect();
          const chosen = [];
          map.eachLayer((l) => { if (l.getBounds && l.feature) chosen.push(l); });
          const ids = ["LC08_A", "LC08_B"];
          const marked = chosen.filter((l) => ids.includes(l.feature.properties.id));
          if (!marked.length || Math.abs(size.y - box.height) > 1) return false;
          const all = marked.reduce((b, l) => b.extend(l.getBounds()), L.latLngBounds([]));
          const c = map.latLngToContainerPoint(all.getCenter());
          return Math.abs(c.y - size.y / 2) < 40 && Math.abs(c.x - size.x / 2) < 40;
        }"""
    )
    image = page.locator(".sb-scene img").first
    image.wait_for()
    assert image.evaluate("i => i.decode().then(() => i.naturalWidth)") > 0
    tiles = frame.locator(".leaflet-imagery-pane img.leaflet-tile-loaded")
    tiles.first.wait_for(state="attached")
    # What starts the work is on the first screen, also where the form lies below map and table.
    for width, height in ((1280, 800), (390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        page.locator("[data-testid=stMain]").evaluate("main => main.scrollTo(0, 0)")
        for name in ("Open notebook", "Run on 2 scenes"):
            expect(page.get_by_role("button", name=name)).to_be_in_viewport(ratio=1)


def test_what_could_not_be_loaded_is_loaded_when_the_portal_is_back(visit, served):
    """`scenebridge:back` is what ui/components/live.js says then."""
    away = re.compile(r"countries-50m|/tiles/|/quicklook|/api/footprints")
    page = visit("/healthz")
    page.route(away, lambda route: route.abort())
    page.goto(f"{served.origin}/?scene=LC08_A")
    page.get_by_text("The list of scenes could not be loaded").wait_for()
    frame = the_map(page)
    frame.wait_for_function("document.documentElement.dataset.footprints === 'failed'")
    look(frame, 121.1, 23.6, 6)
    frame.wait_for_function("document.documentElement.dataset.land === 'failed'")
    page.unroute(away)
    page.evaluate("dispatchEvent(new Event('scenebridge:back'))")
    with_footprints(page, 6)
    frame.wait_for_function("document.documentElement.dataset.land.endsWith('50m.json')")
    tiles = "[...document.querySelectorAll('.leaflet-imagery-pane img')]"
    frame.wait_for_function(f"{tiles}.some((tile) => tile.naturalWidth > 1)")
    page.locator("tbody tr[data-id=LC08_A]").wait_for()


def test_open_notebook_shows_its_card(visit, served):
    page = visit("/?scene=LC08_A&module=active-fire")
    page.get_by_role("button", name="Open notebook").click()
    page.locator(".sb-steps li[aria-current=step]", has_text="New").first.wait_for()
    (session,) = served.site.portal.sessions(OWNER)
    served.site.store.work.update_session(
        session.id, SessionChange(state=SessionState.QUEUED, reason="It waits.")
    )
    page.get_by_text("It waits.").wait_for()
    page.get_by_role("button", name="Cancel").first.click()
    page.get_by_text("Stopping.").wait_for()
    assert served.site.store.work.session(session.id).stopping
    served.site.store.work.update_session(session.id, SessionChange(state=SessionState.ENDED))


@pytest.fixture(scope="module")
def run_id(served: Served) -> str:
    site = served.site
    run = site.add_run(["LC08_A", "LC08_B"], RunState.RUNNING)
    site.add_detections(run, "LC08_A", [0.9 - i / 100 for i in range(30)])
    site.store.work.update_scene(run.id, SceneId("LC08_A"), SceneChange(state=SceneState.DONE))
    return str(run.id)


def found_at(served: Served, run_id: str, n: int) -> dict[str, object]:
    """The box of a detection on the ground: west, south, east, north, degrees."""
    (found,) = (d for d in served.site.portal.detections(OWNER, run_id) if d.n == n)
    return dict(zip("wsen", box_of(found.geometry), strict=True))


#: The object in the middle of the map, at least 12 pixels long there and wholly in view; the
#: outline is cut out where it is, its dot is unseen, and the ring goes around it.
SHOWN_LARGE = """({ w, s, e, n }) => {
  const size = map.getSize();
  const [a, b] = [map.latLngToContainerPoint([n, w]), map.latLngToContainerPoint([s, e])];
  const middle = { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 };
  if (Math.abs(middle.x - size.x / 2) > 20 || Math.abs(middle.y - size.y / 2) > 20) return false;
  const wide = b.x - a.x, high = b.y - a.y;
  if (Math.max(wide, high) < 12 || wide > size.x / 2 || high > size.y / 2) return false;
  const circles = [], canvas = document.querySelector(".leaflet-outline-pane canvas");
  map.eachLayer((l) => { if (l instanceof L.CircleMarker) circles.push(l); });
  const placed = (l) => map.latLngToContainerPoint(l.getLatLng());
  const here = (l) => placed(l).distanceTo([middle.x, middle.y]) < 3;
  const rings = circles.filter((l) => !l.options.fill && here(l));
  const dots = circles.filter((l) => l.options.fill && here(l));
  if (!canvas || rings.length !== 2 || dots.length !== 1) return false;
  const around = rings.every((l) => 2 * l.getRadius() > Math.hypot(wide, high) + 16);
  const box = canvas.getBoundingClientRect(), ratio = canvas.width / box.width;
  const painted = canvas.getContext("2d");
  const at = (x, y) => [(x - box.x) * ratio, (y - box.y) * ratio];
  const alpha = (x, y) => painted.getImageData(...at(x, y), 1, 1).data[3];
  const beside = alpha(middle.x, b.y + 3) > 0 && alpha(middle.x, middle.y) === 0;
  return around && beside && dots[0].options.fillOpacity === 0;
}"""


def test_one_click_marks_a_chip_on_the_map_and_an_object_of_the_map_in_the_list(
    visit, run_id, served
):
    page = visit("/healthz")
    page.route("**/chips/**", lambda route: route.abort())
    page.goto(f"{served.origin}/results?run={run_id}")
    frame = the_map(page)
    page.locator(".chip").nth(2).get_by_text("no thumbnail").wait_for()
    page.unroute("**/chips/**")
    page.evaluate("dispatchEvent(new Event('scenebridge:back'))")
    page.locator(".chip").nth(2).locator("img").wait_for()
    frame.wait_for_function("document.documentElement.dataset.detections === '30'")
    chip = page.locator(".chip").nth(2)
    assert chip.locator("img").evaluate("i => i.decode().then(() => i.naturalWidth)") > 0
    chip.click()
    frame.wait_for_function("document.documentElement.dataset.mark === 'LC08_A/3'")
    expect(chip).to_have_attribute("aria-pressed", "true")
    page.wait_for_url("**mark=LC08_A%2F3**")
    page.get_by_text("Marked:").wait_for()
    # The map has flown to the object, not to the scene: it is large, in the middle, and neither
    # its outline nor the ring nor its dot lies on it.
    frame.wait_for_function(SHOWN_LARGE, arg=found_at(served, run_id, 3))
    legend = frame.locator(".sb-legend", has_text="score 0 to 1")
    expect(legend).to_contain_text("marked")
    expect(legend).to_contain_text("synthetic scene")
    # And the other way round.
    found = served.site.portal.detections(OWNER, run_id)[7]
    look(frame, found.lon, found.lat, 13)
    page.mouse.click(*screen_point(page, frame, found.lon, found.lat))
    page.locator(f".chip[data-key='LC08_A/{found.n}'][aria-pressed=true]").wait_for()
    expect(chip).to_have_attribute("aria-pressed", "false")
    # On a phone, where the map lies below: a tap brings it on the screen, and a press back.
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator("[data-testid=stMain]").evaluate("main => main.scrollTo(0, 0)")
    other = page.locator(".chip").nth(1)
    map_ = page.locator("iframe[title^=streamlit_folium]")
    other.click()
    expect(map_).to_be_in_viewport(ratio=0.75)
    frame.wait_for_function(SHOWN_LARGE, arg=found_at(served, run_id, 2))
    back = page.get_by_role("button", name="Back to the thumbnail")
    back.click()
    expect(other).to_be_focused()
    expect(other).to_be_in_viewport(ratio=0.9)
    expect(back).to_be_hidden()
    # To press it again unmarks it, and nothing moves.
    other.click()
    expect(other).to_have_attribute("aria-pressed", "false")
    expect(back).to_be_hidden()


def test_new_chips_arrive_while_it_runs_and_kept_ones_stay(visit, served):
    run = served.site.add_run(["LC08_A"], RunState.RUNNING)
    served.site.add_detections(run, "LC08_A", [0.5])
    page = visit(f"/results?run={run.id}")
    first = page.locator(".chip[data-key='LC08_A/1']")
    first.wait_for()
    first.evaluate("e => { e.dataset.seen = 'yes'; }")
    served.site.add_detections(run, "LC08_A", [0.5, 0.9])
    page.locator(".chip[data-key='LC08_A/2']").wait_for()
    assert page.locator(".chip").first.get_attribute("data-key") == "LC08_A/2"
    assert first.get_attribute("data-seen") == "yes"
    served.site.store.work.update_run(run.id, RunChange(state=RunState.DONE))
    page.get_by_text("Done", exact=True).wait_for()
    # The list goes on following, though the run that is shown is over.
    picked = page.get_by_role("combobox", name="Run")
    expect(picked).to_have_value(re.compile(r", done, "))
    served.site.portal.describe(OWNER, run.id, "Renamed elsewhere", "")
    expect(picked).to_have_value(re.compile(r"^Renamed elsewhere, "))

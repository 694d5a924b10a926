"""What a page costs with 10,000 footprints.

    python -m benchmarks.pages [--scenes 10000] [--rounds 15] [--no-browser] [--smoke]

Measures, over the real Portal with that many scenes in its catalog:

* reruns: Python of one whole rerun of Explore after a click on a footprint, on Work and
  on Results (time in the page script, app.py included);
* in Chromium, from the press of the mouse to what it is for: the chosen scene beside the map,
  the card of a notebook that is opened, the mark on the map of a chip; and the time until the
  map shows all footprints.

Prints a table of medians and writes benchmarks/results/pages.json. Bounds: rerun 100 ms,
interaction 1 s. Exit code 1 when one is missed. It needs the test packages (`./test --version`
installs them) and, without `--no-browser`, a Chromium.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast
from unittest.mock import patch

from playwright.sync_api import Frame, Page, expect
from streamlit.testing.v1 import AppTest

from benchmarks.command import PROJECT, Bound, Command, Row, finish, table
from benchmarks.screen import require_screen
from lib.auth import OWNER
from lib.model import RunState, SessionState
from lib.portal import facade
from lib.store.changes import SessionChange
from tests.chromium import chromium, fresh_context, host_cookie
from tests.pages import sample_portal
from tests.pages.sample_portal import Site

if TYPE_CHECKING:
    from playwright._impl._api_structures import SetCookieParam

RERUN_BOUND_MS, INTERACTION_BOUND_MS = 100.0, 1000.0
DETECTIONS = 200
_WAIT_MS = 60_000
Taken = dict[str, list[float]]


def plant(folder: Path, scenes: int) -> None:
    """A catalog of `scenes` footprints around the world; only the samples have pixels."""
    sample_portal.plant_sample(folder)
    for i in range(scenes - 5):
        sample_portal.plant_scene(
            folder,
            f"LC08_{i:06d}",
            lon=-170 + (i * 7.31) % 338,
            lat=-60 + (i * 3.17) % 120,
            size=1.6,
            when=f"20{14 + i % 10}-{1 + i % 12:02d}-{1 + i % 28:02d}T02:00:00Z",
            cloud=float(i % 100),
            rasters=False,
        )


def measure_reruns(run_id: str, rounds: int) -> Taken:
    """Milliseconds per rerun of each page, one after the other in each round."""
    explore, work, results = (_opened(page, run_id) for page in ("explore", "work", "results"))
    taken: Taken = {"rerun of Explore": [], "rerun of Work": [], "rerun of Results": []}
    for i in range(rounds):
        _choose(explore, ["LC08_A", "LC08_B", "LC08_REAL"][: 1 + i % 3])
        taken["rerun of Explore"].append(_timed(explore))
        taken["rerun of Work"].append(_timed(work))
        results.slider[0].set_value(0.1 if i % 2 else 0.2)
        taken["rerun of Results"].append(_timed(results))
    return taken


def _opened(page: str, run_id: str) -> AppTest:
    app = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=60)
    app.run()
    if page != "explore":
        app.switch_page(f"pages/{page}.py")
        if page == "results":
            app.query_params["run"] = run_id
    app.run()
    if app.exception:
        raise RuntimeError(f"{page} does not work: {app.exception[0].value}")
    return app


def _choose(app: AppTest, scenes: list[str]) -> None:
    """What the map's callback does on a click."""
    from dataclasses import replace

    state = app.session_state["explore-state"]
    app.session_state["explore-state"] = replace(state, scenes=tuple(scenes))


_SCRIPT_S: list[float] = []


@contextlib.contextmanager
def _script_time() -> Iterator[None]:
    """Note how long each page script runs: AppTest's own reading of the result is not ours."""
    from streamlit.runtime.scriptrunner import script_runner

    name = "exec_func_with_error_handling"
    plain: Callable[..., object] = vars(script_runner)[name]

    def timed(*args: object, **more: object) -> object:
        begin = time.perf_counter()
        try:
            return plain(*args, **more)
        finally:
            _SCRIPT_S.append(time.perf_counter() - begin)

    with patch.object(script_runner, name, timed):
        yield


def _timed(app: AppTest) -> float:
    _SCRIPT_S.clear()
    app.run()
    return 1000 * sum(_SCRIPT_S)


# --- in the browser -------------------------------------------------------------------


def measure_browser(folder: Path, site: Site, run_id: str, rounds: int) -> Taken:
    """Milliseconds until the map is full, and of interactions; kB of a click."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = PROJECT / "tests" / "pages" / "serve_sample_portal.py"
    process = subprocess.Popen(
        [sys.executable, str(program), str(folder), str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for_port(port)
        with chromium() as browser, fresh_context(browser) as context:
            context.set_default_timeout(_WAIT_MS)
            ((name, value),) = site.cookie().items()
            context.add_cookies([cast("SetCookieParam", host_cookie(name, value))])
            page, origin = context.new_page(), f"http://localhost:{port}"
            return {
                **_chosen(page, origin, len(site.catalog), rounds),
                "press to card of a notebook": _cards(page, origin, site, rounds),
                "click on a chip to its mark": _marks(page, origin, run_id, rounds),
            }
    finally:
        process.terminate()
        process.wait(15)


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("localhost", port), 1):
            return
        time.sleep(0.1)
    raise RuntimeError("the portal did not start")


def _chosen(page: Page, origin: str, scenes: int, rounds: int) -> Taken:
    """A footprint on the full map is clicked, again and again."""
    received: list[int] = []
    page.on("websocket", lambda ws: ws.on("framereceived", lambda f: received.append(len(f))))
    begin = time.perf_counter()
    page.goto(origin)
    frame = _map(page)
    frame.wait_for_function(f"document.documentElement.dataset.footprints === '{scenes}'")
    full = _since(begin)
    frame.evaluate("void map.setView([34.4, 135.2], 10, {animate: false})")
    box = page.locator(_MAP).bounding_box()
    assert box is not None
    page.wait_for_timeout(1500)
    taken: list[float] = []
    sizes: list[float] = []
    for i in range(rounds):
        received.clear()
        begin = time.perf_counter()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.get_by_text("Nothing chosen yet" if i % 2 else "1 scene chosen").wait_for()
        taken.append(_since(begin))
        page.wait_for_timeout(400)
        sizes.append(sum(received) / 1000)
    return {
        "click to chosen": taken,
        "sent per click, kB": sizes,
        "all footprints on the map": [full],
    }


def _cards(page: Page, origin: str, site: Site, rounds: int) -> list[float]:
    """A notebook is opened: Work comes up with its card."""
    taken = []
    for _ in range(rounds):
        page.goto(f"{origin}/?scene=LC08_A&module=active-fire")
        press = page.get_by_role("button", name="Open notebook")
        expect(press).to_be_enabled(timeout=_WAIT_MS)
        _map(page)
        page.wait_for_timeout(1000)
        begin = time.perf_counter()
        press.click()
        page.locator(".sb-steps li[aria-current=step]", has_text="New").first.wait_for()
        taken.append(_since(begin))
        for session in site.portal.sessions(OWNER):
            site.store.work.update_session(session.id, SessionChange(state=SessionState.ENDED))
    return taken


def _marks(page: Page, origin: str, run_id: str, rounds: int) -> list[float]:
    """A chip of Results is clicked: the map marks the place."""
    page.goto(f"{origin}/results?run={run_id}")
    frame = _map(page)
    frame.wait_for_function(f"document.documentElement.dataset.detections === '{DETECTIONS}'")
    taken = []
    for i in range(rounds):
        chip = page.locator(".chip").nth(i % 4)
        place = chip.get_attribute("data-key")
        begin = time.perf_counter()
        chip.click()
        frame.wait_for_function(f"document.documentElement.dataset.mark === '{place}'")
        taken.append(_since(begin))
        page.wait_for_timeout(400)
    return taken


_MAP = "iframe[title^=streamlit_folium]"


def _map(page: Page) -> Frame:
    frame = page.locator(_MAP).element_handle().content_frame()
    assert frame is not None
    return frame


def _since(begin: float) -> float:
    return 1000 * (time.perf_counter() - begin)


# --- report ----------------------------------------------------------------------------


def main() -> int:
    """Command line; 1 when a bound is missed."""
    command = Command(__doc__)
    command.size("--scenes", 10_000, smoke=50)
    command.size("--rounds", 15, smoke=1)
    command.parser.add_argument("--no-browser", action="store_true")
    options = command.parse()
    if not options.no_browser:
        require_screen()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="sb-pages-") as name:
        folder = Path(name)
        plant(folder, options.scenes)
        site = Site(folder)
        run = site.add_run(["LC08_A"], RunState.DONE)
        site.add_detections(run, "LC08_A", [i / 250 for i in range(DETECTIONS)])
        facade.use(site.portal)
        with _script_time(), patch.object(site.portal, "user_of_browser", lambda *_: OWNER):
            taken = measure_reruns(run.id, options.rounds)
        if not options.no_browser:
            taken |= measure_browser(folder, site, run.id, options.rounds)
        facade.use(None)
        site.store.close()
    return _report(options.scenes, taken, smoke=options.smoke)


def _report(scenes: int, taken: Taken, *, smoke: bool) -> int:
    middle = {name: statistics.median(values) for name, values in taken.items()}
    rows: list[Row] = [[name, middle[name], max(values)] for name, values in taken.items()]
    bounds = {
        **dict.fromkeys((n for n in middle if n.startswith("rerun")), RERUN_BOUND_MS),
        **dict.fromkeys(
            (n for n in middle if n.startswith(("click", "press"))), INTERACTION_BOUND_MS
        ),
    }
    return finish(
        "pages",
        table((f"{scenes:,} footprints, ms", "median", "worst"), rows, 0),
        {"scenes": scenes, "medians": middle, "all": taken},
        [Bound(f"{name}, ms", middle[name], most=most) for name, most in bounds.items()],
        smoke=smoke,
    )


if __name__ == "__main__":
    sys.exit(main())

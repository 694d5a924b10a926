"""What a page costs with 10,000 footprints.

    python -m benchmarks.pages [--scenes 10000] [--rounds 15] [--no-browser]

Measures, over the real Portal with that many scenes in its catalog:

* `rerun`: Python of one whole rerun of Explore after a click on a footprint, on Work and
  on Results (seconds in the page script, app.py included);
* `bytes`: what one such rerun sends to the browser;
* `click`: in Chromium, from the press of the mouse to the chosen scene beside the map, and
  the time until the map shows all footprints.

Prints a table of medians and writes benchmarks/results/pages.json. Bounds: rerun 0.1 s,
click 1 s. Exit code 1 when one is missed. It needs the test packages (`./test --version` installs
them) and, without `--no-browser`, a Chromium.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

from streamlit.testing.v1 import AppTest

from lib.auth import OWNER
from lib.model import RunState
from lib.portal import facade
from tests.chromium import chromium, fresh_context, host_cookie
from tests.pages import sample_portal
from tests.pages.sample_portal import ROOT, Site

RERUN_BOUND_S = 0.1
CLICK_BOUND_S = 1.0
RESULTS = Path(__file__).resolve().parent / "results" / "pages.json"


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


def measure_reruns(site: Site, rounds: int) -> dict[str, list[float]]:
    """Seconds per rerun of each page, one after the other in each round."""
    run = site.add_run(["LC08_A"], RunState.DONE)
    site.add_detections(run, "LC08_A", [i / 250 for i in range(200)])
    explore, work, results = (_opened(page, run.id) for page in ("explore", "work", "results"))
    taken: dict[str, list[float]] = {"explore": [], "work": [], "results": []}
    for i in range(rounds):
        _choose(explore, ["LC08_A", "LC08_B", "LC08_REAL"][: 1 + i % 3])
        taken["explore"].append(_timed(explore))
        taken["work"].append(_timed(work))
        results.slider[0].set_value(0.1 if i % 2 else 0.2)
        taken["results"].append(_timed(results))
    return taken


def _opened(page: str, run_id: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
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
    plain: Callable[..., Any] = vars(script_runner)[name]

    def timed(*args: Any, **more: Any) -> Any:
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
    return sum(_SCRIPT_S)


# --- in the browser -------------------------------------------------------------------


def measure_browser(folder: Path, site: Site, rounds: int) -> dict[str, list[float]]:
    """Seconds until the map is full, and from click to chosen scene; bytes per click."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/pages/serve_sample_portal.py"), str(folder), str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for_port(port)
        with chromium() as browser, fresh_context(browser) as context:
            ((name, value),) = site.cookie().items()
            origin = f"http://localhost:{port}"
            context.add_cookies([cast(Any, host_cookie(name, value))])
            return _clicks(context.new_page(), origin, len(site.catalog), rounds)
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


def _clicks(page: Any, origin: str, scenes: int, rounds: int) -> dict[str, list[float]]:
    received: list[int] = []
    page.on("websocket", lambda ws: ws.on("framereceived", lambda f: received.append(len(f))))
    begin = time.perf_counter()
    page.goto(origin)
    page.locator("iframe[title^=streamlit_folium]").wait_for(timeout=60_000)
    frame = None
    while frame is None:
        frame = next((f for f in page.frames if "st_folium" in f.url), None)
        page.wait_for_timeout(20)
    frame.wait_for_function(
        f"document.documentElement.dataset.footprints === '{scenes}'", timeout=60_000
    )
    ready = time.perf_counter() - begin
    frame.evaluate("void map.setView([34.4, 135.2], 10, {animate: false})")
    box = page.locator("iframe[title^=streamlit_folium]").bounding_box()
    page.wait_for_timeout(1500)
    taken: list[float] = []
    sizes: list[float] = []
    for i in range(rounds):
        received.clear()
        begin = time.perf_counter()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.get_by_text("Nothing chosen yet" if i % 2 else "1 scene chosen").wait_for()
        taken.append(time.perf_counter() - begin)
        page.wait_for_timeout(400)
        sizes.append(sum(received))
    return {"ready": [ready], "click": taken, "bytes": sizes}


# --- report ----------------------------------------------------------------------------


def main() -> int:
    """Command line; 1 when a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scenes", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-browser", action="store_true")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="sb-pages-") as name:
        folder = Path(name)
        plant(folder, args.scenes)
        site = Site(folder)
        facade.use(site.portal)
        with _script_time(), patch.object(site.portal, "user_of_browser", lambda *_: OWNER):
            taken = measure_reruns(site, args.rounds)
        if not args.no_browser:
            taken |= measure_browser(folder, site, args.rounds)
        facade.use(None)
        site.store.close()
    return _report(args.scenes, taken)


def _report(scenes: int, taken: dict[str, list[float]]) -> int:
    medians = {name: statistics.median(values) for name, values in taken.items()}
    print(f"{scenes:,} footprints, medians")
    for name in ("explore", "work", "results"):
        print(f"  rerun of {name:8} {1000 * medians[name]:7.1f} ms  (bound 100 ms)")
    if "click" in medians:
        middle, worst = 1000 * medians["click"], 1000 * max(taken["click"])
        print(f"  click to chosen   {middle:7.0f} ms  (bound 1000 ms, worst {worst:.0f})")
        print(f"  sent per click    {medians['bytes'] / 1000:7.1f} kB")
        print(f"  map full after    {1000 * medians['ready']:7.0f} ms")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"scenes": scenes, "medians": medians, "all": taken}, indent=1))
    slow = any(medians[n] > RERUN_BOUND_S for n in ("explore", "work", "results"))
    late = medians.get("click", 0.0) > CLICK_BOUND_S
    return 1 if slow or late else 0


if __name__ == "__main__":
    sys.exit(main())

"""One launch from click to READY, in seconds per part."""

from __future__ import annotations

from datetime import datetime

import httpx

from benchmarks.command import Figures
from benchmarks.screen import READY, STOPPED, Screen
from lib.model import JsonObject, json_text
from tests.running import wait_for


def launch(api: httpx.Client, on: str = "here", screen: Screen | None = None) -> Figures:
    """One session from click to READY and its end; seconds per part."""
    scene = api.get("/api/scenes", params={"platform": "landsat-8"}).json()["features"][0]["id"]
    preset = wait_for("a cluster", lambda: _first_preset(api, on))
    body = {
        "scenes": [scene],
        "module": "active-fire",
        "cluster": on,
        "resources": {"preset": preset, "walltime_s": 600},
    }
    made = api.post("/api/sessions", json=body)
    made.raise_for_status()
    address = made.headers["Location"]
    session: JsonObject = wait_for("READY", lambda: _in_state(api, address, "READY"), every_s=0.02)
    shown: Figures = {}
    if screen is not None:
        ready_at = screen.first_seen(json_text(session["id"]), READY)
        shown[ENDPOINT_SHOWN] = ready_at - _seconds(json_text(session["endpoint_at"]))
    api.delete(address).raise_for_status()
    session = wait_for("the end", lambda: _in_state(api, address, "ENDED"))
    at = {name: _seconds(json_text(session[name])) for name in _STAMPS}
    if screen is not None:
        ended_at = screen.first_seen(json_text(session["id"]), STOPPED)
        shown[END_SHOWN] = ended_at - at["ended_at"]
    return {
        "click to submit accepted": at["submitted_at"] - at["created_at"],
        "job and Jupyter": at["endpoint_at"] - at["submitted_at"],
        "endpoint to READY": at["ready_at"] - at["endpoint_at"],
        "click to READY": at["ready_at"] - at["created_at"],
        **shown,
    }


ENDPOINT_SHOWN, END_SHOWN = "endpoint to Ready on the screen", "end to Ended on the screen"
_STAMPS = ("created_at", "submitted_at", "endpoint_at", "ready_at", "ended_at")


def _first_preset(api: httpx.Client, on: str) -> str | None:
    """Of a cluster, once it can be asked."""
    found = api.get("/api/clusters").json()
    names = (p["name"] for c in found if c["id"] == on for p in c["presets"])
    return next(map(str, names), None)


def _in_state(api: httpx.Client, address: str, state: str) -> JsonObject | None:
    session: JsonObject = api.get(address).json()
    if session["state"] == "ENDED" and state != "ENDED":
        raise AssertionError(f"the session ended: {session['reason']}")
    return session if session["state"] == state else None


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()

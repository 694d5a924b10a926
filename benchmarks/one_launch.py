"""One launch from click to READY, in seconds per part."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import httpx

from benchmarks.command import Figures
from tests.running import wait_for


def launch(api: httpx.Client, on: str = "here") -> Figures:
    """One session from click to READY and its end; seconds per part."""
    scene = api.get("/api/scenes", params={"platform": "landsat-8"}).json()["features"][0]["id"]
    cluster = wait_for("a cluster", lambda: _ready_cluster(api, on))
    body = {
        "scenes": [scene],
        "module": "active-fire",
        "cluster": cluster["id"],
        "resources": {"preset": cluster["presets"][0]["name"], "walltime_s": 600},
    }
    made = api.post("/api/sessions", json=body)
    made.raise_for_status()
    address = made.headers["Location"]
    session = wait_for("READY", lambda: _in_state(api, address, "READY"), every_s=0.02)
    api.delete(address).raise_for_status()
    wait_for("the end", lambda: _in_state(api, address, "ENDED"))
    at = {name: _seconds(session[name]) for name in _STAMPS}
    return {
        "click to submit accepted": at["submitted_at"] - at["created_at"],
        "job and Jupyter": at["endpoint_at"] - at["submitted_at"],
        "endpoint to READY": at["ready_at"] - at["endpoint_at"],
        "click to READY": at["ready_at"] - at["created_at"],
    }


_STAMPS = ("created_at", "submitted_at", "endpoint_at", "ready_at")


def _ready_cluster(api: httpx.Client, on: str) -> dict[str, Any] | None:
    found = api.get("/api/clusters").json()
    return next((c for c in found if c["id"] == on and c["presets"]), None)


def _in_state(api: httpx.Client, address: str, state: str) -> dict[str, Any] | None:
    session: dict[str, Any] = api.get(address).json()
    if session["state"] == "ENDED" and state != "ENDED":
        raise AssertionError(f"the session ended: {session['reason']}")
    return session if session["state"] == state else None


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()

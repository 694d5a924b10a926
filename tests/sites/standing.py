"""The portal and site of `testbed.standing`, as tests and `benchmarks` use them."""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from lib.scenes.local_catalog import LocalCatalog
from lib.scenes.samples import write_synthetic
from testbed import Bed
from testbed import standing as of_bed
from testbed.standing import (
    ADMIN,
    CLUSTER,
    CLUSTER_FILE,
    DATA,
    GATE_HOME,
    GATE_PORT,
    PYTHON,
    SCENE,
    SITE_FOLDER,
    TUNNELS,
    USER,
    fetch_wheels,
    module_version,
)
from tests.running import NO_TLS, SHORT_IDLE, first_start_is_over, free_port, wait_for

__all__ = [
    "ADMIN",
    "CLUSTER",
    "CLUSTER_FILE",
    "DATA",
    "GATE_HOME",
    "GATE_PORT",
    "PYTHON",
    "SCENE",
    "SITE_FOLDER",
    "TUNNELS",
    "USER",
    "Standing",
    "begin",
    "fetch_wheels",
    "launch",
    "module_version",
    "standing",
]


@dataclass
class Standing(of_bed.Standing):
    """At a free port, with all modules compiled, and with what only tests do and look at."""

    port: int = field(default_factory=free_port)

    def kill_portal(self) -> None:
        """SIGKILL to the portal alone, as the out-of-memory killer does."""
        self.portal.run(
            ["pkill", "-KILL", "-u", "scenebridge", "-f", "lib.server.main"], check=False
        )
        assert self.process is not None
        self.process.wait(300)

    def api(self) -> httpx.Client:
        """A client with a fresh token of the portal's owner."""
        token = self.as_portal([*ADMIN, "token", "--data", DATA]).split()[-1]
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.Client(
            base_url=self.origin, headers=headers, timeout=300, verify=NO_TLS, limits=SHORT_IDLE
        )

    # --- what stands --------------------------------------------------------------------------

    def plant_scene(self) -> str:
        """Two synthetic Landsat scenes in the portal's catalog, of which one is worth
        searching; its id. No samples."""
        from tests.crowd import LANDSAT
        from tests.crowd import SCENE as PLAIN
        from tests.pages.sample_portal import plant_scene

        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data"
            first_start_is_over(data)
            plant_scene(data, PLAIN, bands=("coastal", *LANDSAT))
            product = write_synthetic(Path(folder), SCENE)
            scene = LocalCatalog(data / "scenes").add(product, synthetic=True)
            self.bring(data)
        return str(scene.id)

    def leftovers(self) -> list[str]:
        """What is left of sessions on any host: processes, sockets, scratch, jobs."""
        found = []
        for host in (*self.nodes, self.login):
            for process in host.processes():
                words = " ".join(process.argv)
                if re.search(r"lib\.jobs\.session|jupyter|ipykernel|squashfuse|apptainer", words):
                    found.append(f"{host.name}: {process.pid} {process.user} {words[:200]}")
            found += [f"{host.name}: {p}" for p in host.path("/tmp").glob("sb-*")]
        jobs = self.login.run(["squeue", "-h", "-t", "PD,R,CG,S,CF", "-o", "%i %j %T"]).stdout
        found += [f"job {line}" for line in jobs.splitlines()]
        for host in self.bed.hosts.values():
            found += [f"{host.name}: {p}" for p in host.path("/tmp").glob("sb-*/f/*.sock")]
        return found

    def nothing_is_left(self, timeout_s: float = 300.0) -> None:
        """Ends when nothing is; fails with what still is, and what portal and gate said last."""
        deadline = time.monotonic() + timeout_s
        while left := self.leftovers():
            if time.monotonic() > deadline:
                logs = self.login.path("/home").glob("*/.scenebridge/*/gate.log")
                said = [
                    *self.output,
                    *(line for log in logs for line in log.read_text().split("\n")),
                ]
                raise AssertionError("\n".join([*left, *said[-60:]]))
            time.sleep(0.2)


@contextlib.contextmanager
def standing(bed: Bed, wheels: Path, it: Standing | None = None) -> Iterator[Standing]:
    """`testbed.standing.standing`, of a `Standing` of tests."""
    it = it or Standing(bed, wheels)
    with of_bed.standing(it):
        yield it


def begin(api: httpx.Client, **more: Any) -> str:
    """Ask for a notebook and do not wait; its session's id."""
    scene = api.get("/api/scenes").json()["features"][0]["id"]
    asked = {
        "scenes": [scene],
        "module": "active-fire",
        "cluster": CLUSTER,
        "resources": {"preset": "small", "walltime_s": 1800},
        **more,
    }
    made = api.post("/api/sessions", json=asked)
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


def launch(api: httpx.Client, site: Standing, **more: Any) -> dict[str, Any]:
    """A notebook by the API, until it is READY."""
    path = f"/api/sessions/{begin(api, **more)}"

    def ready() -> dict[str, Any] | None:
        found = api.get(path).json()
        assert found["state"] != "ENDED", found
        return found if found["state"] == "READY" else None

    found: dict[str, Any] = wait_for("READY", ready)
    return found

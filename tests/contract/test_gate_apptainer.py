"""A gate whose jobs run in real containers, from submit to the notebook's answer."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lib.jobs.control_files import SessionSpec
from lib.model import EndReason, Isolation, JobState
from lib.protocol.messages import InfoRequest, JobKind, Verb
from tests.fixtures.containers import DATA, Containers, make_containers, why_not
from tests.fixtures.gate_site import CODE, ROOT, GateSite

pytestmark = pytest.mark.skipif(why_not() != "", reason=why_not() or "-")


class ContainerSite(GateSite):
    """The gate runs as ada, who sees the site's data as /srv."""

    def __init__(self, root: Path) -> None:
        (root / "image").mkdir()
        made = make_containers(root / "image")
        self.containers = Containers(made.folder, root / "data")
        self.notebook = root / "small.ipynb"
        self.notebook.write_bytes((CODE / "notebook.ipynb").read_bytes())
        super().__init__(root)

    def policy_text(self, **changes: Any) -> str:
        head, _, rest = super().policy_text(**changes).partition("[runtime]")
        limits = rest[rest.index("[limits]") :]
        sha256 = hashlib.sha256(self.containers.image.read_bytes()).hexdigest()
        runtime = "\n".join(
            f"{key} = {json.dumps(value)}" for key, value in self.containers.options(CODE).items()
        )
        limits = limits.replace(
            'notebook = "notebook.ipynb"',
            f'notebook = "{self.notebook}"\nimage = "{self.containers.image}"\nsha256 = "{sha256}"',
        )
        head = head.replace(str(self.data), str(DATA))
        return f'{head}[runtime]\nname = "apptainer"\n{runtime}\n{limits}'

    def command(
        self, verb: str, *args: str, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        gate = (sys.executable, "-m", "lib.gate", verb, "--home", str(self.home), *args)
        return subprocess.run(
            self.containers.as_ada(*gate),
            cwd=ROOT, capture_output=True, text=True, timeout=300, check=check,
        )  # fmt: skip

    def item(self, scene: str = "S1", href: str | None = None) -> dict[str, Any]:
        return super().item(scene, href or str(DATA / "blue.tif"))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ContainerSite]:
    made = ContainerSite(tmp_path)
    made.start()
    yield made
    made.stop()


def test_a_session_and_a_run_in_containers(site: ContainerSite) -> None:
    info, _ = site.ask(Verb.INFO, InfoRequest())
    assert (info.runtime, info.isolation, info.troubles) == ("apptainer", Isolation.CONTAINER, [])
    session, run = site.submit(JobKind.SESSION), site.submit()
    assert site.ready(session.id).state is JobState.RUNNING
    spec = SessionSpec.read(site.control(session.id))
    assert spec.image == str(site.containers.image)
    assert spec.readable == [str(DATA / "blue.tif")]
    assert (site.work(session.id) / "small.ipynb").exists()
    assert (site.work(session.id) / "out" / "S1" / "detections.geojson").exists()
    ended = site.ended(run.id)
    assert (ended.end_reason, ended.exit_code) == (EndReason.FINISHED, 0)
    site.cancel(session.id)
    assert site.ended(session.id).end_reason is EndReason.STOPPED
    assert not Path(spec.scratch).exists()


def test_an_image_that_was_changed_starts_nothing(site: ContainerSite) -> None:
    assert json.loads(site.command("check").stdout)["problems"] == []
    with site.containers.image.open("ab") as file:
        file.write(b"more")
    job = site.ended(site.submit().id)
    assert job.end_reason is EndReason.REFUSED
    assert "has the checksum" in job.reason
    info, _ = site.ask(Verb.INFO, InfoRequest())
    assert info.troubles == [job.reason]
    assert json.loads(site.command("check").stdout)["problems"] == [job.reason]
    site.containers.image.unlink()
    assert "is missing" in site.ended(site.submit().id).reason

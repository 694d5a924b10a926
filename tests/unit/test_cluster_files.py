"""Cluster files that are added, changed, removed or broken while the portal runs."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lib.config.settings import Settings
from lib.errors import ClusterUnreachable, NotFound
from lib.model import (
    Cluster,
    ClusterId,
    EndReason,
    LaunchRequest,
    ModuleId,
    Reachability,
    Resources,
    RunState,
    SceneId,
    SessionState,
    TunnelState,
)
from lib.portal.tunnels import OuterTunnels
from lib.server.cluster_files import ClusterFiles
from lib.store.changes import RunChange, SessionChange
from tests.fakes.reconciler_harness import hurry, until
from tests.fakes.site import ALICE, BOB, Site, serve_site
from tests.fakes.things import HERE, a_run, a_scene, a_session, new_id
from tests.fakes.tunnels import write_record
from tests.folders import short_folder

FAR = ClusterId("far")
KEY = "ssh-ed25519 " + "A" * 68
TEXT = f"""id = "far"
title = "Far cluster"
groups = ["everyone"]
[login]
host = "login.far.example"
host_keys = ["{KEY}"]
[gate]
port = 22022
host_key = "{KEY}"
"""
LAUNCH = LaunchRequest(
    scenes=(SceneId("LC08_A"),),
    module=ModuleId("active-fire"),
    params={},
    cluster=FAR,
    resources=Resources("small", 3600),
)


class Place:
    """A portal that serves this computer, and the folder of its site's cluster files."""

    def __init__(self, site: Site, folder: Path, runtime: Path, groups: tuple[str, ...]) -> None:
        self.site, self.portal, self.reconciler = site, site.portal, site.world.reconciler
        catalogs = folder / "catalogs" / "clusters"
        catalogs.mkdir(parents=True)
        here = f'id = "{HERE}"\ntitle = "This computer"\nembedded = true\ngroups = ["everyone"]\n'
        (catalogs / "here.toml").write_text(here)
        self.file = folder / "site" / "clusters" / "far.toml"
        self.file.parent.mkdir(parents=True)
        self.tunnels = folder / "tunnels"
        self.files = ClusterFiles(
            folder,
            Settings(data=folder, runtime=runtime, embedded_groups=groups),
            site.portal._offerings,
            OuterTunnels(self.tunnels),
            self.reconciler,
            site.world.store,
        )

    async def write(self, text: str | None) -> None:
        """Replace the file, or remove it, and look until that counts."""
        if text is None:
            self.file.unlink()
        else:
            self.file.write_text(text)
        for _ in range(2):
            await self.files.look()

    async def clusters(self, user: Any = ALICE) -> dict[ClusterId, Cluster]:
        return {c.id: c for c in await asyncio.to_thread(self.portal.all_clusters, user)}

    def stamp(self) -> str:
        self.portal.changes._of_clusters.clear()  # it counts for a second
        return self.portal.changes.stamp(ALICE, "clusters")


@pytest.fixture
def groups() -> tuple[str, ...]:
    return ("everyone",)


@pytest.fixture
async def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: tuple[str, ...]
) -> AsyncIterator[Place]:
    hurry(monkeypatch)
    monkeypatch.setenv("SCENEBRIDGE_SITE", str(tmp_path / "conf" / "site"))
    with short_folder() as runtime:
        async with serve_site(tmp_path) as site:
            it = Place(site, tmp_path / "conf", runtime, groups)
            yield it
            await site.world.reconciler.leave(FAR)


async def test_a_new_file_is_a_new_cluster_and_a_change_counts_when_it_is_whole(
    place: Place,
) -> None:
    before = place.stamp()
    place.file.write_text(TEXT.partition("[login]")[0])
    await place.files.look()
    assert set(await place.clusters()) == {HERE}
    await place.write(TEXT)
    far = (await place.clusters())[FAR]
    assert far.title == "Far cluster"
    assert far.configured
    assert place.stamp() != before
    await until(lambda: "No tunnel to far" in place.reconciler.health(FAR).reason)
    with pytest.raises(ClusterUnreachable):
        await place.reconciler.link(FAR).info()

    link, before = place.reconciler.link(FAR), place.stamp()
    await place.write(TEXT.replace("Far cluster", "Farther").replace("everyone", "fires"))
    far = (await place.clusters(BOB))[FAR]
    assert far.title == "Farther"
    assert "groups that this portal does not have (fires)" in far.refused
    assert place.stamp() != before
    assert place.reconciler.link(FAR) is link, "how it is reached has not changed"
    before = place.stamp()
    await place.write(TEXT.replace("Far cluster", "Farther").replace("everyone", "coast"))
    assert place.stamp() != before, "who may start work there is shown too"
    await place.write(TEXT.replace("22022", "22023"))
    assert place.reconciler.link(FAR) is not link
    await place.write(TEXT.rpartition("host_key")[0])
    far = (await place.clusters())[FAR]
    assert far.unreachable_reason.startswith("Its gate has not been set up")
    with pytest.raises(KeyError):
        place.reconciler.link(FAR)
    await place.write(None)
    assert set(await place.clusters()) == {HERE}
    assert place.reconciler.health(HERE).reachable, "the others have noticed nothing"


async def test_a_broken_file_costs_its_cluster_until_it_is_mended(place: Place) -> None:
    await place.write(TEXT)
    before = place.stamp()
    await place.write(TEXT.replace("port = ", "port "))
    far = (await place.clusters())[FAR]
    assert place.stamp() != before
    assert not far.configured
    assert far.reachability is Reachability.UNKNOWN
    assert far.unreachable_reason.startswith("Its file cannot be taken")
    assert str(place.file) not in str(far), "that is for administrators"
    assert "far.toml" in place.portal._offerings.left_out[FAR].fault
    assert "line 8" in place.portal._offerings.left_out[FAR].fault
    with pytest.raises(NotFound):
        await asyncio.to_thread(place.portal.open_notebook, ALICE, LAUNCH)
    await until(lambda: place.reconciler.health(HERE).reachable)
    await place.write(TEXT)
    assert (await place.clusters())[FAR].configured
    await until(lambda: "No tunnel to far" in place.reconciler.health(FAR).reason)


async def test_work_of_a_cluster_without_a_file_is_unknown_and_says_why(place: Place) -> None:
    """It is not lost: it may run, and is there again with the file."""
    write_record(place.tunnels, "far", group="forest")
    await place.write(TEXT)
    session_id = new_id()
    run = a_run(session=session_id, cluster=FAR)
    session = a_session(run, session_id, state=SessionState.READY)
    place.site.world.store.work.add_session(session, run, [a_scene("LC08_A")])
    place.site.world.routes.let_in[session.id] = Path("/nowhere")
    before = place.stamp()
    await place.write(None)
    assert place.stamp() != before
    far = (await place.clusters())[FAR]
    assert (far.title, far.configured) == ("Far cluster", False)
    assert far.tunnel is not None
    assert far.tunnel.state is TunnelState.NONE
    assert "its file was removed" in far.unreachable_reason
    assert FAR not in {c.id for c in place.portal.clusters(ALICE)}
    shown = await asyncio.to_thread(place.portal.session, ALICE, session.id)
    assert (shown.state, shown.reachability) == (SessionState.READY, Reachability.UNKNOWN)
    assert session.id not in place.site.world.routes.let_in, "nobody is led there"
    await until(lambda: "its file was removed" in place.reconciler.health(FAR).reason)

    await place.write(TEXT)
    assert (await place.clusters())[FAR].configured
    await place.write(None)
    over = SessionChange(state=SessionState.ENDED, end_reason=EndReason.STOPPED)
    place.site.world.store.work.update_session(session.id, over)
    place.site.world.store.work.update_run(run.id, RunChange(state=RunState.CANCELLED))
    await place.files.look()
    assert FAR not in await place.clusters(), "nothing of it is left to be shown"
    with pytest.raises(KeyError):
        place.reconciler.health(FAR)


async def test_a_file_that_went_while_the_portal_was_away(place: Place) -> None:
    """Its work is shown from the first look on, and what its owner wishes waits for its gate."""
    run = a_run(cluster=FAR)
    place.site.world.store.work.add_run(run, [a_scene("LC08_A")])
    await place.files.look()
    far = (await place.clusters())[FAR]
    assert (far.title, far.configured) == ("far", False), "not a word of it is known"
    await asyncio.to_thread(place.portal.stop, ALICE, run.id)
    assert place.site.world.run(run.id).stopping


@pytest.mark.parametrize("groups", [()])
async def test_the_first_file_withholds_this_computer_and_its_work_goes_on(place: Place) -> None:
    assert place.portal.withheld(ALICE) == ""
    await place.write(TEXT)
    assert set(await place.clusters()) == {FAR}
    assert "is not offered beside other clusters" in place.portal.withheld(ALICE)
    assert place.reconciler.health(HERE).reachable
    await place.write(None)
    assert set(await place.clusters()) == {HERE}
    place.files._here = frozenset()
    await place.write(TEXT)
    await place.write(None)
    assert set(await place.clusters()) == set()
    assert "once this portal is started again" in place.portal.withheld(ALICE)


async def test_a_missing_tunnel_is_said_to_those_who_could_use_it(place: Place) -> None:
    await place.write(TEXT)
    access = place.site.access
    tunnels = OuterTunnels(place.tunnels)
    access.tunnel = tunnels.of
    far = (await place.clusters())[FAR]
    assert far.lacks_tunnel
    assert "No tunnel to Far cluster has been opened yet" in far.refused
    await place.write(TEXT.replace("everyone", "fires"))
    assert not (await place.clusters())[FAR].lacks_tunnel, "not for them, whatever its tunnel"
    write_record(place.tunnels, "far", group="other")
    tunnels._known.clear()
    await place.write(TEXT)
    far = (await place.clusters())[FAR]
    assert (far.lacks_tunnel, bool(far.refused)) == (False, True)
    assert dataclasses.asdict(far)["configured"]

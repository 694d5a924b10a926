"""Where a job reads a scene's files: on the cluster, from an address, or sent by the portal."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lib.errors import Refused
from lib.model import EndReason, SensorNeed, SessionState
from lib.reconciler.asset_location import locate, needed_assets
from lib.reconciler.submit import Submitter
from tests.fakes.gate import MemoryGate
from tests.fakes.reconciler_harness import ReconcilerHarness, hurry, running_reconciler, until
from tests.fakes.things import FIRE, HERE, a_scene, add_session

INFO = dataclasses.replace(
    MemoryGate().info(), data_paths=["/data/scenes"], https_hosts=["example.org"]
)


def asset(href: str, **alternates: Any) -> dict[str, Any]:
    return {"href": href, "alternate": {k: {"href": v} for k, v in alternates.items()}}


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        (asset("/data/scenes/a.tif"), "/data/scenes/a.tif"),
        (asset("file:///data/scenes/a%20b.tif"), "/data/scenes/a b.tif"),
        (asset("https://example.org/a.tif"), "https://example.org/a.tif"),
        (asset("/portal/a.tif"), Path("/portal/a.tif")),
        # What is there already beats what must be fetched, and that what must be sent.
        (asset("https://example.org/a.tif", disk="/data/scenes/a.tif"), "/data/scenes/a.tif"),
        (asset("/portal/a.tif", web="https://example.org/a.tif"), "https://example.org/a.tif"),
        (asset("s3://bucket/a.tif", disk="file:///data/scenes/a.tif"), "/data/scenes/a.tif"),
        (asset("https://far.example/a", web="https://example.org/a"), "https://example.org/a"),
        # An alternate is never taken for a file of the portal, and nothing leads upwards.
        (asset("/portal/a.tif", disk="/etc/passwd"), Path("/portal/a.tif")),
        (asset("/portal/a.tif", disk="/data/scenes/../../etc/x"), Path("/portal/a.tif")),
        (asset("/portal/a.tif", disk="/data/scenes-of-others/a"), Path("/portal/a.tif")),
        (asset("/portal/a.tif", web="http://example.org/a.tif"), Path("/portal/a.tif")),
        ({"href": "/portal/a.tif", "alternate": "rubbish"}, Path("/portal/a.tif")),
        ({"href": "/portal/a.tif", "alternate": {"x": {"href": 7}}}, Path("/portal/a.tif")),
    ],
)
def test_the_best_place_is_chosen(given: dict[str, Any], chosen: str | Path) -> None:
    found = locate("S1", "red", given, INFO)
    assert (found, type(found) is str) == (chosen, isinstance(chosen, str))


@pytest.mark.parametrize(
    ("href", "names"),
    [
        ("https://far.example/a.tif", "far.example"),
        ("https://[broken/a.tif", "https://"),
        ("s3://bucket/a.tif", "bucket"),
        ("./a.tif", "a.tif"),
        ("/data/../etc/passwd", "/data/../etc/passwd"),
    ],
)
def test_what_can_be_read_nowhere_is_refused(href: str, names: str) -> None:
    with pytest.raises(Refused, match="may not read") as refusal:
        locate("S1", "red", asset(href, disk="/etc/passwd"), INFO)
    assert names in refusal.value.message


def test_only_what_the_module_reads_is_needed() -> None:
    item = dict(a_scene(bands=("red", "swir22", "blue")).item)
    item["assets"]["qa_pixel"] = {"href": "/x"}
    assert sorted(needed_assets(item, FIRE)) == ["qa_pixel", "red", "swir22"]
    of_another = SensorNeed("formosat-2", ("blue",), ("L2",))
    both = dataclasses.replace(FIRE, needs=(*FIRE.needs, of_another))
    assert sorted(needed_assets(item, both)) == ["qa_pixel", "red", "swir22"]


# --- as the reconciler does it ------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ReconcilerHarness]:
    it = ReconcilerHarness(tmp_path)
    yield it
    it.store.close()


def with_files(world: ReconcilerHarness, folder: Path) -> Any:
    (folder / "LC08_A").mkdir()
    for band in ("red", "swir22"):
        (folder / "LC08_A" / f"{band}.tif").write_bytes(band.encode())
    return add_session(world.store, folder=str(folder), bands=("red", "swir22")).id


async def test_the_card_says_how_many_files_were_sent(
    world: ReconcilerHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.reconciler.submit._TELL_EVERY_S", 0.01)
    session, begun = with_files(world, tmp_path), []
    go_on = asyncio.Event()

    async def before() -> None:
        begun.append(True)
        if len(begun) == 2:
            await go_on.wait()

    world.gate.before["put"] = before
    running = Submitter(HERE, world.link, world.store, {FIRE.id: FIRE}, "http://localhost:8501")
    await running.run(world.gate.info())
    said = "Sending the scenes' files to the cluster: 1 of 2 sent."
    await until(lambda: world.session(session).reason == said)
    go_on.set()
    await until(lambda: world.session(session).state is SessionState.SUBMITTED)
    await running.close()
    assert len(world.gate.staged) == 2


async def test_the_first_file_that_fails_ends_the_others(
    world: ReconcilerHarness, tmp_path: Path
) -> None:
    session = with_files(world, tmp_path)
    (tmp_path / "LC08_A" / "swir22.tif").unlink()
    hangs = asyncio.Event()
    world.gate.before["put"] = hangs.wait
    running = Submitter(HERE, world.link, world.store, {FIRE.id: FIRE}, "http://localhost:8501")
    await running.run(world.gate.info())
    await until(lambda: world.session(session).state is SessionState.ENDED)
    await running.close()
    assert "swir22.tif of the scene LC08_A cannot be read" in world.session(session).reason
    assert world.gate.staged == {}
    assert [verb for verb, _ in world.gate.calls if verb == "submit"] == []


async def test_who_may_no_longer_start_work_there_is_refused_before_anything_is_sent(
    world: ReconcilerHarness, tmp_path: Path
) -> None:
    """The tunnel changed hands while the session waited for the cluster."""
    session, asked = with_files(world, tmp_path), []

    def refusal(owner: Any, cluster: Any) -> str:
        asked.append((owner, cluster))
        return "The tunnel to here belongs to the group Coast. You are not in it."

    running = Submitter(
        HERE, world.link, world.store, {FIRE.id: FIRE}, "http://localhost:8501", refusal
    )
    await running.run(world.gate.info())
    await until(lambda: world.session(session).state is SessionState.ENDED)
    await running.close()
    over = world.session(session)
    assert asked == [(over.owner, HERE)]
    assert over.end_reason is EndReason.REFUSED
    assert "belongs to the group Coast" in over.reason
    assert [verb for verb, _ in world.gate.calls if verb in ("put", "submit")] == []


async def test_what_the_gate_says_of_itself_is_kept_fresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    monkeypatch.setattr("lib.reconciler.cluster._INFO_EVERY_S", 0.05)
    async with running_reconciler(tmp_path) as world:
        await world.connected()
        health = world.reconciler.health(HERE)
        assert health.info is not None
        world.gate.data_paths = ["/fresh"]

        def paths() -> list[str]:
            info = world.reconciler.health(HERE).info
            return info.data_paths if info else []

        await until(lambda: paths() == ["/fresh"])
        assert world.reconciler.health(HERE).since == health.since
        world.gate.go_away()
        await until(lambda: not world.reconciler.health(HERE).reachable)
        world.gate.data_paths = ["/never asked"]
        await world.quiet(0.2)
        assert paths() == ["/fresh"], "the last that is known"

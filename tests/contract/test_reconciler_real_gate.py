"""The reconciler over the real gate and the real ssh connection, with notebooks of a moment.

What `tests/unit/test_reconciler_*.py` prove with a gate in memory must hold here too.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lib.model import (
    Endpoint,
    EndReason,
    Fault,
    Module,
    ModuleId,
    Run,
    RunState,
    SceneState,
    SensorNeed,
    Session,
    SessionId,
    SessionState,
)
from lib.notebook_proxy.upstream import Upstream
from lib.portal.tunnels import OuterTunnels
from lib.protocol.messages import JobKind
from lib.reconciler.reconciler import Reconciler
from lib.results.folder import ResultFolder
from lib.store import Store
from lib.store.changes import RunChange, SessionChange
from lib.tunnels.gate_address import GateAddress, TcpAddress
from lib.tunnels.link import ClusterLink
from tests.fakes.reconciler_harness import hurry, until
from tests.fakes.supervisor import Supervisor
from tests.fakes.things import ALICE, HERE, a_run, a_scene, a_session, new_id
from tests.fixtures.gate_site import GateSite, running_site
from tests.folders import short_folder

SMALL = Module(
    id=ModuleId("small"),
    version="1.0.0",
    title="Small",
    summary="Does what it is told.",
    image="none",
    needs=(SensorNeed("landsat-8", ("red",)),),
    params_schema={"type": "object"},
)
#: A notebook's own start takes seconds, and many times that on a busy computer.
LONG_S = 150.0


class Notebooks:
    """`reconciler.NotebookRoutes`: proves a notebook as the proxy does."""

    def __init__(self) -> None:
        self.open_now: dict[SessionId, Upstream] = {}

    async def open(self, session: SessionId, socket: Path, endpoint: Endpoint) -> None:
        upstream = Upstream(socket, endpoint)
        try:
            await upstream.probe()
        except BaseException:
            await upstream.aclose()
            raise
        await self.close(session)
        self.open_now[session] = upstream

    async def close(self, session: SessionId, reason: str = "") -> None:
        upstream = self.open_now.pop(session, None)
        if upstream is not None:
            await upstream.aclose()

    def idle(self, session: SessionId, at: float | None) -> None:
        """What a notebook's page would be told."""


class RealPortal:
    """Store, results and reconciler of one portal process; `again` is the next process."""

    def __init__(self, gate: GateSite, home: Path, runtime: Path) -> None:
        self.gate, self.home, self.runtime = gate, home, runtime
        self.refused = ""
        self.begin()

    def reach(self) -> GateAddress:
        return TcpAddress("127.0.0.1", self.gate.port)

    def begin(self) -> None:
        self.store = Store(self.home / "portal.sqlite")
        self.store.people.ensure_user(ALICE)
        self.results = ResultFolder(self.home / "results")
        self.routes = Notebooks()
        self.link = ClusterLink(
            HERE,
            gate_address=self.reach,
            key=self.gate.key,
            host_key=(self.gate.root / "known_hosts").read_text().partition(" ")[2],
            runtime=self.runtime,
        )
        self.reconciler = Reconciler(
            {HERE: self.link},
            self.store,
            self.results,
            self.routes,
            {SMALL.id: SMALL},
            "http://localhost:8501",
            lambda _owner, _cluster: self.refused,
        )
        self.reconciler.start()

    async def end(self) -> None:
        await self.reconciler.close()
        for session in list(self.routes.open_now):
            await self.routes.close(session)
        self.store.close()

    async def again(self) -> None:
        await self.end()
        self.begin()

    def _work(self, session: SessionId | None, params: dict[str, Any]) -> Run:
        return a_run(
            "S1", session=session, module=SMALL.id, module_version=SMALL.version, params=params
        )

    def start_run(self, **params: Any) -> Run:
        run = self._work(None, params)
        self.store.work.add_run(run, [self._scene()])
        self.reconciler.wake(HERE)
        return run

    def open_notebook(self, **params: Any) -> Session:
        session_id = SessionId(new_id())
        run = self._work(session_id, params)
        session = a_session(run, session_id)
        self.store.work.add_session(session, run, [self._scene()])
        self.reconciler.wake(HERE)
        return session

    def _scene(self) -> Any:
        """Its one file is not on the cluster: it must be staged."""
        file = self.home / "S1" / "red.tif"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"II*\0 red")
        return a_scene("S1", folder=str(self.home), bands=("red",))

    def stop(self, session: Session) -> None:
        self.store.work.update_session(session.id, SessionChange(stopping=True))
        self.store.work.update_run(session.run, RunChange(stopping=True))
        self.reconciler.wake(HERE)

    async def session_is(self, session: Session, state: SessionState) -> Session:
        def found() -> Session:
            return self.store.work.session(session.id)

        await until(lambda: found().state is state, lambda: f"{state}: {found()}", LONG_S)
        return found()

    async def run_is(self, run_id: Any, state: RunState) -> Run:
        def found() -> Run:
            return self.store.work.run(run_id)

        await until(lambda: found().state is state, lambda: f"{state}: {found()}", LONG_S)
        return found()

    async def becomes(self, reachable: bool) -> None:
        await until(
            lambda: self.reconciler.health(HERE).reachable is reachable, "reachability", LONG_S
        )


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GateSite]:
    yield from running_site(tmp_path_factory.mktemp("site"), light=True, slots=1)


@pytest.fixture
def gate(standing: GateSite) -> Iterator[GateSite]:
    """That gate with no job of another test."""
    yield standing
    standing.end_jobs()


@pytest.fixture
async def here(
    gate: GateSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[RealPortal]:
    hurry(monkeypatch)
    home = tmp_path / "portal"
    home.mkdir()
    # A socket's address must be short, and the folder of the test may be long.
    with short_folder() as runtime:
        portal = RealPortal(gate, home, runtime)
        try:
            await portal.becomes(reachable=True)
            yield portal
        finally:
            await portal.end()
            await portal.link.disconnect()
        assert sockets_below(runtime) == []


async def test_a_notebook_through_restarts_of_portal_and_gate(here: RealPortal) -> None:
    session = here.open_notebook(linger_s=0)
    ready = await here.session_is(session, SessionState.READY)
    assert session.id in here.routes.open_now
    assert ready.endpoint_at is not None
    staged = here.gate.work(session.id) / "in" / "S1"
    assert [p.read_bytes() for p in staged.rglob("red*")] == [b"II*\0 red"]
    run = await here.run_is(session.run, RunState.DONE)
    assert run.objects == 1

    await here.again()
    await until(lambda: here.reconciler.connected(HERE, session.id), "proved again", LONG_S)
    assert here.store.work.session(session.id).ready_at == ready.ready_at

    here.gate.stop(jobs=False)
    await here.becomes(reachable=False)
    assert here.store.work.session(session.id).state is SessionState.READY
    assert here.reconciler.health(HERE).reason
    here.gate.start()
    await here.becomes(reachable=True)
    await until(lambda: here.reconciler.connected(HERE, session.id), "proved again", LONG_S)

    here.stop(session)
    over = await here.session_is(session, SessionState.ENDED)
    assert over.end_reason is EndReason.STOPPED
    assert over.files_until is not None
    await until(lambda: not here.routes.open_now, "the route is gone")
    await until(_async(here.link.forwards, frozenset()), "the forward is gone")
    assert here.store.work.run(session.run) == run


async def test_a_run_and_its_results(here: RealPortal) -> None:
    run = here.start_run(objects=3)
    over = await here.run_is(run.id, RunState.DONE)
    assert over.scenes[0].searched == {"pixels": 9}
    found = here.store.detections.of_run(run.id)
    assert [(d.n, d.kind, d.score) for d in found] == [(n, "fire", 0.9) for n in (1, 2, 3)]
    # The small module writes neither real outlines nor real pictures.
    assert not any(d.has_chip for d in found)
    assert "outlines of the objects are missing" in over.scenes[0].message


async def test_a_module_that_crashes_says_its_last_words(here: RealPortal) -> None:
    scene_is_never_done = [json.dumps({"event": "scene_started", "scene": "elsewhere"}), "rubbish"]
    run = here.start_run(objects=0, exit_code=1, text="no such band", lines=scene_is_never_done)
    over = await here.run_is(run.id, RunState.DONE)
    assert over.scenes[0].state is SceneState.DONE, "its one scene was done before it crashed"
    session = here.open_notebook(objects="rubbish")
    failed = await here.run_is(session.run, RunState.FAILED)
    assert "TypeError" in failed.reason
    assert failed.scenes[0].state is SceneState.FAILED
    ready = await here.session_is(session, SessionState.READY)
    assert ready.end_reason is None, "the notebook goes on"


async def test_queued_behind_another_and_cancelled(here: RealPortal) -> None:
    first = here.start_run(linger_s=600)
    await here.run_is(first.id, RunState.DONE)
    second = here.open_notebook()
    queued = await here.session_is(second, SessionState.QUEUED)
    assert queued.reason
    here.stop(second)
    over = await here.session_is(second, SessionState.ENDED)
    assert over.end_reason is EndReason.CANCELLED
    assert (await here.run_is(second.run, RunState.CANCELLED)).objects == 0


async def test_what_the_gate_refuses(here: RealPortal) -> None:
    run = a_run("S1", module=SMALL.id, module_version="9.9.9", params={})
    here.store.work.add_run(run, [here._scene()])
    here.reconciler.wake(HERE)
    over = await here.run_is(run.id, RunState.FAILED)
    assert over.reason.startswith("The cluster refused it.")
    assert "9.9.9" in over.reason


async def test_a_job_that_the_gate_does_not_know(here: RealPortal) -> None:
    run = here.start_run()
    await here.run_is(run.id, RunState.DONE)
    lost = a_run("S1", module=SMALL.id, params={}, state=RunState.SUBMITTED)
    here.store.work.add_run(lost, [here._scene()])
    await here.again()
    over = await here.run_is(lost.id, RunState.FAILED)
    assert over.reason == "The cluster does not know it any more."
    assert here.store.work.run(run.id).state is RunState.DONE


async def test_start_again_has_the_files(here: RealPortal) -> None:
    session = here.open_notebook()
    await here.session_is(session, SessionState.READY)
    await here.run_is(session.run, RunState.DONE)
    (here.gate.work(session.id) / "mine.txt").write_text("kept")
    here.stop(session)
    await here.session_is(session, SessionState.ENDED)
    again = a_session(
        here.store.work.run(session.run), SessionId(new_id()), continued_from=session.id
    )
    here.store.work.add_session(again, None, ())
    here.reconciler.wake(HERE)
    await here.session_is(again, SessionState.READY)
    assert (here.gate.work(again.id) / "mine.txt").read_text() == "kept"
    assert here.gate.status(again.id).kind is JobKind.SESSION


class FarPortal(RealPortal):
    """As `RealPortal`, through an outer tunnel that somebody has to open."""

    submitted_before = 0

    def reach(self) -> GateAddress:
        return OuterTunnels(self.home / "tunnels").reach(HERE)

    def open_tunnel(self, **more: Any) -> Supervisor:
        return Supervisor(self.home / "tunnels", HERE, self.gate.port, group="forest", **more)


@pytest.fixture
async def far(
    gate: GateSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[FarPortal]:
    hurry(monkeypatch)
    home = tmp_path / "portal"
    home.mkdir()
    with short_folder() as runtime:
        portal = FarPortal(gate, home, runtime)
        portal.submitted_before = len(submitted(portal))
        try:
            yield portal
        finally:
            await portal.end()
            await portal.link.disconnect()


async def test_a_notebook_through_a_tunnel_that_dies_and_is_opened_again(far: FarPortal) -> None:
    health = far.reconciler.health
    session = far.open_notebook(linger_s=0)
    await until(lambda: "No tunnel to here has been opened" in health(HERE).reason)
    assert far.store.work.session(session.id).state is SessionState.NEW

    first = far.open_tunnel()
    try:
        ready = await far.session_is(session, SessionState.READY)
    finally:
        first.kill()
    await until(lambda: health(HERE).fault == Fault.TUNNEL, "the closed tunnel is noticed", LONG_S)
    assert not health(HERE).reachable
    assert "The tunnel that ada opened is closed." in health(HERE).reason
    assert "ada can open it again." in health(HERE).reason
    assert far.store.work.session(session.id).state is SessionState.READY

    second = far.open_tunnel(account="ben")
    try:
        await far.becomes(reachable=True)
        await until(lambda: far.reconciler.connected(HERE, session.id), "proved again", LONG_S)
        assert session.id in far.routes.open_now
        again = far.store.work.session(session.id)
        assert (again.job, again.ready_at) == (ready.job, ready.ready_at)
        assert submitted(far) == [session.id]

        far.refused = "The tunnel to here belongs to the group Coast. You are not in it."
        late = await far.run_is(far.start_run().id, RunState.FAILED)
        assert late.reason == f"The cluster refused it. {far.refused}"
        assert submitted(far) == [session.id], "what runs goes on, nothing is added"
        far.stop(session)
        await far.session_is(session, SessionState.ENDED)
    finally:
        await far.reconciler.close()
        second.kill()


def submitted(far: FarPortal) -> list[str]:
    """What this portal has brought to the gate."""
    lines = [line for line in far.gate.audit() if line["event"] == "submitted"]
    return [line["session"] for line in lines[far.submitted_before :]]


def sockets_below(folder: str) -> list[Path]:
    return list(Path(folder).rglob("*.sock"))


def _async(ask: Callable[[], Any], wanted: Any) -> Callable[[], Any]:
    async def asked() -> bool:
        return bool(await ask() == wanted)

    return asked


def test_the_gate_in_memory_speaks_the_same_language() -> None:
    """Both links have exactly the methods that the reconciler's port names."""
    from lib.reconciler.interfaces import Link
    from tests.fakes.gate import MemoryLink

    names = {name for name in vars(Link) if not name.startswith("_")}
    for link in (MemoryLink, ClusterLink):
        assert names <= set(dir(link)), link
    assert asyncio.iscoroutinefunction(MemoryLink.submit)

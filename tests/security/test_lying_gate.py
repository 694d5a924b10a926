"""A gate that lies costs its own cluster at most: all else answers, for everybody.

What it says goes the way of a real gate's words: bytes, the codec, the reconciler, the store,
the portal and its API, in this process.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from lib.auth import OWNER
from lib.model import (
    ClusterId,
    EndReason,
    Reachability,
    RunState,
    SessionId,
    SessionState,
    User,
)
from lib.store.changes import RunChange, SessionChange
from lib.store.tables import run_scenes, runs, sessions
from tests.fakes import lying_gate as lying
from tests.fakes.reconciler_harness import hurry
from tests.fakes.site import Site, serve_site
from tests.fakes.things import ALICE, BOB, HERE, a_run, a_scene, a_session, new_id

LIAR = ClusterId("liar")
#: What a gate has a say in.
QUERIES = ("/api/clusters", "/api/sessions", "/api/runs")
EVENT = {
    "event": "object", "time": 1e9, "scene": "LC08_A", "n": 1, "class": "fire", "score": 0.5,
    "lon": 0.5, "lat": 0.5, "bbox": [0, 0, 1, 1], "pixels": 1, "area_m2": 900.0, "chip": False,
    "flags": [], "properties": {"a": 1},
}  # fmt: skip


class LyingSite:
    """Alice works here, Bob on the cluster of the liar, the owner looks after both."""

    def __init__(self, site: Site, link: lying.LyingLink) -> None:
        self.site, self.link, self.store = site, link, site.world.store
        self.clients = {who: site.client(who) for who in (ALICE, BOB, OWNER)}
        self.alice_s = self.add_session(ALICE, HERE)

    def add_session(self, owner: User, cluster: ClusterId) -> SessionId:
        session_id = SessionId(new_id())
        run = a_run(owner=owner, session=session_id, cluster=cluster)
        scenes = [a_scene(s.scene) for s in run.scenes]
        self.store.work.add_session(a_session(run, session_id), run, scenes)
        if cluster == LIAR:
            submitted = SessionChange(state=SessionState.SUBMITTED, job="17")
            self.store.work.update_session(session_id, submitted)
            self.store.work.update_run(run.id, RunChange(state=RunState.SUBMITTED, job="17"))
        return session_id

    async def everything_answers(self, bobs: SessionId) -> None:
        """No route fails for anybody, and nobody sees more than before."""
        bobs_run = self.store.work.session(bobs).run
        bobs_own = (
            f"/api/sessions/{bobs}", f"/api/runs/{bobs_run}", f"/api/runs/{bobs_run}/detections",
        )  # fmt: skip
        alices = self.store.work.session(self.alice_s)
        for who in (ALICE, BOB, OWNER):
            client = self.clients[who]
            own = bobs_own if who is BOB else ()
            own += (f"/api/sessions/{alices.id}",) if who is ALICE else ()
            for path in (*QUERIES, *own):
                answer = await client.get(path)
                assert answer.status_code == 200, (who.id, path, answer.text[:300])
                answer.json()
            if who is ALICE:
                for path in bobs_own:
                    assert (await client.get(path)).status_code == 404, path
                assert (await client.delete(bobs_own[0])).status_code == 404
        here = next(c for c in self.site.portal.clusters(ALICE) if c.id == HERE)
        assert here.reachability is Reachability.REACHABLE
        administration = self.site.portal.administration
        assert {w.id for w in administration.work(self.owner())} >= {bobs, alices.id}

    def owner(self) -> User:
        return replace(OWNER, administrator=True)

    def liar(self) -> Any:
        return next(c for c in self.site.portal.clusters(BOB) if c.id == LIAR)


@asynccontextmanager
async def lying_site(home: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LyingSite]:
    hurry(monkeypatch)
    link = lying.LyingLink()
    async with serve_site(home, {LIAR: link}) as site:
        site.world.store.people.ensure_user(OWNER)
        yield LyingSite(site, link)


def said_of(site: LyingSite, session: SessionId) -> str:
    return site.store.work.session(session).reason


async def test_a_time_that_cannot_be_costs_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lying_site(tmp_path, monkeypatch) as site:
        bad, good = site.add_session(BOB, LIAR), site.add_session(BOB, LIAR)
        for lie in (1e308, 10**400, "@digits@"):
            rows = (lying.job_status(bad, keep_until=lie, state="ended"), lying.job_status(good))
            await site.link.tell(lying.gate_info(), lying.watch_message(*rows))
            await site.everything_answers(bad)
            if lie == "@digits@":  # such a line is no JSON at all
                assert "not understood: not JSON" in site.liar().unreachable_reason
            else:
                assert site.liar().reachability is Reachability.REACHABLE
        assert "keep_until must be a time from 2000 to 2100" in said_of(site, bad)
        assert site.store.work.session(bad).state is SessionState.SUBMITTED, "it is not lost"
        assert site.store.work.session(good).state is SessionState.STARTING
        for session in (bad, good):
            answer = await site.clients[BOB].delete(f"/api/sessions/{session}")
            assert answer.status_code == 202
        rows = (lying.job_status(bad, keep_until=1e308), lying.job_status(good))
        await site.link.tell(lying.gate_info(), lying.watch_message(*rows))
        ended = site.store.work.session(bad)
        assert (ended.state, ended.end_reason) == (SessionState.ENDED, EndReason.STOPPED)
        assert site.store.work.run(ended.run).state is RunState.CANCELLED
        assert site.store.work.session(good).state is SessionState.STARTING, "its gate will say so"


async def test_what_is_left_out_is_one_line_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with lying_site(tmp_path, monkeypatch) as site:
        bobs = site.add_session(BOB, LIAR)
        caplog.clear()
        rows = [lying.job_status(new_id(), events=-1) for _ in range(200)]
        await site.link.tell(
            lying.gate_info(),
            lying.watch_message(lying.job_status(bobs), *rows),
            lying.watch_message(kind="events", id=bobs, events=[7] * 200),
        )
        said = [r.getMessage() for r in caplog.records if r.name.startswith("lib.reconciler")]
        assert len(said) == 2, said
        assert "of 200 jobs cannot be right" in said[0]
        assert "200 events were left out, the first: An event must be an object, not 7." in said[1]


async def test_a_gate_speaks_for_no_other_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lying_site(tmp_path, monkeypatch) as site:
        other = ClusterId("other")
        hers, theirs = site.add_session(ALICE, other), site.add_session(BOB, LIAR)
        run = a_run(cluster=other)
        site.store.work.add_run(run, [a_scene(s.scene) for s in run.scenes])
        lost = SessionChange(state=SessionState.ENDED, end_reason=EndReason.LOST, ended_at=1e9)
        gone = site.add_session(ALICE, other)
        site.store.work.update_session(gone, lost)
        ended = {"state": "ended", "ended_at": 1e9, "end_reason": "stopped", "endpoint": None}
        before = site.store.work.session(hers).state, site.store.work.run(run.id).state
        await site.link.tell(
            lying.gate_info(),
            lying.watch_message(
                *(lying.job_status(s, **ended) for s in (hers, theirs)),
                lying.job_status(run.id, **{**ended, "kind": "run"}), lying.job_status(gone),
            ),
            lying.watch_message(
                lying.job_status(hers, ends_at=1e308), lying.job_status(run.id, ends_at=1e308),
                lying.job_status(theirs), kind="jobs",
            ),
        )  # fmt: skip
        assert site.store.work.session(theirs).state is SessionState.ENDED
        assert site.store.work.session(gone).state is SessionState.ENDED
        after = site.store.work.session(hers), site.store.work.run(run.id)
        assert (after[0].state, after[1].state) == before
        assert "cannot be right" not in after[0].reason + after[1].reason
        assert after[0].end_reason is None


async def test_a_gate_that_says_nonsense_of_itself_costs_its_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lying_site(tmp_path, monkeypatch) as site:
        bobs = site.add_session(BOB, LIAR)
        (preset,) = lying.gate_info()["presets"]
        for lie, said in (
            ({"load_at": 1e308}, "GateInfo.load_at must be a time"),
            ({"time": 10**400}, "GateInfo.time must be a time"),
            ({"presets": [preset] * 20_000}, "GateInfo.presets must be a list of at most 200"),
        ):
            await site.link.tell(lying.gate_info(**lie))
            await site.everything_answers(bobs)
            assert site.liar().reachability is Reachability.UNKNOWN
            assert said in site.liar().unreachable_reason
        await site.link.tell(
            lying.gate_info(presets=[{**preset, "title": "x" * 2**20}, preset]),
            lying.watch_message(lying.job_status(bobs)),
        )
        await site.everything_answers(bobs)
        assert [p.name for p in site.liar().presets] == ["small"]
        (_missing, left_out) = site.liar().troubles
        assert "presets[0].title is longer than 300 characters" in left_out


async def test_a_row_that_was_poisoned_before_is_shown_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a portal wrote it that believed every number."""
    async with lying_site(tmp_path, monkeypatch) as site:
        bobs = site.add_session(BOB, LIAR)
        run = site.store.work.session(bobs).run
        times = {"files_until": 1e308, "starts_at": -1e308, "ends_at": float("inf")}
        more = {"reason": "x" * 2**20, "end_reason": "of a newer portal"}
        with site.store.work._engine.begin() as connection:
            connection.execute(
                update(sessions).where(sessions.c.id == bobs).values(**times, **more)
            )
            connection.execute(update(runs).where(runs.c.id == run).values(started_at=1e308))
            connection.execute(
                update(run_scenes).where(run_scenes.c.run_id == run).values(
                    fraction=float("inf"), searched={"a": float("nan")}
                )
            )  # fmt: skip
        await site.link.tell(lying.gate_info(), lying.watch_message(lying.job_status(bobs)))
        await site.everything_answers(bobs)
        assert site.liar().reachability is Reachability.REACHABLE
        assert len(site.store.work.session(bobs).reason) <= 20_000
        answer = await site.clients[BOB].delete(f"/api/sessions/{bobs}")
        assert answer.status_code == 202
        ended = lying.job_status(bobs, state="ended", ended_at=1e9, keep_until=4e9, endpoint=None)
        await site.link.tell(lying.gate_info(), lying.watch_message(ended))
        assert site.store.work.session(bobs).state is SessionState.ENDED
        await site.everything_answers(bobs)


# --- every field of every message -----------------------------------------------------------


def lies(places: list[tuple[lying.Path, Any]]) -> st.SearchStrategy[list[tuple[Any, Any]]]:
    """Up to three (place, value): mostly what its bounds just allow or just refuse."""

    def of(place: tuple[lying.Path, Any]) -> st.SearchStrategy[tuple[lying.Path, Any]]:
        path, kind = place
        within = lying.edges(kind) or list(lying.ODD)
        values = st.sampled_from(within) | st.sampled_from([*lying.ODD, *lying.OUTRAGEOUS])
        return st.tuples(st.just(path), values)

    return st.lists(st.sampled_from(places).flatmap(of), max_size=3)


def changed(message: dict[str, Any], told: list[tuple[lying.Path, Any]]) -> dict[str, Any]:
    for path, value in sorted(told, key=lambda lie: -len(lie[0])):
        message = lying.put(message, path, value)
    return message


VALUES = st.sampled_from([*lying.ODD, *lying.OUTRAGEOUS])
CHANGES = st.tuples(st.sampled_from(sorted(EVENT)), VALUES)
EVENTS = st.lists(VALUES | CHANGES.map(lambda c: {**EVENT, c[0]: c[1]}), max_size=3)


def drawn() -> list[tuple[Any, ...]]:
    """Examples, the same ones each time; none is drawn while the portal runs."""
    examples: list[tuple[Any, ...]] = []

    @settings(
        max_examples=25,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(lies(lying.INFO_PLACES), lies(lying.STATUS_PLACES), lies(lying.WATCH_PLACES), EVENTS)
    def draw(info: Any, status: Any, message: Any, events: Any) -> None:
        examples.append((info, status, message, events))

    draw()
    return examples


@pytest.mark.slow
async def test_whatever_a_gate_says_everybody_else_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    examples = drawn()
    reached = 0
    async with lying_site(tmp_path, monkeypatch) as site:
        for info, status, message, events in examples:
            bobs = site.add_session(BOB, LIAR)
            snapshot = lying.watch_message(
                changed(lying.job_status(bobs), status),
                *(lying.job_status(s.id) for s in site.store.work.live_sessions(LIAR)),
            )
            said = lying.watch_message(kind="events", id=bobs, events=[EVENT, *events])
            await site.link.tell(
                changed(lying.gate_info(), info), changed(snapshot, message), changed(said, message)
            )
            reached += site.liar().reachability is Reachability.REACHABLE
            await site.everything_answers(bobs)
            faults = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
            assert faults == [], (info, status, message, events)
    assert 0 < reached < len(examples), "some lies are taken in, some refused"

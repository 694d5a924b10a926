"""Loops: a fault of one thing is logged once and stops no other; one that stands still shows."""

from __future__ import annotations

import asyncio
import logging

import pytest

from lib import loops as loops_module
from lib.errors import Unavailable
from lib.loops import Loops

log = logging.getLogger("loops")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops_module, "FAULT_PAUSE_S", 0.0)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def fail(kind: type[Exception]) -> None:
    raise kind("at", Clock.now)


def test_a_fault_is_logged_once_with_its_id_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    loops = Loops("The gate", log, clock=clock)
    done = []
    for turn in range(3):
        for ident in ("one", "two", "three"):
            with loops.item(ident):
                if ident == "two":
                    fail(RecursionError)
                done.append((turn, ident))
    assert len(done) == 6
    assert [r.getMessage().partition(":")[0] for r in caplog.records] == ["two"]
    with loops.item("two"):
        fail(KeyError)
    with loops.item("three"):
        fail(KeyError)
    assert len(caplog.records) == 3, "another fault, and another thing's"
    clock.now += 3601
    with loops.item("three"):
        fail(KeyError)
    assert len(caplog.records) == 4, "it goes on for an hour"


def test_what_means_more_than_one_thing_is_raised_on(caplog: pytest.LogCaptureFixture) -> None:
    loops = Loops("The gate", log)
    with pytest.raises(Unavailable), loops.item("one", Unavailable):
        raise Unavailable("the disk is full")
    with pytest.raises(asyncio.CancelledError), loops.item("one"):
        raise asyncio.CancelledError
    assert not caplog.records


async def test_a_loop_outlives_its_turns_and_ends_only_by_cancel(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loops = Loops("The gate", log)
    turns, enough = [], asyncio.Event()

    async def turn() -> None:
        turns.append(None)
        if len(turns) == 20:
            enough.set()
        fail(ValueError)

    task = asyncio.ensure_future(loops.add("turned", late_after_s=60.0).run(turn))
    await enough.wait()
    assert not task.done()
    assert len(caplog.records) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("how", ["fails", "hangs", "ended"])
async def test_a_loop_that_stands_still_is_said(how: str) -> None:
    clock = Clock()
    loops = Loops("The gate", log, clock=clock)
    loop = loops.add("counted", late_after_s=60.0)
    loops.add("never started", late_after_s=1.0)
    turned = asyncio.Event()
    works = True

    async def turn() -> None:
        turned.set()
        if not works and how == "fails":
            fail(ValueError)
        if not works and how == "hangs":
            await asyncio.Event().wait()

    async def next_turn() -> None:
        turned.clear()
        await turned.wait()
        await asyncio.sleep(0)

    task = asyncio.ensure_future(loop.run(turn))
    await next_turn()
    works = False
    await next_turn()
    clock.now += 20
    if how == "ended":
        task.cancel()
        await asyncio.wait({task})
    else:
        assert loops.trouble == ""
        clock.now += 50
    said = loops.trouble
    assert said.startswith("The gate has not counted since ")
    clock.now += 1000
    assert loops.trouble == said, "the sentence stays"
    if how == "fails":
        works = True
        await next_turn()
        await next_turn()
        assert loops.trouble == ""
    task.cancel()
    await asyncio.wait({task})

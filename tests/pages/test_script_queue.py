"""Page scripts take turns, and none can keep the others waiting."""

from __future__ import annotations

import threading
import time

import pytest

from ui import script_queue


def draw(begun: threading.Event, done: list[str], name: str, until: threading.Event) -> None:
    with script_queue.in_turn():
        begun.set()
        until.wait(10)
        done.append(name)


def test_the_second_begins_when_the_first_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script_queue, "LONGEST_WAIT_S", 10.0)
    done: list[str] = []
    events = [threading.Event() for _ in range(4)]
    first = threading.Thread(target=draw, args=(events[0], done, "first", events[1]))
    second = threading.Thread(target=draw, args=(events[2], done, "second", events[3]))
    first.start()
    assert events[0].wait(5)
    events[3].set()  # the second would be quick
    second.start()
    assert not events[2].wait(0.3)
    events[1].set()
    first.join(5)
    second.join(5)
    assert done == ["first", "second"]


def test_one_that_hangs_holds_nobody_up_for_long() -> None:
    done: list[str] = []
    events = [threading.Event() for _ in range(4)]
    hangs = threading.Thread(target=draw, args=(events[0], done, "hangs", events[1]))
    hangs.start()
    assert events[0].wait(5)
    events[3].set()
    began = time.monotonic()
    draw(events[2], done, "other", events[3])
    assert (
        script_queue.LONGEST_WAIT_S - 0.05
        < time.monotonic() - began
        < script_queue.LONGEST_WAIT_S + 2
    )
    assert done == ["other"]
    events[1].set()
    hangs.join(5)
    began = time.monotonic()
    draw(events[2], done, "next", events[3])  # the turn came back, once
    assert time.monotonic() - began < 0.2
    assert done == ["other", "hangs", "next"]


def test_a_script_that_fails_gives_its_turn_back() -> None:
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(ZeroDivisionError), script_queue.in_turn():
            raise ZeroDivisionError
        assert time.monotonic() - began < 0.2

"""Page scripts take turns, and none can keep the others waiting."""

from __future__ import annotations

import threading

import pytest

from ui import script_queue

FOR_EVER_S = 3600.0


class Script:
    """A page's script in a thread of its own; it is done when it is told to be."""

    def __init__(self, order: list[str], name: str) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        self._order, self._name = order, name
        self.thread = threading.Thread(target=self._draw)
        self.thread.start()

    def _draw(self) -> None:
        with script_queue.in_turn():
            self._order.append(f"{self._name} begins")
            self.begun.set()
            self.may_end.wait()
            self._order.append(f"{self._name} ends")

    def end(self) -> None:
        self.may_end.set()
        self.thread.join()


def waiting(count: int) -> None:
    """Until so many scripts are in the queue, the one that runs among them."""
    while len(script_queue._queue) != count:
        threading.Event().wait(0.005)


def test_the_second_begins_when_the_first_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script_queue, "LONGEST_WAIT_S", FOR_EVER_S)
    order: list[str] = []
    first = Script(order, "first")
    first.begun.wait()
    second = Script(order, "second")
    second.may_end.set()
    waiting(2)
    assert not second.begun.is_set()
    first.end()
    second.end()
    assert order == ["first begins", "first ends", "second begins", "second ends"]


def test_one_that_hangs_holds_nobody_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    hangs = Script(order, "hanging")
    hangs.begun.wait()
    Script(order, "other").end()
    assert order == ["hanging begins", "other begins", "other ends"]
    hangs.end()
    monkeypatch.setattr(script_queue, "LONGEST_WAIT_S", FOR_EVER_S)
    Script(order, "next").end()  # the turn came back, once
    assert order[-1] == "next ends"


def test_a_script_that_fails_gives_its_turn_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script_queue, "LONGEST_WAIT_S", FOR_EVER_S)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), script_queue.in_turn():
            raise ZeroDivisionError


def test_the_longest_wait_is_one_that_people_bear() -> None:
    assert script_queue.LONGEST_WAIT_S <= 0.5

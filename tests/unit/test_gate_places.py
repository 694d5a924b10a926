"""Who gives way when all places of the gate are taken."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from lib.gate.places import Places


@dataclass(eq=False)
class Visitor:
    owner: str = "a"
    silent: bool = False
    dropped: bool = field(default=False, init=False)

    def drop(self) -> None:
        assert not self.dropped
        self.dropped = True


def full(places: Places[Visitor], *visitors: Visitor) -> tuple[Visitor, ...]:
    assert all(places.take(visitor) for visitor in visitors)
    assert not any(visitor.dropped for visitor in visitors)
    return visitors


def dropped(visitors: tuple[Visitor, ...]) -> list[int]:
    return [n for n, visitor in enumerate(visitors) if visitor.dropped]


@pytest.mark.parametrize("newest_wins", [False, True])
@pytest.mark.parametrize(
    ("who", "gives_way"),
    [
        ("a a- a a", 1),  # the silent one of the older half
        ("a- a- a a", 0),  # the oldest of them
        ("a b- b- b", 1),  # before a silent one that has just come
        ("a- b- b b", 1),  # of the owner who holds most
        ("b b b b", 0),  # the oldest of an owner who holds more than the newcomer's
        ("a b b b", 1),
    ],
)
def test_silence_and_numbers_keep_nobody_out(who: str, gives_way: int, newest_wins: bool) -> None:
    places = Places[Visitor](4, newest_wins=newest_wins)
    there = full(places, *(Visitor(name[0], name.endswith("-")) for name in who.split()))
    assert places.take(Visitor("a"))
    assert dropped(there) == [gives_way]
    assert len(places) == 4


@pytest.mark.parametrize("who", ["a a a a", "a a b b", "b b b a", "a a a- a-"])
def test_a_newcomer_who_would_hold_as_much_is_refused_unless_the_newest_wins(who: str) -> None:
    owner = "b" if who == "b b b a" else "a"
    visitors = [Visitor(name[0], name.endswith("-")) for name in who.split()]
    places = Places[Visitor](4)
    there = full(places, *visitors)
    assert not places.take(Visitor(owner))
    assert dropped(there) == []
    places.leave(there[0])
    assert places.take(Visitor(owner))

    always = Places[Visitor](4, newest_wins=True)
    full(always, *visitors)
    assert always.take(Visitor(owner))
    assert len(dropped(there)) == 1

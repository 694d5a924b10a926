"""The one backoff: waits grow to a bound, are spread by jitter, and begin anew."""

from __future__ import annotations

import random

import pytest

from lib.backoff import Backoff


def waits(backoff: Backoff, count: int) -> list[float]:
    return [backoff.next_s() for _ in range(count)]


def test_waits_double_up_to_the_longest() -> None:
    backoff = Backoff(0.5, 3.0, jitter=lambda: 1.0)
    assert waits(backoff, 5) == [0.5, 1.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize(("number", "part"), [(0.0, 0.5), (0.5, 0.75), (0.999, 0.9995)])
def test_at_least_half_is_waited_and_the_rest_by_chance(number: float, part: float) -> None:
    backoff = Backoff(1.0, 4.0, jitter=lambda: number)
    assert waits(backoff, 3) == pytest.approx([part, 2 * part, 4 * part])


def test_each_wait_draws_anew_and_growth_does_not_depend_on_chance() -> None:
    numbers = iter([0.0, 1.0, 0.0, 1.0])
    assert waits(Backoff(1.0, 8.0, jitter=lambda: next(numbers)), 4) == [0.5, 2.0, 2.0, 8.0]


def test_it_begins_anew_when_told() -> None:
    backoff = Backoff(1.0, 8.0, jitter=lambda: 1.0)
    waits(backoff, 3)
    backoff.reset()
    assert waits(backoff, 2) == [1.0, 2.0]


def test_it_begins_anew_only_after_what_held_for_longer_than_steady() -> None:
    backoff = Backoff(1.0, 8.0, steady_s=30.0, jitter=lambda: 1.0)
    assert [backoff.next_s(held_s=s) for s in (0.0, 30.0, 30.1, 0.0)] == [1.0, 2.0, 1.0, 2.0]


def test_a_first_wait_above_the_longest_is_cut() -> None:
    assert waits(Backoff(5.0, 2.0, jitter=lambda: 1.0), 2) == [2.0, 2.0]


def test_two_loops_that_failed_together_come_back_apart() -> None:
    one = Backoff(1.0, 60.0, jitter=random.Random(1).random)
    other = Backoff(1.0, 60.0, jitter=random.Random(2).random)
    assert all(a != b for a, b in zip(waits(one, 6), waits(other, 6), strict=True))

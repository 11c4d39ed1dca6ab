"""Results come in order, no more than a few are made early, and an error comes where its result would have."""

from __future__ import annotations

import threading
import time

import pytest

from skyloom.workflows.ahead import AHEAD, ahead


def test_results_come_in_the_order_of_the_items() -> None:
    def make(number: int) -> int:
        time.sleep(0.01 * (number % 3))
        return number * number

    assert list(ahead(make, range(20))) == [n * n for n in range(20)]
    assert list(ahead(make, [])) == []
    assert list(ahead(make, iter([3]))) == [9]


def test_no_more_are_made_than_asked_for_and_a_few() -> None:
    made: list[int] = []
    for place, _ in enumerate(ahead(made.append, range(30))):
        time.sleep(0.002)
        assert len(made) <= place + 2 + AHEAD
    assert sorted(made) == list(range(30))


def test_the_next_is_made_meanwhile() -> None:
    gate = threading.Event()

    def make(number: int) -> int:
        if number == 1:
            gate.set()
        return number

    results = ahead(make, range(3))
    assert next(results) == 0
    assert gate.wait(20)


def test_an_error_comes_in_its_place_and_nothing_is_made_after_it() -> None:
    made: list[int] = []

    def make(number: int) -> int:
        if number == 4:
            raise OSError("no more")
        made.append(number)
        return number

    results = ahead(make, range(100))
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(OSError, match="no more"):
        next(results)
    assert len(made) <= 4 + AHEAD


def test_who_stops_early_waits_for_no_more_than_is_being_made() -> None:
    made: list[int] = []
    results = ahead(made.append, range(1000))
    next(results)
    results.close()
    assert len(made) <= 2 + AHEAD

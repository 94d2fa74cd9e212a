"""timer: the order rotates, the statistics are the textbook's, a contender may bring its own clock."""

from __future__ import annotations

import time

import pytest

from shardlab.measure.timer import Stats, interleave, ratio, slowest


def test_order_rotates_and_warmup_is_not_counted() -> None:
    calls: list[str] = []
    told: list[int] = []
    names = "abc"
    stats = interleave(
        {name: (lambda name=name: calls.append(name)) for name in names},
        rounds=4,
        warmup=1,
        on_round=told.append,
    )
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert told == [1, 2, 3, 4]
    assert {name: len(value.samples_s) for name, value in stats.items()} == {"a": 4, "b": 4, "c": 4}


def test_a_float_is_the_contenders_own_clock() -> None:
    clock = iter([9.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    stats = interleave({"own": lambda: next(clock)}, rounds=5)["own"]
    assert stats.samples_s == (1.0, 2.0, 3.0, 4.0, 5.0)
    assert (stats.median_s, stats.p10_s, stats.p90_s) == (3.0, 1.4, 4.6)


def test_a_call_is_timed_from_outside() -> None:
    stats = interleave({"sleep": lambda: time.sleep(0.01)}, rounds=1, warmup=0)["sleep"]
    assert stats.median_s >= 0.01


def test_ratio_is_taken_within_each_round() -> None:
    assert ratio(Stats((2.0, 40.0)), Stats((1.0, 10.0))).samples_s == (2.0, 4.0)
    with pytest.raises(ValueError):
        ratio(Stats((1.0,)), Stats((1.0, 2.0)))


def test_reads_like_a_person_would_write_it() -> None:
    assert str(Stats((0.0012,))) == "1.2 ms (1.2-1.2)"
    assert str(Stats((3e-10,))) == "0.3 ns (0.3-0.3)"
    assert str(Stats((2.0,))) == "2 s (2-2)"
    assert slowest([1.0, 3.0, 2.0]) == 3.0


def test_what_cannot_be_timed_is_refused() -> None:
    with pytest.raises(ValueError, match="contenders"):
        interleave({})
    with pytest.raises(ValueError, match="rounds=0"):
        interleave({"a": lambda: None}, rounds=0)
    with pytest.raises(ValueError, match="no samples"):
        Stats(())
    with pytest.raises(ValueError, match="no rank"):
        slowest([])

"""measure.crossover: one clean crossing is found, noise near it does not move it far, ties are none."""

from __future__ import annotations

import pytest

from shardlab.measure.crossover import Crossover, crossover

SIZES = [1 << exponent for exponent in range(10, 21)]


def curve(alpha: float, per_byte: float) -> list[float]:
    return [alpha + per_byte * size for size in SIZES]


def is_at(found: Crossover | None, num_bytes: float, first_below: bool) -> bool:
    return found is not None and found.num_bytes == pytest.approx(num_bytes) and found.first_below is first_below


def test_a_clean_crossing() -> None:
    latency, bandwidth = curve(10.0, 2e-3), curve(40.0, 1e-3)  # equal at 30000 bytes: between 2^14 and 2^15
    assert is_at(crossover(SIZES, latency, bandwidth), 2**14.5, True)
    assert is_at(crossover(SIZES, bandwidth, latency), 2**14.5, False)


def test_one_is_faster_throughout_or_nobody_is() -> None:
    slow, fast = curve(20.0, 2e-3), curve(10.0, 1e-3)
    assert crossover(SIZES, slow, fast) is None
    assert crossover(SIZES, fast, slow) is None
    assert crossover(SIZES, slow, slow) is None
    nearly = [value * (1.05 if index % 2 else 0.95) for index, value in enumerate(slow)]
    assert crossover(SIZES, slow, nearly) is None


def test_one_outlier_decides_nothing() -> None:
    latency, bandwidth = curve(10.0, 2e-3), curve(40.0, 1e-3)
    latency[-1] /= 2.5  # the last size says the opposite of the five before it
    latency[0] *= 5
    assert is_at(crossover(SIZES, latency, bandwidth), 2**14.5, True)


def test_agreement_is_a_power_of_two_and_the_same_way_round() -> None:
    measured = Crossover(1024.0, True)
    assert measured.agrees(Crossover(2048.0, True)) and measured.agrees(Crossover(512.0, True))
    assert not measured.agrees(Crossover(2100.0, True)) and not measured.agrees(Crossover(1024.0, False))
    assert not measured.agrees(None)


def test_curves_have_one_length() -> None:
    with pytest.raises(ValueError):
        crossover(SIZES, curve(1, 1), curve(1, 1)[1:])

"""Fits: constants come back, stay above 0, follow the units, and say what the samples cannot tell."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shardlab.measure.fit import Sample, fit, fit_line, residuals
from shardlab.theory.cost import Cost, critical_path

FUZZ = settings(max_examples=100, derandomize=True, deadline=None)
SIZES = [1 << power for power in range(10, 31)]
log_uniform = st.floats(-1, 1).map(lambda power: 10**power)
costs = st.builds(
    lambda alpha, beta, root, base: Cost(2e-6 * alpha, 200e9 * beta, 10e-9 * root, 10e-6 * base),
    log_uniform,
    log_uniform,
    log_uniform,
    log_uniform,
)


def samples(cost: Cost, degrees: tuple[int, ...] = (2, 4, 8), noise: float = 0.0, seed: int = 0) -> list[Sample]:
    random_state = random.Random(seed)
    found = []
    for n in degrees:
        for size in SIZES:
            hops, wire = critical_path("all_reduce", num_bytes=size, world_size=n, algorithm="ring")
            seconds = cost.time_s(hops, wire) * math.exp(random_state.gauss(0, noise))
            found.append(Sample(hops, wire, seconds))
    return found


def loss(cost: Cost, given_samples: list[Sample]) -> float:
    return sum(math.log(cost.time_s(one.hops, one.wire_bytes) / one.seconds) ** 2 for one in given_samples)


@FUZZ
@given(cost=costs)
def test_constants_come_back_from_clean_data(cost: Cost) -> None:
    found = fit(samples(cost))
    assert found.alpha_s == pytest.approx(cost.alpha_s, rel=1e-3, abs=1e-10)
    assert found.bandwidth_Bps == pytest.approx(cost.bandwidth_Bps, rel=1e-3)
    assert found.sqrt_s == pytest.approx(cost.sqrt_s, rel=1e-3, abs=1e-12)
    assert found.base_s == pytest.approx(cost.base_s, rel=1e-3, abs=1e-9)


@FUZZ
@given(cost=costs, seed=st.integers(0, 2**32))
def test_noise_of_ten_percent_is_averaged_out(cost: Cost, seed: int) -> None:
    noisy = samples(cost, noise=0.1, seed=seed)
    found = fit(noisy)
    assert loss(found, noisy) <= loss(cost, noisy)  # better on the data than the truth itself: the least squares
    truth = samples(cost)
    assert all(abs(error) < 0.2 for error in residuals(found, truth))
    assert math.sqrt(loss(found, truth) / len(truth)) < 0.06


@FUZZ
@given(seed=st.integers(0, 2**32), count=st.integers(2, 30))
def test_constants_are_never_negative_whatever_the_data(seed: int, count: int) -> None:
    random_state = random.Random(seed)
    wild = [
        Sample(random_state.randint(1, 14), 2 ** random_state.uniform(0, 34), 10 ** random_state.uniform(-6, 0))
        for _ in range(count)
    ]
    for found in (fit(wild), fit_line(wild)):
        assert min(found.alpha_s, found.sqrt_s, found.base_s) >= 0
        assert found.bandwidth_Bps > 0
        assert all(math.isfinite(error) for error in residuals(found, wild))


@FUZZ
@given(cost=costs, seed=st.integers(0, 2**32), factor=st.floats(1e-3, 1e3))
def test_slower_by_a_factor_is_every_constant_by_that_factor(cost: Cost, seed: int, factor: float) -> None:
    noisy = samples(cost, noise=0.1, seed=seed)
    slower = [Sample(one.hops, one.wire_bytes, one.seconds * factor) for one in noisy]
    once, scaled = fit(noisy), fit(slower)
    for one in noisy:
        ratio = scaled.time_s(one.hops, one.wire_bytes) / once.time_s(one.hops, one.wire_bytes)
        assert ratio == pytest.approx(factor, rel=1e-3)


@FUZZ
@given(cost=costs, seed=st.integers(0, 2**32))
def test_the_fit_is_a_minimum(cost: Cost, seed: int) -> None:
    noisy = samples(cost, noise=0.1, seed=seed)
    found = fit(noisy)
    assume(math.isfinite(found.bandwidth_Bps))
    least = loss(found, noisy)
    for name in ("alpha_s", "bandwidth_Bps", "sqrt_s", "base_s"):
        for step in (0.98, 1.02):
            constants = {**found.__dict__, name: found.__dict__[name] * step}
            assert loss(Cost(**constants), noisy) >= least * (1 - 1e-6)
    assert fit(noisy) == found
    assert loss(fit_line(noisy), noisy) >= least * (1 - 1e-6)


def test_one_world_size_holds_the_base_in_alpha() -> None:
    cost = Cost(1e-6, 300e9, 5e-9, base_s=20e-6)
    found = fit(samples(cost, degrees=(4,)))
    assert found.base_s == 0
    assert found.alpha_s == pytest.approx(1e-6 + 20e-6 / 6, rel=1e-3)


def test_two_sizes_give_a_line_and_one_gives_none() -> None:
    found = fit([Sample(2, 0.0, 10e-6), Sample(2, 1e9, 1.0)])
    assert (found.alpha_s, found.bandwidth_Bps) == (pytest.approx(5e-6), pytest.approx(1e9, rel=1e-3))
    assert (found.sqrt_s, found.base_s) == (0, 0)
    with pytest.raises(ValueError, match="3 samples of 1 sizes; a fit needs two sizes"):
        fit([Sample(2, 4096, 1e-6)] * 3)
    with pytest.raises(ValueError, match="0 samples"):
        fit([])


def test_times_that_do_not_grow_have_no_bandwidth() -> None:
    flat = [Sample(6, float(size), 40e-6) for size in (1 << 10, 1 << 12, 1 << 14, 1 << 16)]
    found = fit(flat)
    assert found.time_s(6, 1 << 13) == pytest.approx(40e-6, rel=1e-3)
    assert found.bandwidth_Bps > 1e15 or math.isinf(found.bandwidth_Bps)


def test_a_line_has_no_root() -> None:
    cost = Cost(1e-6, 300e9, 5e-9)
    assert fit_line(samples(cost)).sqrt_s == 0
    assert fit(samples(cost)).sqrt_s == pytest.approx(5e-9, rel=1e-2)


def test_residuals_are_signed_as_in_compare() -> None:
    cost = Cost(1.0, 1.0)
    given_samples = [Sample(1, 1.0, 2.2), Sample(1, 3.0, 3.0)]
    assert residuals(cost, given_samples) == [pytest.approx(0.1), pytest.approx(-0.25)]


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ((0, 1.0, 1.0), "hops=0"),
        ((1, -1.0, 1.0), "wire_bytes=-1"),
        ((1, math.inf, 1.0), "wire_bytes=inf"),
        ((1, 1.0, 0.0), "seconds=0"),
        ((1, 1.0, math.nan), "seconds=nan"),
    ],
)
def test_a_sample_that_cannot_be_is_refused(sample: tuple[int, float, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Sample(*sample)

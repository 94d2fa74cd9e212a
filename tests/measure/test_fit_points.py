"""A model made of a sweep's points knows each implementation that the sweep had, and nothing else."""

from __future__ import annotations

import pytest

from shardlab.measure.fit import fit_line
from shardlab.measure.fit_points import of_points, sample
from shardlab.theory.collectives import steps, wire_bytes
from tests.viz.test_cost_figures import point


def test_a_sample_is_on_the_critical_path() -> None:
    one = sample(point(4096, 2e-3))
    assert one.hops == steps("all_reduce", world_size=4)
    assert one.wire_bytes == wire_bytes("all_reduce", num_bytes=4096, world_size=4)
    assert one.seconds == 2e-3


def test_the_model_gives_back_a_line() -> None:
    points = [point(1 << power, 6e-4 + 1.5 * (1 << power) / 2e9) for power in range(10, 23, 2)]
    model = of_points(points, fit_line)
    cost = model["all_reduce", "ring", "backend", 4]
    assert cost.alpha_s == pytest.approx(1e-4, rel=1e-3)
    assert cost.bandwidth_Bps == pytest.approx(2e9, rel=1e-3)
    assert set(model) == {("all_reduce", "ring", "backend", 4)}


def test_one_size_is_not_enough() -> None:
    with pytest.raises(ValueError, match="two sizes"):
        of_points([point(1024, 1e-3)])

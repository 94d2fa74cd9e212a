"""calibrate: a model with every key and sound constants, within its budget's rules. How good it is, the bench says."""

from __future__ import annotations

import math

import pytest

from shardlab import Ranks
from shardlab.algorithms import IMPLEMENTATIONS, Implementation
from shardlab.measure.timer import Stats
from shardlab.sweep.calibrate import OPS, TRANSPORTS, calibrate, fitted
from shardlab.sweep.inputs import Cell
from shardlab.theory.cost import Cost, critical_path


@pytest.mark.parametrize("degree", [2, 3])
def test_every_implementation_has_sound_constants(ranks: Ranks, degree: int) -> None:
    model = calibrate(ranks, degree, 1.0, sizes=(1 << 10, 1 << 14, 1 << 18))
    assert set(model) == {
        (one.op, one.algorithm, one.transport, degree)
        for one in IMPLEMENTATIONS
        if one.op in OPS and one.transport in TRANSPORTS
    }
    for key, cost in model.items():
        assert 0 <= cost.alpha_s < math.inf and 0 <= cost.sqrt_s < math.inf and cost.bandwidth_Bps > 0, key
        seconds = [
            model.time_s(key.op, num_bytes=size, world_size=degree, algorithm=key.algorithm, transport=key.transport)
            for size in (1 << 10, 1 << 20)
        ]
        assert 0 < seconds[0] <= seconds[1] < math.inf


def test_chosen_ops_and_transports_only(ranks: Ranks) -> None:
    sizes = (1 << 10, 1 << 12, 1 << 14)
    model = calibrate(ranks, 2, 1.0, ops=("all_reduce",), transports=("send_recv",), sizes=sizes)
    assert {key[:3] for key in model} == {
        ("all_reduce", one.algorithm, "send_recv")
        for one in IMPLEMENTATIONS
        if (one.op, one.transport) == ("all_reduce", "send_recv")
    }
    assert ranks.world_size == 4
    assert {key.world_size for key in calibrate(ranks, None, 1.0, ops=("broadcast",), sizes=sizes)} == {4}


@pytest.mark.parametrize("percent", [25, 50])
def test_the_fit_returns_the_constants_that_made_the_times(percent: int) -> None:
    cost = Cost(2e-4, 3e9, 1e-7)
    one = Implementation("all_gather", "ring", "backend")
    timed = {}
    for size in (4096, 65536, 1 << 20, 1 << 24):
        path = critical_path("all_gather", num_bytes=size, world_size=4, algorithm="ring")
        true_s = cost.time_s(*path)
        others = (true_s / 3, 4 * true_s, 5 * true_s, 9 * true_s)  # of five, the second smallest is the quartile
        below = (true_s / 4,) if percent == 50 else ()
        timed[Cell(one, size)] = Stats((*others[::-1][: 3 - len(below)], true_s, others[0], *below))
    found = fitted(timed, 4, percent)["all_gather", "ring", "backend", 4]
    assert found.alpha_s == pytest.approx(cost.alpha_s, rel=1e-3)
    assert found.bandwidth_Bps == pytest.approx(cost.bandwidth_Bps, rel=1e-3)
    assert found.sqrt_s == pytest.approx(cost.sqrt_s, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"world_size": 1}, "world_size=1; allowed: 2..4"),
        ({"world_size": 5}, "world_size=5"),
        ({"budget_s": 0.5}, "budget_s=0.5; allowed: 1 or more"),
        ({"budget_s": math.nan}, "budget_s=nan"),
        ({"ops": ("all_in",)}, "all_in"),
        ({"transports": ()}, "transports"),
        ({"sizes": (1024, 2048)}, "three sizes"),
    ],
)
def test_what_cannot_be_calibrated_is_said_first(ranks: Ranks, change: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        calibrate(ranks, **change)

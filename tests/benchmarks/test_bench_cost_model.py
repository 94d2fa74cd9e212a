"""bench.cost_model: what it compares is what it says: other sizes, the same rule for both curves, equal work."""

from __future__ import annotations

from benchmarks import cost_model
from shardlab import Plan, Ranks
from shardlab.algorithms import Implementation
from shardlab.measure.timer import Stats
from shardlab.sweep.calibrate import SIZES
from shardlab.sweep.driver import cells_of
from shardlab.theory.cost import Cost, CostModel


def test_the_sizes_held_out_lie_between_and_are_not_fitted() -> None:
    assert not set(cost_model.HELD_OUT) & set(SIZES)
    assert min(SIZES) < min(cost_model.HELD_OUT) and max(cost_model.HELD_OUT) < max(SIZES)


def test_a_model_agrees_with_times_that_it_made() -> None:
    one, two = (Implementation("all_reduce", name, "send_recv") for name in ("one_shot", "two_shot"))
    model = CostModel(
        {(*key, 4): Cost(1e-4, 1e9) for key in (("all_reduce", i.algorithm, i.transport) for i in (one, two))}
    )
    cells = cells_of([one, two], cost_model.FINE, 4)

    def times(slower: float) -> dict:
        forecast = {cell: cost_model._forecast_s(model, cell.implementation, cell.num_bytes, 4) for cell in cells}
        return {cell: Stats((s * (slower if cell.implementation == one else 1),)) for cell, s in forecast.items()}

    predicted, measured = cost_model._both_ways(model, times(1.0), "one_shot", "two_shot", "send_recv", 4)
    # one more hop of 1e-4 s against 1.5 S / 1e9 more bytes: equal at 67 kB
    assert predicted is not None and measured is not None
    assert abs(predicted.num_bytes / 66_667 - 1) < 0.1 and predicted.first_below
    assert measured.agrees(predicted)
    _, moved = cost_model._both_ways(model, times(0.4), "one_shot", "two_shot", "send_recv", 4)
    assert moved is None or not moved.agrees(predicted)


def test_chosen_and_backend_run_in_turns(ranks: Ranks) -> None:
    model = CostModel({("all_reduce", name, "send_recv", 2): Cost(1e-6, 1e9) for name in ("ring", "one_shot")})
    for name, ours, theirs in ranks.run(cost_model.chosen_and_backend, model, 1024, 3, plan=Plan(tp=2), check=False):
        assert name == "one_shot"  # one hop rather than two
        assert len(ours) == len(theirs) == 3 and min(*ours, *theirs) > 0

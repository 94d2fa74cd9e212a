"""The benchmark's clock, roofs and budget, with made-up times; its CUDA graphs where there is a GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from shardlab_kernels.bench.budget import RESERVE_S, UNKNOWN_S, Budget
from shardlab_kernels.bench.clock import ROUND_S, Prepared, Stats, interleave, num_copies, prepare
from shardlab_kernels.bench.roof import COPIED_BYTES, GEMM_FLOPS, Roof


class FakeClock:
    """Each run takes the seconds that were agreed on; the order of the samples is written down."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self.order: list[str] = []
        self.repeats: dict[str, int] = {}
        self._now = ""

    def run(self, name: str) -> Callable[[], object]:
        def go() -> None:
            self._now = name

        return go

    def __call__(self, run: Callable[[], object], repeats: int) -> float:
        run()
        self.order.append(self._now)
        self.repeats[self._now] = repeats
        return self.seconds[self._now] * repeats


def test_statistics() -> None:
    stats = Stats(tuple(float(x) for x in (10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)))
    assert (stats.p10_s, stats.median_s, stats.p90_s) == (1, 5, 9)
    assert Stats((1.0, 2.0)).p10_s == pytest.approx(1.1)
    assert Stats((3.0,)).p90_s == 3


def test_takes_turns_and_divides_by_calls() -> None:
    clock = FakeClock({"a": 1e-3, "b": 4e-3, "c": 2e-6})
    runs = {name: Prepared(clock.run(name), calls) for name, calls in (("a", 10), ("b", 1), ("c", 2))}
    stats = interleave(runs, rounds=6, seconds=clock)
    assert (
        "".join(clock.order) == "abc" + "abcbcacab" * 2
    )  # once to see how long a run is, then rounds in rotated order
    assert {name: len(one.samples_s) for name, one in stats.items()} == dict.fromkeys("abc", 6)
    assert stats["a"].median_s == pytest.approx(1e-4)  # ten calls in a run
    assert stats["b"].median_s == pytest.approx(4e-3)
    assert stats["c"].median_s == pytest.approx(1e-6)
    assert clock.repeats["b"] == 1  # long enough as it is
    assert clock.repeats["c"] * 2e-6 >= ROUND_S  # short: repeated until an event can resolve it


def test_four_rounds_are_too_few() -> None:
    with pytest.raises(ValueError, match="rounds=4: at least 5"):
        interleave({}, rounds=4)


@pytest.mark.parametrize(
    ("moved", "copies"), [(0, 64), (1, 64), (10 << 20, 15), (50 << 20, 3), (75 << 20, 2), (1 << 30, 2)]
)
def test_inputs_rotate_past_l2(moved: int, copies: int) -> None:
    assert num_copies(moved, 50 << 20) == copies


def roof(copy_s: float, gemm_s: float) -> Roof:
    return Roof(Stats((copy_s,)), Stats((gemm_s,)))


def test_fractions_of_the_roofs() -> None:
    top = roof(copy_s=1e-3, gemm_s=2e-3)
    assert top.copy_Bps == 2 * COPIED_BYTES / 1e-3  # read and written
    assert top.gemm_flops_per_s == GEMM_FLOPS / 2e-3
    assert top.of_copy(2 * COPIED_BYTES, 2e-3) == pytest.approx(0.5)
    assert top.of_gemm(GEMM_FLOPS // 2, 2e-3) == pytest.approx(0.5)
    assert top.of_gemm(0, 1.0) == 0
    assert top.drift(roof(copy_s=1e-3 / 0.99, gemm_s=2e-3 / 1.02)) == "copy -1.0 %, GEMM +2.0 %"


def test_budget() -> None:
    now = [100.0]
    budget = Budget(60, lambda: now[0])
    assert budget.left_s == 60
    assert budget.fits("a")
    budget.took("a", 5)
    now[0] += 60 - RESERVE_S - UNKNOWN_S + 1
    assert budget.fits("a")  # it is known to take 5 s
    assert not budget.fits("b")  # it may take 20
    budget.took("a", 30)
    assert not budget.fits("a")  # its longest case counts
    budget.took("a", 1)
    assert not budget.fits("a")
    now[0] += 60
    assert not budget.fits("a")


def test_a_slow_kernel_warns_of_others() -> None:
    budget = Budget(RESERVE_S + UNKNOWN_S + 1, lambda: 0.0)
    assert budget.fits("new")
    budget.took("slow", UNKNOWN_S + 2)
    assert not budget.fits("new")


@pytest.mark.gpu
def test_a_graph_makes_a_call_for_each_input() -> None:
    inputs = [(torch.full((1000,), float(i), device="cuda"),) for i in range(3)]
    found = prepare(lambda x: x + 1, inputs)
    assert (found.captured, found.calls) == (True, 3)
    inputs[0][0].fill_(7)
    found.run()
    assert found.first.eq(8).all()


@pytest.mark.gpu
def test_what_cannot_be_captured_runs_without_a_graph() -> None:
    inputs = [(torch.ones(10, device="cuda"),)] * 2
    found = prepare(lambda x: x * x.sum().item(), inputs)
    assert (found.captured, found.calls, found.first) == (False, 2, None)
    found.run()
    assert interleave({"x": found}, rounds=5)["x"].median_s > 0
    assert prepare(lambda x: x + 1, inputs).captured  # a failed capture leaves the next one alone

"""What a run makes of right, wrong and missing implementations, of Ctrl-C and of the clock. Times here are made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from shardlab_kernels.bench import record, report, run
from shardlab_kernels.bench.case import Case, Place, Problem, error_of, missing
from shardlab_kernels.bench.check import check
from shardlab_kernels.bench.clock import Prepared, Stats
from shardlab_kernels.bench.goal import Bar, Goal, Score, verdict
from shardlab_kernels.bench.roof import Roof

CPU = torch.device("cpu")
TINY = Place(CPU, smoke=True)
TOP = Roof(Stats((1e-3,)), Stats((2e-3,)))
HOPPER = "H100, not there (test data)"


def doubling(**changes: Any) -> Problem:
    problem = Problem(
        draw=lambda number: (torch.arange(1.0, 5.0) + number,),
        ours=lambda x: x + x,
        reference=lambda x: x.double() * 2,
        rivals={"times two": lambda x: x * 2},
        moved_bytes=1000,
        flops=500,
    )
    return replace(problem, **changes)


def case(name: str = "one", goal: Goal | None = None, **changes: Any) -> Case:
    return Case("double", name, lambda place: doubling(**changes), goal)


def raises(error: BaseException) -> Callable[..., Any]:
    def call(*_: Any) -> Any:
        raise error

    return call


# ---------------------------------------------------------------------------------------------------- the check


def test_error_is_against_the_size_of_the_numbers() -> None:
    wanted = torch.tensor([3e-3, -4e-3], dtype=torch.float64)
    assert error_of(wanted.float(), wanted, lambda x: x) < 1e-7
    assert error_of(torch.zeros(2), wanted, lambda x: x) > 0.5  # small as they are, zeros do not pass for them
    assert error_of(torch.zeros(2), torch.zeros(2, dtype=torch.float64), lambda x: x) == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_never_right(bad: float) -> None:
    assert error_of(torch.tensor([1.0, bad]), torch.ones(2), lambda x: x) == float("inf")
    assert error_of(torch.tensor([1.0, bad]), torch.tensor([1.0, bad]), lambda x: x) == float("inf")


def test_shapes_must_agree_and_results_may_be_fewer() -> None:
    wanted = torch.ones(2), torch.ones(3)
    assert error_of(torch.ones(1), torch.ones(2), lambda x: x) == float("inf")
    assert error_of((), wanted, lambda x: x) == float("inf")
    assert error_of(torch.ones(2), wanted, lambda x: x) == 0
    assert error_of((torch.ones(2), torch.zeros(3)), wanted, lambda x: x) == 0.5
    assert error_of(torch.ones(5), torch.ones(2), lambda x: x[:2]) == 0


def test_right_wrong_and_missing() -> None:
    rivals = {
        "wrong": lambda x: x * 2.1,
        "absent": missing("this torch has none"),
        "broken": raises(TypeError("no such argument")),
        "right": lambda x: x * 2,
    }
    checked = check(case(rivals=rivals), TINY)
    assert list(checked.calls) == ["ours", "right"]
    assert checked.wrong == ["wrong: error 0.03 > 0.02"]
    assert checked.absent == [("absent", "this torch has none"), ("broken", "TypeError: no such argument")]


def test_each_implementation_gets_fresh_inputs() -> None:
    checked = check(case(ours=lambda x: x.mul_(2), in_place=True), TINY)
    assert list(checked.calls) == ["ours", "times two"]


# ---------------------------------------------------------------------------------------------------- goals, table


def test_verdicts() -> None:
    goal = Goal(
        "G0",
        Bar(of_copy=0.5, times={"rival": 2.0}),
        Bar(of_copy=0.9, of_gemm=0.1, at_most_s=1e-3, flops_per_s=1e6, times={"rival": 3.0}),
    )
    best = Score(seconds=1e-3, flops=1000, of_copy=0.9, of_gemm=0.1, rivals_s={"rival": 3e-3})
    assert verdict(goal, best) == "G0 aim"
    assert verdict(None, best) == "-"
    for worse in (
        replace(best, of_copy=0.89),
        replace(best, of_gemm=0.09),
        replace(best, flops=999),
        replace(best, rivals_s={"rival": 2.9e-3}),
        replace(best, seconds=1.01e-3, flops=2000, rivals_s={"rival": 3.1e-3}),
    ):
        assert verdict(goal, worse) == "G0 met", worse
    assert verdict(goal, replace(best, of_copy=0.49)) == "G0 not"
    assert verdict(goal, replace(best, rivals_s={"rival": 1.9e-3})) == "G0 not"
    assert verdict(goal, replace(best, rivals_s={})) == "G0 -"  # the rival is not there: nobody knows
    assert verdict(goal, replace(best, rivals_s={}, of_copy=0.1)) == "G0 not"


def test_durations() -> None:
    assert [report.duration(x) for x in (3.456e-6, 1.2e-3, 2.0, 9.996e-4)] == ["3.46 us", "1.2 ms", "2 s", "1 ms"]


# ---------------------------------------------------------------------------------------------------- the run


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds that the clock will give each implementation, instead of a GPU's."""
    seconds = {"ours": 1e-6, "times two": 3e-6}

    def fake(checked: Any, device: torch.device) -> dict[str, tuple[Stats, bool]]:
        return {
            name: (Stats((seconds[name] * 0.9, seconds[name], seconds[name] * 1.1)), True) for name in checked.calls
        }

    monkeypatch.setattr(run, "_timed", fake)
    monkeypatch.setattr(run.roof, "measure", lambda device: TOP)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: HOPPER)
    return seconds


def measure(cases: Sequence[Case], path: Path, budget_s: float = 1000.0) -> report.Outcome:
    outcome = report.Outcome()
    run.measure(cases, cases, CPU, outcome, path=path, budget_s=budget_s, command="test data")
    return outcome


def lines(path: Path) -> list[tuple[str, str, str]]:
    return [(line["kernel"], line["case"], line["implementation"]) for line in record.read(path)]


ROOFS = [
    ("device_copy", "start", "torch copy_"),
    ("gemm_8192", "start", "cuBLAS"),
    ("device_copy", "end", "torch copy_"),
    ("gemm_8192", "end", "cuBLAS"),
]


def test_a_run_writes_rows_and_prints_a_table(timed: dict[str, float], tmp_path: Path) -> None:
    path = tmp_path / "kernels.csv"
    goal = Goal("G0", Bar(times={"times two": 2.0}), Bar(times={"times two": 4.0}))
    outcome = measure([case("one", goal)], path)
    assert outcome.exit_code == 0
    assert sorted(lines(path)) == sorted([*ROOFS, ("double", "one", "ours"), ("double", "one", "times two")])
    ours = next(line for line in record.read(path) if line["implementation"] == "ours")
    assert float(ours["seconds"]) == 1e-6
    assert float(ours["of_copy"]) == pytest.approx(1000 / 1e-6 / TOP.copy_Bps)
    assert float(ours["of_gemm"]) == pytest.approx(500 / 1e-6 / TOP.gemm_flops_per_s)
    assert (ours["device"], ours["torch"], ours["backend"]) == (HOPPER, torch.__version__, "none")
    header, line = report.table(outcome.lines).splitlines()
    assert header.split() == "kernel case ours best rival times % copy % GEMM goal".split()
    assert line.split() == "double one 1 us 3 us times two 3.00 0 0 G0 met".split()


def test_bytes_of_a_rival_that_moves_more(timed: dict[str, float], tmp_path: Path) -> None:
    path = tmp_path / "kernels.csv"
    measure([case(rival_bytes={"times two": 4000})], path)
    moved = {line["implementation"]: line["moved_bytes"] for line in record.read(path)}
    assert (moved["ours"], moved["times two"]) == ("1000", "4000")


def test_what_is_wrong_is_not_written(timed: dict[str, float], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "kernels.csv"
    bad = [case("bad", ours=lambda x: x * 3), case("worse", ours=raises(ValueError("no")), rivals={}), case("good")]
    outcome = measure(bad, path)
    assert outcome.exit_code == 1
    assert ("double", "bad", "ours") not in lines(path)
    assert {(c, i) for k, c, i in lines(path) if k == "double"} == {
        ("bad", "times two"),
        ("good", "ours"),
        ("good", "times two"),
    }
    assert [line[2] for line in outcome.lines] == ["WRONG", "WRONG", "1 us"]
    assert outcome.notes() == [
        "WRONG     double/bad ours: error 0.3 > 0.02",
        "WRONG     double/worse ours: ValueError: no",
    ]


def test_ctrl_c_keeps_what_was_measured(timed: dict[str, float], tmp_path: Path) -> None:
    path = tmp_path / "kernels.csv"
    outcome = measure([case("one"), case("two", ours=raises(KeyboardInterrupt())), case("three")], path)
    assert outcome.exit_code == 130
    assert lines(path) == [*ROOFS[:2], ("double", "one", "ours"), ("double", "one", "times two")]
    assert len(outcome.lines) == 1


def test_a_broken_gpu_keeps_what_was_measured(
    timed: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kernels.csv"
    outcome = measure([case("one"), case("two", reference=raises(RuntimeError("illegal memory access")))], path)
    assert outcome.exit_code == 1
    assert outcome.notes() == ["WRONG     the run broke off at double/two: RuntimeError: illegal memory access"]
    assert ("double", "one", "ours") in lines(path)


def test_what_does_not_fit_is_named(timed: dict[str, float], tmp_path: Path) -> None:
    outcome = measure([case("one"), case("two")], tmp_path / "kernels.csv", budget_s=5)
    assert outcome.notes() == ["left out  (did not fit in 5 s): double/one, double/two"]
    assert outcome.exit_code == 0
    large = case("large", reference=raises(torch.OutOfMemoryError("CUDA out of memory")))
    assert measure([large], tmp_path / "kernels.csv").notes() == ["left out  (not enough memory): double/large"]


def test_missing_rivals_are_said_once(timed: dict[str, float], tmp_path: Path) -> None:
    rivals = {"cuDNN": missing("no such backend")}
    outcome = measure([case("one", rivals=rivals), case("two", rivals=rivals)], tmp_path / "kernels.csv")
    assert outcome.notes() == ["missing   cuDNN (no such backend): double/one, double/two"]
    assert outcome.lines[0][3:5] == ("", "")


def test_what_a_graph_gets_wrong_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    # A kernel may be right when it is called and wrong when it is replayed: one that counts on the host, say.
    def replayed(call: Callable[..., Any], inputs: Sequence[tuple[Any, ...]]) -> Prepared:
        return Prepared(lambda: None, len(inputs), first=call(*inputs[0]) + (call is not problem.ours))

    problem = doubling()
    one = Case("double", "one", lambda place: problem)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=5000))
    monkeypatch.setattr(run, "prepare", replayed)
    monkeypatch.setattr(run, "interleave", lambda runs: dict.fromkeys(runs, Stats((1.0,))))
    checked = check(one, TINY)
    assert list(run._timed(checked, CPU)) == ["ours"]
    assert checked.wrong == ["times two: error 0.13 > 0.02 in a graph"]


def test_goals_are_for_two_cards() -> None:
    assert run.is_judged("NVIDIA H100 80GB HBM3")
    assert run.is_judged("NVIDIA H200")
    assert not run.is_judged("NVIDIA GeForce RTX 4090")


def test_smoke_says_what_is_wrong(capsys: pytest.CaptureFixture) -> None:
    outcome = run.smoke([case("bad", ours=lambda x: x * 3), case("good")], CPU)
    assert outcome.exit_code == 1
    assert capsys.readouterr().out.splitlines() == [
        "double/bad: times two 0.0e+00",
        "double/good: ours 0.0e+00, times two 0.0e+00",
    ]


@pytest.mark.gpu
def test_times_on_a_gpu() -> None:
    device = torch.device("cuda", torch.cuda.current_device())

    def draw(number: int) -> tuple[torch.Tensor]:
        return (torch.full((1 << 20,), float(number + 1), device=device),)

    checked = check(case("one", None, draw=draw), Place(device, smoke=False))
    times = run._timed(checked, device)
    assert list(times) == ["ours", "times two"]
    for stats, captured in times.values():
        assert captured
        assert 0 < stats.p10_s <= stats.median_s <= stats.p90_s < 1e-3

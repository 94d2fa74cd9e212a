"""programs.collectives: every cell is exact and counted, and the samples are complete on every rank."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shardlab import Plan, Ranks, algorithms
from shardlab.algorithms import IMPLEMENTATIONS, Implementation, registry
from shardlab.comm.mesh import Mesh
from shardlab.launch.errors import RankError
from shardlab.measure.journal import Journal
from shardlab.sweep import cells as collectives
from shardlab.sweep.cells import count, time_cells
from shardlab.sweep.inputs import Cell, fitting_bytes
from shardlab.theory.collectives import shared_memory_bytes


def counted_all(mesh: Mesh, num_bytes: int) -> list[int]:
    """Every implementation: exact, or count raises. -> what this rank moved through shared memory, one by one."""
    return [count(mesh, Cell(one, num_bytes)) for one in IMPLEMENTATIONS]


@pytest.mark.parametrize("tp", [2, 3, 4])
def test_every_implementation_is_exact_and_its_memory_counted(ranks: Ranks, tp: int) -> None:
    num_bytes = fitting_bytes(100_000, tp)
    moved = ranks.run(counted_all, num_bytes, plan=Plan(tp=tp))
    for number, one in enumerate(IMPLEMENTATIONS):
        expected = 0.0
        if one.transport == "shared_memory":
            expected = shared_memory_bytes(one.op, num_bytes=num_bytes, world_size=tp, algorithm=one.algorithm)
        assert max(per_rank[number] for per_rank in moved) == expected, one


def test_sizes_are_rounded_to_whole_shares() -> None:
    assert [fitting_bytes(size, 3) for size in (1, 12, 23, 1024)] == [12, 12, 12, 1020]
    assert fitting_bytes(1 << 20, 8) == 1 << 20


def wrong_everywhere(mesh: Mesh, op: str, how: str) -> None:
    """count() over implementations that are broken on purpose, so that a check that checks nothing is found out."""
    right = algorithms.run

    def broken(op: str, tensor: torch.Tensor, axis: object, **names: object) -> torch.Tensor:
        out = right(op, tensor, axis, **names)  # type: ignore[arg-type]
        if how == "one element":
            out = out.clone()
            out[-1] += 1
            return out
        return out.roll(1)

    collectives.algorithms.run = broken  # type: ignore[assignment]
    try:
        count(mesh, Cell(Implementation(op, registry._FIRST[op, "backend"], "backend"), 4096))
    finally:
        collectives.algorithms.run = right


@pytest.mark.parametrize("how", ["one element", "shifted"])
@pytest.mark.parametrize("op", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send"])
def test_a_wrong_result_is_not_timed(ranks: Ranks, op: str, how: str) -> None:
    with pytest.raises(RankError, match=f"{op} by .* over backend, 4096 bytes on 2 ranks: wrong on rank"):
        ranks.run(wrong_everywhere, op, how, plan=Plan(tp=2))


def test_every_rank_writes_every_sample(ranks: Ranks, tmp_path: Path) -> None:
    cells = [Cell(one, 1020) for one in IMPLEMENTATIONS]
    path = tmp_path / "samples"
    journal = Journal(path, 3, len(cells), 2, create=True)
    assert all(journal.stats(cell) is None for cell in range(len(cells)))
    done = ranks.run(time_cells, cells, 2, str(path), sample_s=0.0005, plan=Plan(tp=3), check=False)
    assert done == [2, 2, 2]
    assert ranks.transfers == [[], [], []]  # thousands of calls that nobody asked about stay there
    for cell in range(len(cells)):
        stats = journal.stats(cell)
        assert stats is not None and len(stats.samples_s) == 2 and min(stats.samples_s) > 0
    done_s, all_s = journal.progress([1.0] * len(cells))
    assert done_s == pytest.approx(all_s)


def test_a_budget_ends_after_the_round_that_fills_it(ranks: Ranks, tmp_path: Path) -> None:
    cells = [Cell(Implementation("all_reduce", "ring", "backend"), 1024)]
    path = tmp_path / "samples"
    journal = Journal(path, 2, 1, 1000, create=True)
    done = ranks.run(time_cells, cells, 1000, str(path), sample_s=0.01, budget_s=0.001, plan=Plan(tp=2), check=False)
    assert done == [1, 1]  # one round always; and all ranks stop together
    stats = journal.stats(0)
    assert stats is not None and len(stats.samples_s) == 1


@pytest.mark.slow
def test_sixty_four_ranks_are_exact() -> None:
    """By what calls each of them a few times at most, so that two cores are done soon."""
    quick = [one for one in IMPLEMENTATIONS if one.transport == "shared_memory" or one.algorithm == "binomial_tree"]
    with Ranks(64, timeout_s=110) as many:
        moved = many.run(counted, quick, fitting_bytes(40_000, 64))
    for number, one in enumerate(quick):
        assert (max(per_rank[number] for per_rank in moved) > 0) == (one.transport == "shared_memory"), one


def counted(mesh: Mesh, implementations: list[Implementation], num_bytes: int) -> list[int]:
    return [count(mesh, Cell(one, num_bytes)) for one in implementations]

"""choose: the argmin of a made-up model is what runs, among what can run here."""

from __future__ import annotations

import pytest
import torch

from shardlab import Plan, Ranks
from shardlab.algorithms import Implementation, SharedMemory
from shardlab.algorithms.choose import Cheapest
from shardlab.comm.mesh import Axis, Mesh
from shardlab.comm.recorder import Recorder
from shardlab.theory.cost import Cost, CostModel

FAST, SLOW = Cost(1e-6, 1e12), Cost(1.0, 1e12)
LATENCY, BANDWIDTH = Cost(1e-6, 1e6), Cost(1e-2, 1e12)  # the first wins while S is small
OPS = {
    "all_reduce": ("recursive_doubling", "two_shot"),
    "all_gather": ("one_shot", "ring"),
    "reduce_scatter": ("one_shot", "ring"),
    "broadcast": ("binomial_tree", "one_shot"),
}


def made_up(world_size: int) -> CostModel:
    costs = {}
    for op, (first, second) in OPS.items():
        costs[op, first, "send_recv", world_size] = LATENCY
        costs[op, second, "send_recv", world_size] = BANDWIDTH
    costs["all_to_all", "one_shot", "backend", world_size] = FAST
    costs["all_to_all", "one_shot", "send_recv", world_size] = SLOW
    return CostModel(costs)


def axis_of(size: int) -> Axis:
    return Axis("tp", 0, size, tuple(range(size)), None, Recorder())


@pytest.mark.parametrize("op", OPS)
def test_the_cheapest_at_each_size(op: str) -> None:
    cheapest, (small, large) = Cheapest(made_up(4), axis_of(4)), OPS[op]
    assert cheapest.choice(op, 64) == Implementation(op, small, "send_recv")
    assert cheapest.choice(op, 64 << 20) == Implementation(op, large, "send_recv")
    assert cheapest.choice("all_to_all", 64) == Implementation("all_to_all", "one_shot", "backend")


def test_only_what_can_run_here() -> None:
    costs = {
        ("all_reduce", "one_shot", "shared_memory", 4): FAST,
        ("all_reduce", "ring", "backend", 4): SLOW,
        ("all_reduce", "ring", "send_recv", 2): FAST,
    }
    model = CostModel(costs)
    assert Cheapest(model, axis_of(4)).choice("all_reduce", 64).transport == "backend"  # no segment was given
    shared = object.__new__(SharedMemory)  # only that there is one counts here
    with_memory = Cheapest(model, axis_of(4), shared=shared)
    assert with_memory.choice("all_reduce", 64).transport == "shared_memory"
    assert with_memory.choice("all_reduce", 64, on_cpu=False).transport == "backend"
    assert Cheapest(model, axis_of(4), shared=shared, transports=("backend",)).choice("all_reduce", 64) == (
        Implementation("all_reduce", "ring", "backend")
    )
    with pytest.raises(ValueError, match="all_reduce/any/any/3 was not measured"):
        Cheapest(model, axis_of(3)).choice("all_reduce", 64)
    with pytest.raises(ValueError, match="transport 'pigeon'; allowed: backend, send_recv, shared_memory"):
        Cheapest(model, axis_of(4), transports=("pigeon",))


def all_of_them(mesh: Mesh, model: CostModel, num_elements: int) -> list[torch.Tensor]:
    axis = mesh["tp"]
    cheapest = Cheapest(model, axis)
    mine = torch.arange(num_elements, dtype=torch.float32) + axis.rank
    kept = mine.clone()
    out = [
        cheapest.all_reduce(mine),
        cheapest.all_gather(mine),
        cheapest.reduce_scatter(mine),
        cheapest.all_to_all(mine),
        cheapest.broadcast(mine, src=axis.size - 1),
    ]
    assert torch.equal(mine, kept)
    return out


@pytest.mark.parametrize("num_elements", [12, 120_000])
@pytest.mark.parametrize("tp", [1, 3])
def test_it_runs_what_it_chose(ranks: Ranks, tp: int, num_elements: int) -> None:
    base = torch.arange(num_elements, dtype=torch.float32)
    for rank, out in enumerate(ranks.run(all_of_them, made_up(tp), num_elements, plan=Plan(tp=tp))):
        total, mine = base * tp + tp * (tp - 1) / 2, slice(rank * num_elements // tp, (rank + 1) * num_elements // tp)
        assert torch.equal(out[0], total)
        assert torch.equal(out[1], torch.cat([base + peer for peer in range(tp)]))
        assert torch.equal(out[2], total[mine])
        assert torch.equal(out[3], torch.cat([base[mine] + peer for peer in range(tp)]))
        assert torch.equal(out[4], base + tp - 1)


def asked(mesh: Mesh, model: CostModel) -> set[tuple[str, int]]:
    cheapest = Cheapest(model, mesh["tp"])
    mine = torch.ones(120)
    cheapest.all_gather(mine)
    cheapest.reduce_scatter(mine)
    return {(op, num_bytes) for op, num_bytes, *_ in cheapest._known}


def test_the_model_is_asked_for_the_size_that_comm_records(ranks: Ranks) -> None:
    # all_gather: the whole gathered result, reduce_scatter: the whole input of a rank
    assert ranks.run(asked, made_up(4))[0] == {("all_gather", 4 * 480), ("reduce_scatter", 480)}


def sent(mesh: Mesh, model: CostModel, num_elements: int) -> None:
    Cheapest(model, mesh["tp"]).all_reduce(torch.ones(num_elements))


def test_the_choice_shows_on_the_record(ranks: Ranks) -> None:
    ranks.run(sent, made_up(4), 16, plan=Plan(tp=4))
    small = [one.num_bytes for one in ranks.transfers[0]]
    ranks.run(sent, made_up(4), 1 << 18, plan=Plan(tp=4))
    large = [one.num_bytes for one in ranks.transfers[0]]
    assert small == [64, 64]  # recursive doubling: everything, to two partners one after the other
    assert large == [1 << 18] * 6  # two_shot: a quarter to each of three peers, twice

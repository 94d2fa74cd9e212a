"""Every collective against what it says, on real ranks: integers, so equal means equal."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from shardlab import Plan, Ranks, comm
from shardlab.comm.mesh import Axis, Mesh
from shardlab.comm.recorder import Recorder
from shardlab.launch import RankError, RankTimeout
from shardlab.theory.ledger import Transfer

DEGREES = [1, 2, 3, 4]


def mine(rank: int, *shape: int) -> torch.Tensor:
    """A different tensor of whole numbers for each rank."""
    return torch.randint(-50, 50, shape, generator=torch.Generator().manual_seed(rank))


def all_reduce(mesh: Mesh) -> torch.Tensor:
    return comm.all_reduce(mine(mesh.rank, 3, 5), mesh["tp"])


def all_reduce_strided(mesh: Mesh) -> torch.Tensor:
    return comm.all_reduce(mine(mesh.rank, 5, 3).T, mesh["tp"])


def all_gather_last(mesh: Mesh) -> torch.Tensor:
    return comm.all_gather(mine(mesh.rank, 2, 3, 4), mesh["tp"])


def all_gather_middle(mesh: Mesh) -> torch.Tensor:
    return comm.all_gather(mine(mesh.rank, 2, 3, 4).transpose(1, 2), mesh["tp"], dim=1)


def reduce_scatter(mesh: Mesh) -> torch.Tensor:
    return comm.reduce_scatter(mine(mesh.rank, 2, 12, 3), mesh["tp"], dim=1)


def all_to_all(mesh: Mesh) -> torch.Tensor:
    return comm.all_to_all(mine(mesh.rank, 12, 5), mesh["tp"], split_dim=0, concat_dim=1)


def broadcast_from_the_last(mesh: Mesh) -> torch.Tensor:
    tp = mesh["tp"]
    return comm.broadcast(mine(mesh.rank, 7), tp, src=tp.size - 1)


def total(T: int, *shape: int) -> torch.Tensor:
    return torch.stack([mine(rank, *shape) for rank in range(T)]).sum(0)


EXPECTED: dict[Callable[[Mesh], torch.Tensor], Callable[[int, int], torch.Tensor]] = {
    all_reduce: lambda T, rank: total(T, 3, 5),
    all_reduce_strided: lambda T, rank: total(T, 5, 3).T,
    all_gather_last: lambda T, rank: torch.cat([mine(r, 2, 3, 4) for r in range(T)], dim=-1),
    all_gather_middle: lambda T, rank: torch.cat([mine(r, 2, 3, 4).transpose(1, 2) for r in range(T)], dim=1),
    reduce_scatter: lambda T, rank: total(T, 2, 12, 3).chunk(T, dim=1)[rank],
    all_to_all: lambda T, rank: torch.cat([mine(r, 12, 5).chunk(T)[rank] for r in range(T)], dim=1),
    broadcast_from_the_last: lambda T, rank: mine(T - 1, 7),
}


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("program", EXPECTED, ids=lambda program: program.__name__)
def test_exactly_what_it_says(ranks: Ranks, program: Callable[[Mesh], torch.Tensor], degree: int) -> None:
    for rank, out in enumerate(ranks.run(program, plan=Plan(tp=degree))):
        assert torch.equal(out, EXPECTED[program](degree, rank))


@pytest.mark.parametrize(
    ("program", "transfer"),
    [
        (all_reduce, Transfer("all_reduce", "tp", 3 * 5 * 8)),
        (all_gather_last, Transfer("all_gather", "tp", 3 * 2 * 3 * 4 * 8)),
        (reduce_scatter, Transfer("reduce_scatter", "tp", 2 * 12 * 3 * 8)),
        (all_to_all, Transfer("all_to_all", "tp", 12 * 5 * 8)),
        (broadcast_from_the_last, Transfer("broadcast", "tp", 7 * 8)),
    ],
    ids=lambda case: getattr(case, "__name__", ""),
)
def test_one_transfer_with_its_size_and_time(ranks: Ranks, program, transfer: Transfer) -> None:
    ranks.run(program, plan=Plan(tp=3))
    assert ranks.transfers == [[transfer]] * 3
    assert all(one[0].seconds is not None and one[0].seconds > 0 for one in ranks.transfers)
    ranks.run(program, plan=Plan(tp=1))
    assert ranks.transfers == [[]]


def pass_on(mesh: Mesh) -> int:
    """Each rank adds its number and hands the sum to the next; the last one has it all."""
    tp, so_far = mesh["tp"], torch.zeros(1, dtype=torch.int64)
    if tp.rank:
        comm.recv(so_far, tp, tp.rank - 1)
    so_far += tp.rank
    if tp.rank + 1 < tp.size:
        comm.send(so_far, tp, tp.rank + 1)
    return int(so_far)


def test_send_and_recv(ranks: Ranks) -> None:
    assert ranks.run(pass_on) == [0, 1, 3, 6]
    assert [len(one) for one in ranks.transfers] == [1, 1, 1, 0]  # the sender records the bytes


def keep_the_input(mesh: Mesh) -> bool:
    strided = mine(mesh.rank, 4, 6).T
    before = strided.clone()
    comm.all_gather(strided, mesh["tp"])
    comm.reduce_scatter(strided, mesh["tp"], dim=1)
    comm.all_to_all(strided, mesh["tp"], split_dim=1, concat_dim=0)
    return torch.equal(strided, before)


def test_only_all_reduce_and_broadcast_write_over_their_argument(ranks: Ranks) -> None:
    assert all(ranks.run(keep_the_input))


@pytest.mark.parametrize("op", ["reduce_scatter", "all_to_all"])
def test_a_length_that_does_not_divide_is_named_before_anything_is_sent(ranks: Ranks, op: str) -> None:
    def program(mesh: Mesh) -> torch.Tensor:
        args = (0, 1) if op == "all_to_all" else (0,)
        return getattr(comm, op)(torch.zeros(7, 2), mesh["tp"], *args)

    with pytest.raises(RankError, match=rf"{op}: dim 0 of shape \(7, 2\) is 7.*next lengths that work are 6 and 9"):
        ranks.run(program, plan=Plan(tp=3))


def test_a_source_off_the_axis_is_named() -> None:
    with pytest.raises(ValueError, match=r"src=2 is not on the tp axis of 1 ranks"):
        comm.broadcast(torch.zeros(1), Axis.single(), src=2)


def round_the_ring(mesh: Mesh) -> tuple[list[float], list[Transfer]]:
    """Everybody sends to the next rank, rank 0 to all others too, and nobody sends the empty tensor."""
    tp = mesh["tp"]
    n, mine = tp.size, torch.full((3,), float(tp.rank))
    before, after, from_zero = (tp.rank - 1) % n, (tp.rank + 1) % n, torch.zeros(5)
    arriving = torch.empty(3)
    comm.exchange({after: mine}, {before: arriving}, tp)
    if tp.rank == 0:
        comm.exchange({peer: torch.full((5,), 10.0 * peer) for peer in range(1, n)}, {}, tp)
    else:
        comm.exchange({}, {0: from_zero}, tp)
    comm.exchange({after: torch.empty(0)}, {before: torch.empty(0)}, tp)
    comm.exchange({}, {}, tp)
    return [arriving[0].item(), from_zero[4].item()], mesh.recorder.transfers


@pytest.mark.parametrize("degree", [2, 3, 4])
def test_exchange(ranks: Ranks, degree: int) -> None:
    rows = ranks.run(round_the_ring, plan=Plan(tp=degree))
    assert [values for values, _ in rows] == [[(rank - 1) % degree, 10.0 * rank] for rank in range(degree)]
    sent, more = Transfer("send", "tp", 12), [Transfer("send", "tp", 20)] * (degree - 1)
    assert [transfers for _, transfers in rows] == [[sent, *more]] + [[sent]] * (degree - 1)
    assert all(transfer.seconds for _, transfers in rows for transfer in transfers)


def wait_for_nothing(mesh: Mesh) -> None:
    if mesh.rank == 0:
        comm.exchange({}, {1: torch.empty(2)}, mesh["tp"])


@pytest.mark.parametrize(
    ("sends", "words"),
    [
        ({0: torch.ones(2)}, r"exchange with rank 0 on the tp axis, where this is rank 0 of 2: rank 1 works"),
        ({2: torch.ones(2)}, r"exchange with rank 2 on the tp axis"),
        ({-1: torch.ones(2)}, r"exchange with rank -1 on the tp axis"),
        ({1: torch.ones(3, 2).T}, r"exchange with rank 1: shape \(2, 3\) is not contiguous"),
    ],
)
def test_an_exchange_with_nobody_is_refused(sends: dict[int, torch.Tensor], words: str) -> None:
    axis = Axis("tp", 0, 2, (0, 1), None, Recorder())
    with pytest.raises(ValueError, match=words):
        comm.exchange(sends, {}, axis)


def test_an_exchange_that_nobody_answers_is_named() -> None:
    with Ranks(2) as two:
        two.run(all_reduce)  # the ranks are warm: what takes so long is the exchange
        with pytest.raises(RankTimeout, match=r"rank 0 waited in exchange #1 on tp \(p2p\)"):
            two.run(wait_for_nothing, timeout_s=4)


def own_and_the_backends(mesh: Mesh) -> bool:
    partial = mine(mesh.rank, 12, 3)
    before = partial.clone()
    theirs, ours = (call(partial, mesh["tp"]) for call in (comm.backend_reduce_scatter, comm.reduce_scatter))
    return torch.equal(theirs, ours) and torch.equal(partial, before)


@pytest.mark.parametrize("degree", DEGREES)
def test_the_backends_own_reduce_scatter_gives_the_same(ranks: Ranks, degree: int) -> None:
    assert ranks.run(own_and_the_backends, plan=Plan(tp=degree)) == [True] * degree
    if degree > 1:
        assert ranks.transfers == [[Transfer("reduce_scatter", "tp", 12 * 3 * 8)] * 2] * degree


def along_dim_0(mesh: Mesh) -> list[torch.Tensor]:
    """The slices of dim 0 lie in order already and are not copied: the input must be left alone all the same."""
    tp, tensor = mesh["tp"], mine(mesh.rank, 12, 3)
    before = tensor.clone()
    found = [
        comm.all_gather(tensor, tp, dim=0),
        comm.all_gather(tensor, tp, dim=-2),
        comm.reduce_scatter(tensor, tp),
        comm.all_to_all(tensor, tp, split_dim=0, concat_dim=0),
    ]
    for one in found if tp.size > 1 else []:
        one += 1
    assert torch.equal(tensor, before)
    return found


@pytest.mark.parametrize("degree", [2, 3, 4])
def test_along_dim_0(ranks: Ranks, degree: int) -> None:
    whole = torch.cat([mine(rank, 12, 3) for rank in range(degree)])
    for rank, (gathered, again, scattered, turned) in enumerate(ranks.run(along_dim_0, plan=Plan(tp=degree))):
        assert torch.equal(gathered, whole + 1) and torch.equal(again, whole + 1)
        assert torch.equal(scattered, total(degree, 12, 3).chunk(degree)[rank] + 1)
        assert torch.equal(turned, torch.cat([mine(r, 12, 3).chunk(degree)[rank] for r in range(degree)]) + 1)


def both_axes(mesh: Mesh) -> tuple[int, int, list[str]]:
    numbers = [int(comm.all_reduce(torch.tensor([2**mesh.rank]), mesh[name])) for name in ("dp", "tp")]
    return numbers[0], numbers[1], [transfer.axis for transfer in mesh.recorder.transfers]


def test_two_axes_reduce_over_their_own_ranks(ranks: Ranks) -> None:
    rows = ranks.run(both_axes, plan=Plan(dp=2, tp=2))
    assert [row[:2] for row in rows] == [(5, 3), (10, 3), (5, 12), (10, 12)]
    assert all(row[2] == ["dp", "tp"] for row in rows)


def from_each_source(mesh: Mesh) -> list[float]:
    return [comm.broadcast(torch.tensor([float(mesh.rank)]), mesh["tp"], src).item() for src in (0, 1)]


def test_a_source_is_a_rank_of_the_axis(ranks: Ranks) -> None:
    """Not one of the whole mesh: the second replica's rank 1 is rank 3 there."""
    assert ranks.run(from_each_source, plan=Plan(dp=2, tp=2)) == [[0.0, 1.0]] * 2 + [[2.0, 3.0]] * 2


def test_plans_may_follow_each_other_in_any_order() -> None:
    """Ranks that took part in different plans before must still agree on the next one's groups."""
    with Ranks(4) as fresh:
        for plan in (Plan(tp=2), Plan(tp=3), Plan(dp=2, tp=2), Plan(tp=4), Plan(pp=3), Plan(tp=2), Plan(tp=1)):
            name = "pp" if plan.pp > 1 else "tp"
            sums = fresh.run(lambda mesh, name: int(comm.all_reduce(torch.ones(1), mesh[name])), name, plan=plan)
            assert sums == [getattr(plan, name)] * plan.world_size

"""An axis that carries its collectives: the backend's results and record, and nothing on the wire."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from shardlab import Plan, Ranks, comm
from shardlab.algorithms import carriers
from shardlab.algorithms.choose import calibrated
from shardlab.comm.mesh import Axis, Mesh
from shardlab.launch import RankDied, RankError, carried, wire
from shardlab.theory.cost import Cost, CostModel
from shardlab.theory.ledger import Transfer
from shardlab.theory.traffic import NO_WIRE
from tests.algorithms.expected import bits, fractions, whole_numbers
from tests.algorithms.test_shared_memory import segments

READABLE, WHY = wire.available()
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int32, torch.int64, torch.uint8)
NAMES = ("shared_memory", "cheapest")
FAST, SLOW = Cost(1e-6, 1e12), Cost(1.0, 1e12)


@pytest.fixture(scope="module")
def pool() -> Iterator[Ranks]:
    """Ranks of its own, which these tests break."""
    with Ranks(4) as ranks:
        yield ranks


def numbers(rank: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Whole numbers, in a tensor whose elements do not lie in order."""
    return whole_numbers(rank, shape[::-1], dtype).permute(*reversed(range(len(shape))))


def every_collective(mesh: Mesh, width: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """One call of each, on strided tensors of `width` columns and a number of rows that the axis divides."""
    tp = mesh["tp"]
    tall, flat = numbers(tp.rank, (2 * tp.size, width), dtype), numbers(tp.rank, (3, width), dtype)
    out = [
        comm.all_reduce(flat.clone(memory_format=torch.preserve_format), tp),
        comm.all_gather(flat, tp, dim=0),
        comm.all_gather(flat, tp, dim=1),
        comm.reduce_scatter(tall, tp, dim=0),
        comm.reduce_scatter(tall.T, tp, dim=1),
        comm.all_to_all(tall, tp, split_dim=0, concat_dim=1),
        comm.broadcast(flat.clone(), tp, src=tp.size - 1),
    ]
    assert torch.equal(tall, numbers(tp.rank, (2 * tp.size, width), dtype)), "the input is left alone"
    return out


def by_hand(rank: int, size: int, width: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """What every_collective gives on `rank`, worked out from all ranks' tensors. Rank's own rows are two."""
    talls = [numbers(one, (2 * size, width), dtype) for one in range(size)]
    flats = [numbers(one, (3, width), dtype) for one in range(size)]
    own = slice(2 * rank, 2 * rank + 2)
    total = torch.stack(talls).sum(0).to(dtype)
    return [
        torch.stack(flats).sum(0).to(dtype),
        torch.cat(flats, 0),
        torch.cat(flats, 1),
        total[own],
        total[own].T,
        torch.cat([one[own] for one in talls], 1),
        flats[-1],
    ]


@pytest.mark.parametrize("collectives", [None, *NAMES])
@pytest.mark.parametrize("tp", [1, 2, 3, 4])
def test_right_in_every_dtype_and_layout(ranks: Ranks, collectives: str | None, tp: int) -> None:
    for dtype in DTYPES:
        for width in (0, 1, 7, 1009):
            found = ranks.run(every_collective, width, dtype, plan=Plan(tp=tp), collectives=collectives)
            for rank, out in enumerate(found):
                for number, (one, wanted) in enumerate(zip(out, by_hand(rank, tp, width, dtype), strict=True)):
                    assert one.dtype == dtype, f"collective {number}: {dtype} came back as {one.dtype}"
                    assert torch.equal(one, wanted), f"collective {number}: {dtype}, {width} columns, rank {rank}"


@pytest.mark.parametrize("tp", [2, 3, 4])
def test_the_record_is_the_same_but_for_the_wire(ranks: Ranks, tp: int) -> None:
    ranks.run(every_collective, 7, torch.float32, plan=Plan(tp=tp))
    backend = ranks.transfers
    assert all(one.route is not NO_WIRE for row in backend for one in row)
    for name in NAMES:
        ranks.run(every_collective, 7, torch.float32, plan=Plan(tp=tp), collectives=name)
        assert ranks.transfers == backend and [len(row) for row in backend] == [7] * tp
        assert all(one.route is NO_WIRE or one.route == NO_WIRE for row in ranks.transfers for one in row)
        assert all(one.seconds is not None for row in ranks.transfers for one in row)
    ranks.run(every_collective, 7, torch.float32, plan=Plan(tp=tp))
    assert all(one.route != NO_WIRE for row in ranks.transfers for one in row), "off again, on the same ranks"


def large(mesh: Mesh) -> None:
    """More than the first segment holds: it grows twice on the way."""
    for length in (10, 1 << 18, 10, 1 << 20):
        comm.all_reduce(torch.ones(length), mesh["tp"])


@pytest.mark.skipif(not READABLE, reason=WHY)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_on_the_wire_not_even_when_it_grows(ranks: Ranks, name: str) -> None:
    ranks.run(large, wire=True, collectives=name)
    assert ranks.wire.sum() == 0 and ranks.last.agrees()
    assert [[one.num_bytes for one in row] for row in ranks.transfers] == [[40, 1 << 20, 40, 1 << 22]] * 4
    ranks.run(large, wire=True)
    assert ranks.wire.sum() > 1 << 20


def in_place(mesh: Mesh) -> tuple[bool, bool]:
    base = torch.arange((1 << 18) + 1) % 1021  # above 512 KiB, and four ranks do not divide it: two_shot, uneven parts
    mine, other = torch.full((5,), 1.0 + mesh.rank), base + 1.0 + mesh.rank
    small, big = comm.all_reduce(mine, mesh["tp"]), comm.all_reduce(other, mesh["tp"])
    return small is mine and bool((mine == 10).all()), big is other and torch.equal(other, 4 * base + 10.0)


def test_a_sum_is_written_over_its_partial_as_by_the_backend(ranks: Ranks) -> None:
    for name in (None, *NAMES):
        assert ranks.run(in_place, collectives=name) == [(True, True)] * 4


def digests(mesh: Mesh, dtype: torch.dtype) -> list[str]:
    tp, found = mesh["tp"], []
    for length in (1, 10007, 300_001):
        total = comm.all_reduce(fractions(tp.rank, (length,), dtype), tp)
        found.append(hashlib.sha256(bits(total)).hexdigest())
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tp", [2, 3, 4])
def test_the_same_bits_on_every_rank(ranks: Ranks, tp: int, dtype: torch.dtype) -> None:
    first, *others = ranks.run(digests, dtype, plan=Plan(tp=tp), collectives="cheapest")
    assert others == [first] * (tp - 1)


def two_axes(mesh: Mesh) -> tuple[float, list[tuple[str, bool]]]:
    across = comm.all_reduce(torch.tensor([2.0**mesh.rank]), mesh["tp"])
    down = comm.all_reduce(across, mesh["dp"])
    return down.item(), [(one.axis, one.route == NO_WIRE) for one in mesh.recorder.transfers]


def test_every_axis_carries_its_own(ranks: Ranks) -> None:
    found = ranks.run(two_axes, plan=Plan(dp=2, tp=2), collectives="cheapest")
    assert found == [(15.0, [("tp", True), ("dp", True)])] * 4


def while_a_model_decodes(mesh: Mesh) -> list[float]:
    """What was laid out under inference_mode must be writable outside of it; and no graph may hang on a slot."""
    found = []
    with torch.inference_mode():
        found.append(comm.all_reduce(torch.ones(50_000), mesh["tp"])[0].item())
    weight = torch.ones(50_000, requires_grad=True)
    total = comm.all_reduce(2 * weight.detach(), mesh["tp"])
    found.append(total[-1].item())
    found.append(comm.all_gather(weight, mesh["tp"]).sum().item())
    return found


def test_grad_and_inference_mode_leave_no_trace(ranks: Ranks) -> None:
    assert ranks.run(while_a_model_decodes, collectives="shared_memory") == [[4.0, 8.0, 200_000.0]] * 4


# --------------------------------------------------------------------------------------------- made once, given back


def mapped(mesh: Mesh) -> set[tuple[str, int, str]]:
    comm.all_reduce(torch.ones(3), mesh["tp"])
    return segments()


def test_the_memory_is_made_once_a_plan_and_stays_with_the_ranks(pool: Ranks) -> None:
    pool.close()
    assert pool.run(mapped) == [set()] * 4
    first = pool.run(mapped, collectives="cheapest")
    assert len(first[0]) == 1 and first == [first[0]] * 4, "all ranks map one and the same"
    assert pool.run(mapped, collectives="cheapest") == first
    assert pool.run(mapped) == first, "kept for the next run"
    two = pool.run(mapped, plan=Plan(tp=2), collectives="cheapest")
    assert len(two[0]) == 2 and two[0] > first[0]


def killed(mesh: Mesh) -> None:
    comm.all_reduce(torch.ones(3), mesh["tp"])
    if mesh.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    comm.all_reduce(torch.ones(3), mesh["tp"])


def test_a_killed_rank_leaves_nothing_and_the_wait_is_named(pool: Ranks) -> None:
    pids = pool.start().pids
    with pytest.raises(RankDied, match=r"ranks 0, 2 and 3 waited in all_reduce #2 on tp"):
        pool.run(killed, collectives="cheapest")
    assert not any(segments(pid) for pid in pids)
    assert pool.run(in_place, collectives="cheapest") == [(True, True)] * 4, "the pool heals"


def differing(mesh: Mesh) -> None:
    comm.all_reduce(torch.ones(3 + mesh.rank), mesh["tp"])


def test_ranks_that_differ_find_out(pool: Ranks) -> None:
    with pytest.raises(RankError, match=r"all_reduce #1 on tp: rank \d has \(\d,\) float32"):
        pool.run(differing, plan=Plan(tp=2), collectives="cheapest")


# ------------------------------------------------------------------------------------------------------ who chooses


def model_where(memory: Cost, backend: Cost, world_size: int = 4) -> CostModel:
    return CostModel(
        {
            ("all_reduce", "one_shot", "shared_memory", world_size): memory,
            ("all_reduce", "two_shot", "shared_memory", world_size): SLOW,
            ("all_reduce", "ring", "backend", world_size): backend,
        }
    )


def asked(mesh: Mesh) -> list[bool]:
    comm.all_reduce(torch.ones(64), mesh["tp"])
    comm.all_gather(torch.ones(64), mesh["tp"])
    return [one.route == NO_WIRE for one in mesh.recorder.transfers]


@pytest.mark.parametrize(
    ("model", "in_memory"),
    [
        (model_where(FAST, SLOW), [True, False]),  # all_gather was not measured: the backend's
        (model_where(Cost(0.5, 1e12), FAST), [False, False]),
        (model_where(FAST, SLOW, world_size=3), [False, False]),
    ],
)
def test_a_calibrated_model_chooses(ranks: Ranks, model: CostModel, in_memory: list[bool]) -> None:
    assert ranks.run(asked, collectives=calibrated(model)) == [in_memory] * 4
    assert ranks.transfers == [[Transfer("all_reduce", "tp", 256), Transfer("all_gather", "tp", 1024)]] * 4


def chosen(mesh: Mesh, sizes: list[int]) -> list[str]:
    tp, tensor = mesh["tp"], torch.ones(1)
    carrier = carriers.cheapest(tp, mesh.device)
    assert isinstance(carrier, carriers.InMemory) and carrier.shared is not None
    with carrier.shared:
        return [str(carrier.how("all_reduce", size, tensor)) for size in sizes]


def test_the_rule_depends_on_size_and_ranks(ranks: Ranks) -> None:
    one, two = "('one_shot', 'shared_memory')", "('two_shot', 'shared_memory')"
    sizes = [0, 1 << 19, (1 << 19) + 1, 1 << 24, (1 << 24) + 1]
    assert ranks.run(chosen, sizes) == [[one, one, two, two, "None"]] * 4
    assert [carriers._algorithm("all_reduce", size, 64) for size in (1 << 16, (1 << 16) + 1)] == [
        "one_shot",
        "two_shot",
    ]


def test_there_is_no_rule_for_gpus_and_none_without_memfd(monkeypatch: pytest.MonkeyPatch) -> None:
    assert carriers.cheapest(Axis.single(), torch.device("cuda")) is None
    monkeypatch.delattr(os, "memfd_create")
    assert carriers.cheapest(Axis.single(), torch.device("cpu")) is None
    with pytest.raises(RuntimeError, match="needs os.memfd_create"):
        carriers.shared_memory(Axis.single(), torch.device("cpu"))


def test_names_are_checked_before_any_process_starts(tmp_path: Path) -> None:
    with Ranks(2) as fresh:
        with pytest.raises(ValueError, match="collectives='gloo'; allowed: backend, shared_memory, cheapest"):
            fresh.run(asked, collectives="gloo")
        with pytest.raises(TypeError, match="collectives=3: a name or a callable"):
            fresh.run(asked, collectives=3)  # type: ignore[arg-type]
        assert fresh.pids == []
    assert set(carried.NAMES) == set(NAMES)
    assert carried.maker("backend") is None and carried.maker(None) is None

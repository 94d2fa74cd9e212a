"""Every implementation on real ranks: exact, the same bits everywhere, the input left alone; and what is recorded."""

from __future__ import annotations

import hashlib

import pytest
import torch

from shardlab import Plan, Ranks, algorithms
from shardlab.algorithms import IMPLEMENTATIONS, Implementation, SharedMemory
from shardlab.comm.mesh import Axis, Mesh
from shardlab.launch import RankError
from shardlab.theory import collectives
from shardlab.theory.ledger import Transfer
from tests.algorithms.expected import DTYPES, bits, expected, fractions, whole_numbers

SHAPES = [(0,), (1,), (2,), (3,), (7,), (13, 2), (64,), (1009,), (0, 4), (4096, 3)]


def call(one: Implementation, tensor: torch.Tensor, axis: Axis, shared: SharedMemory | None, src: int) -> torch.Tensor:
    return algorithms.run(
        one.op, tensor, axis, algorithm=one.algorithm, transport=one.transport, shared=shared, src=src
    )


def wrong_ones(mesh: Mesh, shapes: list[tuple[int, ...]], dtypes: tuple[torch.dtype, ...]) -> list[str]:
    """Each implementation on each shape and dtype; what did not come out as expected."""
    tp, wrong = mesh["tp"], []
    with SharedMemory(tp, 64) as shared:  # small: it must grow on the way
        for number, (shape, dtype) in enumerate((shape, dtype) for shape in shapes for dtype in dtypes):
            inputs = [whole_numbers(rank, shape, dtype) for rank in range(tp.size)]
            src = number % tp.size
            for one in IMPLEMENTATIONS:
                mine = inputs[tp.rank].clone()
                result = call(one, mine, tp, shared, src)
                if result.dtype != dtype or not torch.equal(result, expected(one.op, inputs, tp.rank, src)):
                    wrong.append(f"{one}: {shape} {dtype} -> {result.dtype}")
                result += 1  # it is the caller's: nobody else's tensor changes with it
                if not torch.equal(mine, inputs[tp.rank]):
                    wrong.append(f"{one}: {shape} {dtype} wrote over its input")
    return wrong


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_exact(ranks: Ranks, degree: int) -> None:
    assert ranks.run(wrong_ones, SHAPES, DTYPES, plan=Plan(tp=degree)) == [[]] * degree


@pytest.mark.parametrize("degree", [8, 13])
def test_exact_on_many_ranks(degree: int) -> None:
    with Ranks(degree, timeout_s=110) as many:
        assert many.run(wrong_ones, [(0,), (7,), (1009, 2)], (torch.float64, torch.bfloat16)) == [[]] * degree


def sums(mesh: Mesh, length: int, dtype: torch.dtype) -> list[str]:
    """A digest of each implementation's sum of numbers whose order of addition shows."""
    tp, mine = mesh["tp"], fractions(mesh["tp"].rank, (length,), dtype)
    with SharedMemory(tp) as shared:
        found = [call(one, mine, tp, shared, 0) for one in IMPLEMENTATIONS if one.op == "all_reduce"]
    return [hashlib.sha256(bits(one)).hexdigest() for one in found]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("degree", [2, 3, 4])
def test_the_same_bits_on_every_rank(ranks: Ranks, degree: int, dtype: torch.dtype) -> None:
    first, *others = ranks.run(sums, 10007, dtype, plan=Plan(tp=degree))
    assert others == [first] * (degree - 1)
    if degree > 2:
        assert len(set(first)) > 1, "the numbers do not show the order of addition"


def one_call(mesh: Mesh, one: Implementation, length: int) -> tuple[int, list[Transfer]]:
    """What one call recorded, and how many bytes it moved through shared memory."""
    tp = mesh["tp"]
    with SharedMemory(tp, 1 << 16) as shared:
        before = len(mesh.recorder.transfers)
        call(one, torch.ones(length, 2), tp, shared, 0)
        return shared.moved_bytes, mesh.recorder.transfers[before:]


@pytest.mark.parametrize("degree", [2, 3, 4])
@pytest.mark.parametrize("length", [12, 13])
@pytest.mark.parametrize("one", IMPLEMENTATIONS, ids=str)
def test_what_is_recorded(ranks: Ranks, one: Implementation, length: int, degree: int) -> None:
    num_bytes = length * 2 * 4 * (degree if one.op == "all_gather" else 1)
    item_bytes = 4 if one.op == "all_reduce" else 8
    rows = ranks.run(one_call, one, length, plan=Plan(tp=degree))
    recorded = [transfers for _, transfers in rows]
    if one.transport == "send_recv":
        matrix = collectives.traffic_matrix(one.op, num_bytes, degree, one.algorithm, item_bytes=item_bytes)
        assert [sum(transfer.num_bytes for transfer in row) for row in recorded] == [sum(row) for row in matrix]
        assert {transfer.op for row in recorded for transfer in row} == {"send"}
    elif one.op == "send":
        assert recorded == [[Transfer("send", "tp", num_bytes)]] + [[]] * (degree - 1)
    elif length == 12 or one.transport == "shared_memory" or one.op not in ("reduce_scatter", "all_to_all"):
        assert recorded == [[Transfer(one.op, "tp", num_bytes)]] * degree
    if one.transport == "shared_memory":
        formula = collectives.shared_memory_bytes(
            one.op, num_bytes=num_bytes, world_size=degree, algorithm=one.algorithm, item_bytes=item_bytes
        )
        assert max(moved for moved, _ in rows) == formula
    else:
        assert {moved for moved, _ in rows} == {0}


def test_one_rank_records_nothing_and_gets_a_copy() -> None:
    axis = Axis.single()
    with SharedMemory(axis, 0) as shared:
        for one in IMPLEMENTATIONS:
            mine = torch.arange(5.0)
            result = call(one, mine, axis, shared, 0)
            assert torch.equal(result, mine) and result.data_ptr() != mine.data_ptr()
        assert shared.moved_bytes == 0
    assert axis.recorder.transfers == []


def test_names() -> None:
    assert len(set(IMPLEMENTATIONS)) == len(IMPLEMENTATIONS)
    assert all(one.algorithm in collectives.ALGORITHMS[one.op] for one in IMPLEMENTATIONS)
    assert {one.op for one in IMPLEMENTATIONS} == set(collectives.ALGORITHMS)
    assert {one.transport for one in IMPLEMENTATIONS} == {"backend", "send_recv", "shared_memory"}
    assert str(IMPLEMENTATIONS[0]) == "all_reduce ring backend"
    assert sorted(IMPLEMENTATIONS)[0].op == "all_gather"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"op": "all_redcue"}, "no implementation all_redcue .* there are: all_reduce, all_gather"),
        (
            {"op": "all_gather", "algorithm": "two_shot"},
            "all_gather two_shot backend; there are: all_gather ring backend;",
        ),
        ({"op": "all_reduce", "transport": "pigeon"}, "pigeon; there are: all_reduce ring backend"),
        ({"op": "broadcast", "src": 1}, r"src=1 is not on the tp axis of 1 ranks \(0\.\.0\)"),
        ({"op": "all_gather", "tensor": torch.tensor(1.0)}, "all_gather of a tensor without dimensions"),
        (
            {"op": "all_reduce", "transport": "shared_memory", "tensor": torch.empty(2, device="meta")},
            "this one is on meta; allowed: backend, send_recv",
        ),
    ],
)
def test_mistakes_name_what_is_allowed(arguments: dict, said: str) -> None:
    arguments = {"tensor": torch.zeros(2), "axis": Axis.single(), **arguments}
    with pytest.raises(ValueError, match=said):
        algorithms.run(**arguments)


def test_shared_memory_must_be_that_of_the_axis(ranks: Ranks) -> None:
    def program(mesh: Mesh) -> None:
        algorithms.run("all_reduce", torch.zeros(2), mesh["tp"], transport="shared_memory")

    with pytest.raises(RankError, match="needs shared=SharedMemory"):
        ranks.run(program, plan=Plan(tp=2))

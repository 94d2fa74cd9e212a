"""What ranks put on the wire is what the formula says, and the recorded payload is exact."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from shardlab import Plan, Ranks, comm
from shardlab.comm.mesh import Mesh
from shardlab.launch import wire
from shardlab.theory.collectives import traffic_matrix, wire_bytes
from shardlab.theory.ledger import Transfer

READABLE, WHY = wire.available()
pytestmark = pytest.mark.skipif(not READABLE, reason=WHY)

MIB = 1 << 20
S = 12 * MIB  # 2, 3 and 4 divide it
OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")


def collective(mesh: Mesh, op: str, num_bytes: int) -> None:
    """One collective whose S is num_bytes."""
    tp = mesh["tp"]
    rows = num_bytes // 4
    if op == "all_reduce":
        comm.all_reduce(torch.ones(rows), tp)
    elif op == "all_gather":
        comm.all_gather(torch.ones(rows // tp.size), tp)
    elif op == "reduce_scatter":
        comm.reduce_scatter(torch.ones(rows), tp)
    elif op == "all_to_all":
        comm.all_to_all(torch.ones(rows), tp, 0, 0)
    else:
        comm.broadcast(torch.ones(rows), tp)


@pytest.fixture(scope="module")
def pool() -> Iterator[Ranks]:
    with Ranks(4) as ranks:
        yield ranks


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("tp", [2, 3, 4])
def test_wire_agrees_with_the_formula_within_one_percent(pool: Ranks, op: str, tp: int) -> None:
    pool.run(collective, op, S, plan=Plan(tp=tp), wire=True)
    assert pool.wire.shape == (tp, tp)
    assert pool.wire.diagonal().tolist() == [0] * tp
    expected = np.array(traffic_matrix(op, S, tp, algorithm="one_shot" if op == "reduce_scatter" else None))
    # rank by rank and pair by pair: the ring and the tree are seen, not only their sums
    assert np.abs(pool.wire - expected).max() <= 0.01 * expected.max()
    busiest = pool.wire.sum(axis=1).max()
    assert busiest == pytest.approx(wire_bytes(op, num_bytes=S, world_size=tp), rel=0.01)
    assert pool.transfers == [[Transfer(op, "tp", S)]] * tp


@pytest.mark.parametrize("op", OPS)
def test_framing_is_below_one_percent_from_one_mib(pool: Ranks, op: str) -> None:
    num_bytes = 3 * MIB  # each of the ring's pieces is 1 MiB
    pool.run(collective, op, num_bytes, plan=Plan(tp=3), wire=True)
    payload = sum(map(sum, traffic_matrix(op, num_bytes, 3)))
    framing = int(pool.wire.sum()) - payload
    assert 0 < framing < 0.01 * payload


def test_many_collectives_add_up(pool: Ranks) -> None:
    pool.run(repeat, 5, S, plan=Plan(tp=2), wire=True)
    assert pool.wire.sum(axis=1).tolist() == pytest.approx([5 * S] * 2, rel=0.01)
    assert pool.transfers == [[Transfer("all_reduce", "tp", S)] * 5] * 2


def repeat(mesh: Mesh, times: int, num_bytes: int) -> None:
    for _ in range(times):
        collective(mesh, "all_reduce", num_bytes)


def silent(mesh: Mesh) -> int:
    return mesh.rank


def test_a_program_that_sends_nothing_leaves_no_trace(pool: Ranks) -> None:
    pool.run(silent, plan=Plan(tp=4), wire=True)
    assert pool.wire.tolist() == np.zeros((4, 4), dtype=int).tolist()
    assert pool.transfers == [[]] * 4


def test_one_rank_has_nobody_to_send_to(pool: Ranks) -> None:
    pool.run(collective, "all_reduce", S, plan=Plan(), wire=True)
    assert pool.wire.tolist() == [[0]]


def test_without_counters_the_run_goes_on(pool: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pids: object) -> wire.Snapshot:
        raise wire.WireUnavailable("no counters here")

    monkeypatch.setattr(wire, "snapshot", refuse)
    assert pool.run(silent, wire=True) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="no counters here"):
        _ = pool.wire

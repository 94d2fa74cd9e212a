"""What the implementations put on the wire, pair by pair, is the formula's traffic matrix."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from shardlab import Plan, Ranks, algorithms
from shardlab.algorithms import IMPLEMENTATIONS, Implementation, SharedMemory
from shardlab.comm.mesh import Mesh
from shardlab.launch import wire
from shardlab.theory.collectives import traffic_matrix

READABLE, WHY = wire.available()
pytestmark = pytest.mark.skipif(not READABLE, reason=WHY)

ON_THE_WIRE = [one for one in IMPLEMENTATIONS if one.transport != "shared_memory"]
LENGTH = 3 * (1 << 20) + 1  # floats: 12 MiB and one more, which 2, 3 and 4 do not divide


@pytest.fixture(scope="module")
def pool() -> Iterator[Ranks]:
    with Ranks(4) as ranks:
        yield ranks


def program(mesh: Mesh, one: Implementation, length: int) -> None:
    shard = length // mesh["tp"].size if one.op == "all_gather" else length
    algorithms.run(one.op, torch.ones(shard), mesh["tp"], algorithm=one.algorithm, transport=one.transport)


@pytest.mark.parametrize("tp", [2, 3, 4])
@pytest.mark.parametrize("one", ON_THE_WIRE, ids=str)
def test_the_traffic_matrix(pool: Ranks, one: Implementation, tp: int) -> None:
    pool.run(program, one, LENGTH, plan=Plan(tp=tp), wire=True)
    num_bytes = 4 * (LENGTH // tp * tp if one.op == "all_gather" else LENGTH)
    expected = np.array(traffic_matrix(one.op, num_bytes, tp, one.algorithm, item_bytes=4))
    assert np.abs(pool.wire - expected).max() <= 0.01 * expected.max()


def in_memory(mesh: Mesh) -> int:
    with SharedMemory(mesh["tp"], 4 * LENGTH) as shared:
        for one in IMPLEMENTATIONS:
            if one.transport == "shared_memory":
                algorithms.run(
                    one.op,
                    torch.ones(1 << 20),
                    mesh["tp"],
                    algorithm=one.algorithm,
                    transport=one.transport,
                    shared=shared,
                )
        return shared.moved_bytes


def test_shared_memory_sends_nothing(pool: Ranks) -> None:
    """But the few bytes that tell where it is."""
    moved = pool.run(in_memory, wire=True)
    assert min(moved) > 1 << 20
    assert pool.wire.sum() < 1 << 14

"""NCCL's own model: the check values of its source, and what it leaves out."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab import compare
from shardlab.measure.record import read_published
from shardlab.theory import nccl
from shardlab.theory.cost import crossover_bytes
from shardlab.theory.nccl import DGX_H100, System

FUZZ = settings(max_examples=100, derandomize=True, deadline=None)
PUBLISHED = Path(__file__).resolve().parents[2] / "labs" / "published"
TIME = nccl.model(DGX_H100)
A100 = System("8xA100", "ampere", 8, channels=24, bus_Bps=230e9, network_bus_Bps=90e9)
PCIE = System("8 on PCIe", "ampere", 8, channels=2, bus_Bps=24e9, fabric="pcie")


def us(system: System, op: str, num_bytes: float, world_size: int, algorithm: str, protocol: str) -> float:
    (one,) = [
        one
        for one in nccl.estimates(system, op, num_bytes=num_bytes, world_size=world_size)
        if (one.algorithm, one.protocol) == (algorithm, protocol)
    ]
    return one.seconds * 1e6


@pytest.mark.parametrize("size", [0, 4096, 2**20, 2**30])
def test_the_check_values(size: int) -> None:
    assert us(DGX_H100, "all_reduce", size, 8, "ring", "LL") == pytest.approx(6.6 + 14 * 0.6 + size / 80.6e3, rel=1e-3)
    assert us(DGX_H100, "all_reduce", size, 8, "nvls", "Simple") == pytest.approx(25 + size / 275e3)
    # 8.4 + 14 * 3.4, and the whole bus; 14 + 14 * 1.9, and 0.92 of it
    assert us(DGX_H100, "all_reduce", size, 8, "ring", "Simple") == pytest.approx(56 + size / (360e3 * 8 / 14))
    assert us(DGX_H100, "all_reduce", size, 8, "ring", "LL128") == pytest.approx(40.6 + size / (331.2e3 * 8 / 14))


def test_the_switch_from_ring_to_nvls() -> None:
    met = crossover_bytes(
        lambda size: TIME("all_reduce", num_bytes=size, world_size=8, algorithm="ring"),
        lambda size: TIME("all_reduce", num_bytes=size, world_size=8, algorithm="nvls"),
    )
    assert met == pytest.approx(1.14e6, rel=0.01)
    seen = [nccl.choice(DGX_H100, "all_reduce", num_bytes=2**power, world_size=8) for power in range(3, 35)]
    assert [(one.algorithm, one.protocol) for one in seen] == [("ring", "LL")] * 18 + [("nvls", "Simple")] * 14


def test_the_published_table_of_8xh100() -> None:
    rows = [row for row in read_published(PUBLISHED / "allreduce_8xh100.csv") if row.system == "NCCL (pynccl)"]
    predicted = [TIME("all_reduce", num_bytes=row.num_bytes, world_size=8) for row in rows]
    error = {
        row.num_bytes >> 10: round((ours / row.seconds - 1) * 100) for row, ours in zip(rows, predicted, strict=True)
    }
    whole = {512: -10, 1024: 12, 2048: -12, 4096: -19, 8192: -27, 16384: -29, 32768: -25, 65536: -15, 131072: -9}
    assert {size: error[size] for size in whole} == {size: pytest.approx(seen, abs=1) for size, seen in whole.items()}
    assert compare.geomean_error(predicted, [row.seconds for row in rows]) == pytest.approx(0.201, abs=5e-4)


def test_trees_pay_for_medium_sizes() -> None:
    # 16 GPUs, two nodes: 6.8 + 2 (7 * 0.6 + 1 * 5.0); the bus min(0.92 * 360, 16 * 41.4) / 3.8, halved; factor 0.4
    size = 2**18
    bus = 0.92 * 360e3 / 3.8 * 0.4
    assert us(DGX_H100, "all_reduce", size, 16, "tree", "LL") == pytest.approx(6.8 + 2 * 9.2 + size / (0.5 * bus))
    full = us(DGX_H100, "all_reduce", 2**29, 16, "tree", "LL")
    assert full == pytest.approx(25.2 + 2**29 / (0.5 * 0.92 * 360e3 / 3.8))
    assert nccl.choice(DGX_H100, "all_reduce", num_bytes=8, world_size=32).algorithm == "tree"


def test_rings_across_nodes() -> None:
    # 28 of 30 steps inside, at the network's overhead of 1 us; two across; LL capped at 45 GB/s on two nodes
    assert us(DGX_H100, "all_reduce", 1e6, 16, "ring", "LL") == pytest.approx(
        6.6 + 28 * 1.0 + 2 * 2.7 + 1e6 / (45e3 * 16 / 30)
    )
    amd = replace(DGX_H100, network_overhead_s=2e-6, nic_latency_s=1e-6)
    simple = 1.4 * (8.4 + 28 * 6.0 + 2 * (14 + 2.0))
    assert us(amd, "all_reduce", 0, 16, "ring", "Simple") == pytest.approx(simple)
    assert us(amd, "all_gather", 0, 16, "ring", "Simple") == pytest.approx(8.4 + 14 * 6.0 + 16.0)
    assert us(DGX_H100, "all_reduce", 1e6, 32, "ring", "LL") == pytest.approx(
        6.6 + 56 * 1.0 + 6 * 2.7 + 1e6 / (35e3 * 32 / 62)
    )


def test_other_ops_and_systems() -> None:
    assert us(DGX_H100, "all_gather", 7e6, 8, "ring", "LL") == pytest.approx(6.6 + 7 * 0.6 + 7e6 / (141e3 * 8 / 7))
    assert us(DGX_H100, "broadcast", 1e6, 8, "ring", "LL") == pytest.approx(6.6 + 0.6 + 1e6 / 141e3)
    assert us(A100, "all_reduce", 1e6, 8, "ring", "LL") == pytest.approx(6.6 + 8.4 + 1e6 / (87.7e3 * 8 / 14))
    assert us(PCIE, "all_reduce", 0, 4, "ring", "Simple") == pytest.approx(8.4 + 6 * 5.7)
    names = {one.protocol for one in nccl.estimates(PCIE, "all_reduce", num_bytes=1, world_size=4)}
    assert names == {"LL", "Simple"}
    few = {one.algorithm for one in nccl.estimates(DGX_H100, "all_reduce", num_bytes=1, world_size=4)}
    assert few == {"ring", "tree"}
    assert {one.algorithm for one in nccl.estimates(DGX_H100, "all_gather", num_bytes=1, world_size=8)} == {
        "ring",
        "nvls",
    }


@FUZZ
@given(op=st.sampled_from(nccl.OPS), n=st.sampled_from([2, 3, 4, 6, 8, 16, 32, 64]), size=st.integers(0, 2**34))
def test_the_choice_is_the_least(op: str, n: int, size: int) -> None:
    chosen = nccl.choice(DGX_H100, op, num_bytes=size, world_size=n)
    every = nccl.estimates(DGX_H100, op, num_bytes=size, world_size=n)
    assert chosen.seconds == min(one.seconds for one in every) == TIME(op, num_bytes=size, world_size=n)
    assert all(one.latency_s > 0 and 0 < one.algbw_Bps < math.inf for one in every)
    assert TIME(op, num_bytes=size, world_size=1) == 0
    without_tree = [TIME(op, num_bytes=one, world_size=n, algorithm="ring") for one in (size, 2 * size + 1)]
    assert without_tree[0] < without_tree[1]


def test_bytes_of_a_reduction_in_the_switch() -> None:
    assert nccl.nvls_wire_bytes(8e6, 8) == 9e6
    assert nccl.nvls_wire_bytes(8e6, 1) == 0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: TIME("send", num_bytes=1, world_size=2), "op='send' is not in NCCL's model"),
        (lambda: TIME("all_to_all", num_bytes=1, world_size=2), "send and all_to_all never are"),
        (lambda: TIME("all_to_all", num_bytes=1, world_size=1), "op='all_to_all'"),
        (lambda: TIME("all_reduce", num_bytes=1, world_size=4, algorithm="nvls"), "algorithm='nvls' does not run"),
        (lambda: TIME("all_gather", num_bytes=1, world_size=4, algorithm="tree"), "algorithm='tree' does not run"),
        (lambda: TIME("all_reduce", num_bytes=1, world_size=0), "world_size=0"),
        (lambda: TIME("all_reduce", num_bytes=-1, world_size=2), "num_bytes=-1"),
        (lambda: TIME("all_reduce", num_bytes=1, world_size=13), "world_size=13 on nodes of 8"),
        (lambda: nccl.model(PCIE)("all_reduce", num_bytes=1, world_size=16), "a system with network_bus_Bps"),
        (lambda: replace(A100, generation="volta"), "generation='volta'; allowed: ampere, hopper"),
        (lambda: replace(A100, channels=0), "channels=0"),
        (lambda: replace(A100, bus_Bps=0), "bus_Bps=0"),
    ],
)
def test_mistakes_name_the_value(call, said: str) -> None:  # noqa: ANN001
    with pytest.raises(ValueError, match=said):
        call()

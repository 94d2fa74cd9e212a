"""Paths between two GPUs or two cores, and the lines of text."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import pytest

from shardlab import topology
from shardlab.topology.columns import columns
from shardlab.topology.describe import names_text
from tests.topology.machines import MACHINES, machine


@pytest.mark.parametrize(
    ("name", "a", "b", "bandwidth_Bps", "whole", "text"),
    [
        ("dgx-h100", "gpu:0", "gpu:7", 450e9, True, "NVLink 4.0, 18 links each, through NVSwitch: 450 GB/s one way"),
        ("mesh-a100", "gpu:0", "gpu:3", 100e9, True, "NVLink 3.0, 4 links: 100 GB/s one way"),
        (
            "workstation",
            "gpu:0",
            "gpu:1",
            15.754e9,
            True,
            "the PCIe root pci0000:00; narrowest: PCIe 4.0 x8, 15.8 GB/s one way",
        ),
        (
            "crowd",
            "gpu:0",
            "gpu:2",
            31.508e9,
            True,
            "PCIe switch 0000:14:00.0; narrowest: PCIe 4.0 x16, 31.5 GB/s one way",
        ),
        (
            "crowd",
            "gpu:0",
            "gpu:15",
            31.508e9,
            False,
            "the link between NUMA nodes 0 and 1; narrowest: PCIe 4.0 x16, 31.5 GB/s one way at most",
        ),
        ("dgx-h100", "core:0", "core:1", None, False, "the L3 cache of 105 MiB they share"),
        ("laptop", "core:4", "core:7", None, False, "the L2 cache of 2 MiB they share"),
        ("workstation", "core:0", "core:15", None, False, "the memory of NUMA node 0"),
        ("server", "core:0", "core:63", None, False, "the link between NUMA nodes 0 and 7"),
        ("server", "core:0", "core:0", None, False, "one and the same: core 0"),
    ],
)
def test_the_way_and_its_narrowest_link(
    name: str, a: str, b: str, bandwidth_Bps: float | None, whole: bool, text: str
) -> None:
    path = topology.links(machine(name), a, b)
    assert (path.nodes[0], path.nodes[-1]) == (a, b)
    assert path.bandwidth_Bps == (None if bandwidth_Bps is None else pytest.approx(bandwidth_Bps, rel=1e-4))
    assert (path.text, path.whole) == (text, whole)
    back = topology.links(machine(name), b, a)
    assert back.bandwidth_Bps == path.bandwidth_Bps
    if path.narrowest is not None:
        assert path.edges[path.narrowest]["bandwidth_Bps"] == path.bandwidth_Bps


def test_no_way_is_said(tmp_path: Path) -> None:
    nvml = MACHINES["workstation"](tmp_path / "elsewhere")
    path = topology.links(topology.read(tmp_path, nvml), "gpu:0", "gpu:1")
    assert (path.nodes, path.edges, path.bandwidth_Bps, path.whole) == ((), (), None, False)
    assert path.text == "PCIe through one PCIe root, speed not known"
    graph = topology.read(tmp_path, nvml)
    graph.graph["pairs"].clear()
    assert topology.links(graph, "gpu:0", "gpu:1").text == "a way that this machine does not show"


def test_a_gpu_forwards_nothing() -> None:
    graph = machine("mesh-a100").copy()
    graph.remove_edge("gpu:0", "gpu:2")  # two hops of NVLink over GPU 1 are left, and nobody would carry the bytes
    path = topology.links(graph, "gpu:0", "gpu:2")
    up = ["gpu", "pcie_switch", "pcie_root", "numa"]
    assert [graph.nodes[node]["kind"] for node in path.nodes] == [*up, *reversed(up)]


def test_an_unknown_node_is_named() -> None:
    graph = machine("mesh-a100")
    with pytest.raises(ValueError, match=r"'gpu:4' is not in the graph; it has: gpu:0-3, core:0-63$"):
        topology.links(graph, "gpu:0", "gpu:4")
    with pytest.raises(ValueError, match="no GPU and no core"):
        topology.links(machine("container"), "gpu:0", "gpu:1")


def test_described_in_lines() -> None:
    assert topology.describe(machine("dgx-h100")) == [
        "8 x NVIDIA H100 80GB HBM3, 80 GiB: GPUs 0-7",
        "NVLink 4.0, 18 links each to 4 NVSwitches, 450 GB/s one way: GPUs 0-7",
        "PCIe 5.0 x16, 63 GB/s one way (at rest now: 1.0): GPUs 0-7",
        "8 PCIe switches above GPUs 0; 1; 2; 3; 4; 5; 6; 7",
        "InfiniBand, 50 GB/s one way each: mlx5_0-7",
        "network, 125 MB/s one way each: eno1",
        "inside the kernel, no wire: lo (loopback), docker0",
        "2 sockets, 2 NUMA nodes with 1 TiB each; distance 21 (10 is one's own)",
        "112 cores, 224 threads: L1d 48 KiB, L1i 32 KiB, L2 2 MiB, L3 105 MiB for 56 cores",
    ]
    assert topology.describe(machine("container")) == [
        "no GPU: NVML Shared Library Not Found",
        "this system hides its cores, caches and memory",
    ]
    assert "NVLink 3.0, 4 links a pair, 100 GB/s one way: GPU pairs 0-1, 0-2, 0-3, 1-2, 1-3, 2-3" in topology.describe(
        machine("mesh-a100")
    )


def test_names_in_short() -> None:
    assert names_text(["mlx5_0", "mlx5_1", "mlx5_3", "eth0", "wlan"]) == "mlx5_0-1, 3, eth0, wlan"


def test_ports_share_a_column_before_gpus_do() -> None:
    graph = nx.Graph()
    place = {"switches": (), "numa": None}
    for index in range(2):
        graph.add_node(f"gpu:{index}", kind="gpu", index=index, **place)
    for index in range(24):
        graph.add_node(f"ib:{index}", kind="ib", pci=None, **place)
    shapes = {limit: [(len(c.gpus), len(c.ports)) for c in columns(graph, limit)] for limit in (24, 12, 10, 1)}
    assert shapes == {
        24: [(1, 1)] * 2 + [(0, 1)] * 22,
        12: [(1, 2)] * 2 + [(0, 2)] * 10,
        10: [(1, 24), (1, 0)],
        1: [(2, 24)],
    }


@pytest.mark.parametrize("name", MACHINES)
def test_columns_hold_every_device_once(name: str) -> None:
    graph = machine(name)
    for limit in (1, 3, 10):
        found = columns(graph, limit)
        assert len(found) <= limit
        gpus = [gpu for column in found for gpu in column.gpus]
        assert sorted(gpus) == sorted(topology.of_kind(graph, "gpu"))
        wires = [port for column in found for port in column.ports]
        assert len(wires) == len(set(wires))
        assert set(topology.of_kind(graph, "ib")) <= set(wires)
    with pytest.raises(ValueError, match="limit=0"):
        columns(graph, 0)

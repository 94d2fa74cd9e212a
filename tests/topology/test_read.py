"""The graph of each made-up machine is the machine that was made up; what is hidden is None, never an error."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import networkx as nx
import psutil
import pynvml
import pytest

from shardlab import topology
from shardlab.topology.graph import edges_of_kind
from shardlab.topology.pci import address_in, bandwidth_Bps
from shardlab.topology.sysfs import cpu_list, size_bytes
from tests.topology.machines import MACHINES
from tests.topology.made_up import GIB, Nvml, Sys


def graph_of(name: str, root: Path) -> nx.Graph:
    nvml = MACHINES[name](root)
    graph = topology.read(root, nvml)
    assert nvml.calls.count("init") == 1
    return graph


def test_dgx_h100(tmp_path: Path) -> None:
    graph = graph_of("dgx-h100", tmp_path)
    counts = {
        kind: len(topology.of_kind(graph, kind)) for kind in ("gpu", "ib", "pcie_switch", "numa", "socket", "core")
    }
    assert counts == {"gpu": 8, "ib": 8, "pcie_switch": 8, "numa": 2, "socket": 2, "core": 112}
    assert len(graph.nodes["nvswitch"]["pci"]) == 4
    for gpu in range(8):
        link = graph.edges[f"gpu:{gpu}", "nvswitch"]
        assert (link["links"], link["version"], link["bandwidth_Bps"]) == (18, "4.0", 450e9)
        assert link["line_Bps"] == pytest.approx(18 * 26.562e9)
        place = graph.nodes[f"gpu:{gpu}"]
        assert place["numa"] == f"numa:{gpu // 4}" and place["memory_bytes"] == 80 * GIB
        (switch,) = place["switches"]
        assert set(graph[switch]) == {place["root"], f"gpu:{gpu}", f"ib:mlx5_{gpu}:1", f"net:ibs{gpu}"}
        assert graph.edges[switch, place["root"]]["bandwidth_Bps"] == pytest.approx(63.015e9, rel=1e-4)
        assert graph.nodes[f"ib:mlx5_{gpu}:1"]["bandwidth_Bps"] == 50e9
    assert graph.nodes["core:0"]["cpus"] == (0, 112)
    assert graph.nodes["l3:56"]["cores"] == 56
    assert graph.edges["numa:0", "numa:1"]["distance"] == 21
    assert nx.is_connected(graph.subgraph(set(graph) - {"net:lo", "net:docker0"}))


def test_a_gpu_at_rest_is_counted_by_the_generation_that_it_can_do(tmp_path: Path) -> None:
    graph = graph_of("dgx-h100", tmp_path)
    (switch,) = graph.nodes["gpu:3"]["switches"]
    link = graph.edges[switch, "gpu:3"]
    assert (link["gen"], link["max_gen"], link["width"], link["used_gen"]) == (1, 5, 16, 5)
    port = graph.edges[graph.nodes["net:eno1"]["above"], "net:eno1"]
    assert (port["gen"], port["width"], port["bandwidth_Bps"]) == (2, 1, 0.5e9)


def test_a_slot_that_is_slower_than_its_gpu_decides(tmp_path: Path) -> None:
    nvml = MACHINES["workstation"](tmp_path)
    Sys(tmp_path).write("devices/pci0000:00/0000:00:01.1", max_link_speed="8.0 GT/s PCIe")
    graph = topology.read(tmp_path, nvml)
    first, second = (graph.edges[f"gpu:{gpu}", "pci0000:00"] for gpu in (0, 1))
    assert (first["max_gen"], first["bandwidth_Bps"]) == (3, bandwidth_Bps(3, 16))
    assert (second["max_gen"], second["width"], second["bandwidth_Bps"]) == (4, 8, bandwidth_Bps(4, 8))


def test_mesh_counts_each_link_once(tmp_path: Path) -> None:
    graph = graph_of("mesh-a100", tmp_path)
    found = {tuple(sorted((a, b))): edge for a, b, edge in edges_of_kind(graph, "nvlink")}
    assert len(found) == 6 and "nvswitch" not in graph
    assert {(edge["links"], edge["version"], edge["bandwidth_Bps"]) for edge in found.values()} == {(4, "3.0", 100e9)}
    assert graph.nodes["gpu:0"]["switches"] == graph.nodes["gpu:1"]["switches"] != graph.nodes["gpu:2"]["switches"]


def test_a_board_with_slower_nvlinks_is_not_given_what_the_version_promises(tmp_path: Path) -> None:
    graph = graph_of("crowd", tmp_path)
    assert graph.edges["gpu:0", "gpu:1"]["bandwidth_Bps"] == pytest.approx(4 * 14.062e9)
    down = graph.nodes["ib:mlx5_2:1"]
    assert (down["state"], down["bandwidth_Bps"]) == ("down", None)
    assert len(graph.nodes["gpu:0"]["switches"]) == 2


def test_hidden_switches_are_one_plane_as_nccl_has_it(tmp_path: Path) -> None:
    graph = graph_of("virtual-machine", tmp_path)
    assert graph.nodes["nvswitch"]["pci"] == ()
    link = graph.edges["gpu:7", "nvswitch"]
    assert (link["links"], link["bandwidth_Bps"], link["line_Bps"]) == (12, 300e9, None)
    assert graph.edges["gpu:7", "pci0000:00"]["gen"] == 1  # /sys says nothing of this link, NVML does


def test_laptop(tmp_path: Path) -> None:
    graph = graph_of("laptop", tmp_path)
    assert topology.of_kind(graph, "gpu") == []
    assert graph.graph["gpus"] == "NVML Shared Library Not Found"
    assert topology.of_kind(graph, "core") == ["core:0", "core:2", "core:4", "core:5", "core:6", "core:7"]
    assert (graph.nodes["l2:4"]["cores"], graph.nodes["l3:0"]["cores"]) == (4, 6)
    assert graph.nodes["net:wlan0"]["numa"] == "numa:0"  # -1 in /sys, and there is one node only


def test_container_shows_nothing_and_nothing_breaks(tmp_path: Path) -> None:
    assert len(graph_of("container", tmp_path)) == 0
    graph = graph_of("gpu-container", tmp_path / "second")
    assert sorted(graph) == sorted([*(f"gpu:{i}" for i in range(8)), "nvswitch"])


def test_nvml_alone_still_knows_the_near_memory(tmp_path: Path) -> None:
    nvml = MACHINES["mesh-a100"](tmp_path)
    shutil.rmtree(tmp_path / "sys/bus")
    nvml.affinity = {gpu: 0xFFFFFFFF << 32 * (gpu // 2) for gpu in range(4)}
    graph = topology.read(tmp_path, nvml)
    assert [graph.nodes[f"gpu:{gpu}"]["numa"] for gpu in range(4)] == ["numa:0", "numa:0", "numa:1", "numa:1"]
    assert graph.edges["gpu:3", "numa:1"]["bandwidth_Bps"] == pytest.approx(31.5e9, rel=1e-3)


@pytest.mark.parametrize("name", ["workstation", "crowd", "laptop"])
def test_any_file_may_be_missing_or_hold_nonsense(name: str, tmp_path: Path) -> None:
    nvml = MACHINES[name](tmp_path)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    kinds: dict[str, list[Path]] = {}
    for path in files:
        kinds.setdefault(path.name, []).append(path)
    for paths in kinds.values():
        for text in ("Unknown \x00 \xff", "-1"):
            before = [path.read_bytes() for path in paths]
            for path in paths:
                path.write_text(text)
            topology.describe(topology.read(tmp_path, nvml))
            for path, content in zip(paths, before, strict=True):
                path.write_bytes(content)
    for paths in kinds.values():
        for path in paths:
            path.unlink()
        topology.describe(topology.read(tmp_path, nvml))


def test_any_call_of_nvml_may_be_refused(tmp_path: Path) -> None:
    nvml = MACHINES["dgx-h100"](tmp_path)
    names = [name for name in vars(Nvml) if name.startswith("nvmlDevice")]
    assert len(names) > 10
    for name in names:
        poor = dataclasses.replace(nvml, calls=[])
        setattr(poor, name, poor._refuse)
        graph = topology.read(tmp_path, poor)
        assert topology.describe(graph)
        assert poor.calls == ["init", "shutdown"]
        assert len(topology.of_kind(graph, "core")) == 112


def test_a_gpu_that_may_not_be_seen_is_no_switch(tmp_path: Path) -> None:
    nvml = MACHINES["mesh-a100"](tmp_path)
    nvml.gpus = nvml.gpus[:2]  # the others belong to someone else
    graph = topology.read(tmp_path, nvml)
    assert [sorted(edge[:2]) for edge in edges_of_kind(graph, "nvlink")] == [["gpu:0", "gpu:1"]]


def test_this_machine() -> None:
    graph = topology.read()
    threads = [cpu for core in topology.of_kind(graph, "core") for cpu in graph.nodes[core]["cpus"]]
    assert set(os.sched_getaffinity(0)) <= set(threads)
    assert len(threads) == len(set(threads))
    assert "net:lo" in graph and graph.nodes["net:lo"]["kind"] == "loopback"
    assert {graph.nodes[net]["name"] for net in topology.of_kind(graph, "net", "loopback")} >= set(
        psutil.net_if_addrs()
    )
    memory = [graph.nodes[numa]["memory_bytes"] for numa in topology.of_kind(graph, "numa")]
    if len(memory) == 1:
        assert memory == [psutil.virtual_memory().total]
    for core in topology.of_kind(graph, "core"):
        levels = [graph.nodes[cache]["level"] for cache in graph.nodes[core]["caches"]]
        assert levels == sorted(levels)


def test_library_as_it_is_and_the_made_up_one_have_the_same_names() -> None:
    for name in vars(Nvml):
        if name.startswith("nvml"):
            assert callable(getattr(pynvml, name)), name


@pytest.mark.parametrize(
    ("gen", "width", "expected"),
    [
        (3, 16, 15.75e9),
        (4, 16, 31.5e9),
        (5, 16, 63.0e9),
        (1, 1, 0.25e9),
        (6, 16, 128e9),
        (None, 16, None),
        (4, None, None),
    ],
)
def test_pcie_after_the_line_code(gen: int | None, width: int | None, expected: float | None) -> None:
    found = bandwidth_Bps(gen, width)
    assert found == (None if expected is None else pytest.approx(expected, rel=1e-3))


@pytest.mark.parametrize(
    ("function", "text", "expected"),
    [
        (cpu_list, "0-3,8,10-11", (0, 1, 2, 3, 8, 10, 11)),
        (cpu_list, "", ()),
        (cpu_list, None, ()),
        (size_bytes, "32K", 32768),
        (size_bytes, "8 kB", 8192),
        (size_bytes, "2M", 2 << 20),
        (size_bytes, "512", 512),
        (size_bytes, "many", None),
        (address_in, "00000000:1B:00.0", "0000:1b:00.0"),
        (address_in, "00010000:1B:00.0", "10000:1b:00.0"),
        (address_in, "fffffff:ffff:ff", None),
    ],
)
def test_small_readers(function: Any, text: str | None, expected: object) -> None:
    assert function(text) == expected


def test_loads_neither_torch_nor_a_picture() -> None:
    program = "import sys\nfrom shardlab import topology\ntopology.describe(topology.read())\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "networkx" in loaded
    assert {"torch", "triton", "matplotlib", "transformers"} & set(loaded) == set()

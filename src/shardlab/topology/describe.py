"""The topology in a few lines of text: for the terminal, and as the words beside the picture."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import networkx as nx

from shardlab.topology.graph import (
    edges_of_kind,
    in_order,
    nvlink_text,
    of_kind,
    pcie_text,
    ports,
    ranges_text,
    rate_text,
    size_text,
)


def describe(graph: nx.Graph) -> list[str]:
    """One line for each sort of thing: GPUs, NVLink, PCIe, network, NUMA, cores and caches. Never empty."""
    lines = [*_gpus(graph), *_nvlinks(graph), *_pcie(graph), *_network(graph), *numa_lines(graph), *core_lines(graph)]
    return lines if of_kind(graph, "core") else [*lines, "this system hides its cores, caches and memory"]


def names_text(names: Sequence[str]) -> str:
    """['mlx5_0', 'mlx5_1', 'eth0'] -> 'mlx5_0-1, eth0'."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for name in names:
        match = re.fullmatch(r"(.*?)(0|[1-9]\d*)?", name)
        assert match is not None  # the pattern matches any name
        numbers[match[1]] += [int(match[2])] if match[2] else []
    return ", ".join(stem + ranges_text(found) for stem, found in numbers.items())


def core_groups(graph: nx.Graph, cores: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """Cores that are alike, as (cores, the caches of the first of them), the larger group first."""
    alike: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for core in cores:
        caches = [graph.nodes[cache] for cache in graph.nodes[core]["caches"]]
        key = tuple((cache["level"], cache["type"], cache["size_bytes"], cache["cores"]) for cache in caches)
        alike[key, len(graph.nodes[core]["cpus"])].append(core)
    groups = sorted(alike.values(), key=len, reverse=True)
    return [(group, list(graph.nodes[group[0]]["caches"])) for group in groups]


def cache_text(graph: nx.Graph, cache: str) -> str:
    """'L2 1 MiB', 'L1d 32 KiB'."""
    attributes = graph.nodes[cache]
    letter = {"data": "d", "instruction": "i"}.get(attributes["type"], "")
    size = size_text(attributes["size_bytes"]) if attributes["size_bytes"] else "size not known"
    return f"L{attributes['level']}{letter} {size}"


def cores_text(graph: nx.Graph, cores: Sequence[str]) -> str:
    """'56 cores, 112 threads'."""
    threads = sum(len(graph.nodes[core]["cpus"]) for core in cores)
    text = f"{len(cores)} {'core' if len(cores) == 1 else 'cores'}"
    return text + (f", {threads} threads" if threads != len(cores) else "")


def _gpus(graph: nx.Graph) -> list[str]:
    gpus = of_kind(graph, "gpu")
    if not gpus:
        return [f"no GPU: {graph.graph['gpus']}"] if graph.graph["gpus"] else []
    alike: dict[tuple[Any, Any], list[int]] = defaultdict(list)
    for gpu in gpus:
        attributes = graph.nodes[gpu]
        alike[attributes["name"], attributes["memory_bytes"]].append(attributes["index"])
    return [
        f"{len(indices)} x {name or 'GPU'}"
        + (f", {size_text(memory)}" if memory else "")
        + f": {_gpu_numbers(indices)}"
        for (name, memory), indices in alike.items()
    ]


def _nvlinks(graph: nx.Graph) -> list[str]:
    lines = []
    alike: dict[tuple[str, float | None], list[tuple[str, str]]] = defaultdict(list)
    for a, b, edge in edges_of_kind(graph, "nvlink"):
        alike[nvlink_text(edge), edge["bandwidth_Bps"]].append((a, b))
    for (text, bandwidth_Bps), pairs in alike.items():
        to_switch = [a if b == "nvswitch" else b for a, b in pairs if "nvswitch" in (a, b)]
        if to_switch:
            count = len(graph.nodes["nvswitch"]["pci"])
            switches = f"{count} NVSwitches" if count > 1 else "NVSwitch"
            numbers = _gpu_numbers([graph.nodes[gpu]["index"] for gpu in to_switch])
            lines.append(f"{text} each to {switches}, {rate_text(bandwidth_Bps)} one way: {numbers}")
        direct = [sorted(graph.nodes[gpu]["index"] for gpu in pair) for pair in pairs if "nvswitch" not in pair]
        if direct:
            every = ", ".join(f"{low}-{high}" for low, high in direct)
            lines.append(f"{text} a pair, {rate_text(bandwidth_Bps)} one way: GPU pairs {every}")
    return lines


def _pcie(graph: nx.Graph) -> list[str]:
    alike: dict[str, list[int]] = defaultdict(list)
    for a, b, edge in edges_of_kind(graph, "pcie"):
        for gpu in (node for node in (a, b) if graph.nodes[node]["kind"] == "gpu"):
            at_rest = f" (at rest now: {edge['gen']}.0)" if edge["gen"] and edge["gen"] != edge["used_gen"] else ""
            text = f"{pcie_text(edge)}, {rate_text(edge['bandwidth_Bps'])}"
            alike[text + (" one way" if edge["bandwidth_Bps"] else "") + at_rest].append(graph.nodes[gpu]["index"])
    lines = [f"{text}: {_gpu_numbers(indices)}" for text, indices in alike.items()]
    shared: dict[tuple[int, ...], int] = defaultdict(int)
    for switch in of_kind(graph, "pcie_switch"):
        below = [gpu for gpu in of_kind(graph, "gpu") if switch in graph.nodes[gpu]["switches"]]
        if below:
            shared[tuple(graph.nodes[gpu]["index"] for gpu in below)] += 1
    if shared:
        groups = "; ".join(ranges_text(indices) for indices in shared)
        lines.append(f"{sum(shared.values())} PCIe switches above GPUs {groups}")
    return lines


def _network(graph: nx.Graph) -> list[str]:
    alike: dict[tuple[str, Any, Any], list[str]] = defaultdict(list)
    for port in ports(graph):
        attributes = graph.nodes[port]
        kind = "network" if attributes["kind"] == "net" else attributes["link_layer"] or "InfiniBand"
        if kind == "Ethernet":
            kind = "RoCE"
        alike[kind, attributes["bandwidth_Bps"], attributes["state"]].append(attributes["name"])
    lines = []
    for (kind, bandwidth_Bps, state), names in alike.items():
        up = state in ("up", "active")
        rate = (
            f"{rate_text(bandwidth_Bps)}{' one way each' if bandwidth_Bps else ''}" if up else state or "state unknown"
        )
        lines.append(f"{kind}, {rate}: {names_text(names)}")
    inside = [graph.nodes[net]["name"] + " (loopback)" for net in of_kind(graph, "loopback")]
    inside += [graph.nodes[net]["name"] for net in of_kind(graph, "net") if graph.nodes[net]["virtual"]]
    if inside:
        shown = inside if len(inside) <= 6 else [*inside[:5], f"{len(inside) - 5} more"]
        lines.append(f"inside the machine, no wire: {', '.join(shown)}")
    return lines


def numa_lines(graph: nx.Graph) -> list[str]:
    """Sockets, NUMA nodes and their memory in one line; none where they are not known."""
    numa, sockets = in_order(of_kind(graph, "numa"), graph), of_kind(graph, "socket")
    if not numa:
        return [f"{len(sockets)} sockets"] if len(sockets) > 1 else []
    sizes = [graph.nodes[node]["memory_bytes"] for node in numa]
    memory = ", ".join(dict.fromkeys(size_text(size) if size else "size not known" for size in sizes))
    places = f"{len(numa)} NUMA {'node' if len(numa) == 1 else 'nodes'}"
    text = f"{len(sockets)} {'socket' if len(sockets) == 1 else 'sockets'}, {places}" if sockets else places
    distances = sorted({edge["distance"] for _, _, edge in edges_of_kind(graph, "numa")} - {None})
    apart = f"; distance {', '.join(map(str, distances))} (10 is one's own)" if distances else ""
    return [f"{text} with {memory}{' each' if len(numa) > 1 else ''}{apart}"]


def core_lines(graph: nx.Graph) -> list[str]:
    """One line for each sort of core, with its caches."""
    lines = []
    for cores, caches in core_groups(graph, of_kind(graph, "core")):
        parts = []
        for cache in caches:
            sharers = graph.nodes[cache]["cores"]
            parts.append(cache_text(graph, cache) + (f" for {sharers} cores" if sharers > 1 else ""))
        lines.append(": ".join(part for part in (cores_text(graph, cores), ", ".join(parts)) if part))
    return lines


def _gpu_numbers(indices: Sequence[int]) -> str:
    return f"{'GPU' if len(indices) == 1 else 'GPUs'} {ranges_text(indices)}"

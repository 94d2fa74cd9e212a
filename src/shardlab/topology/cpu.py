"""Sockets, NUMA nodes, cores and the caches that they share, from /sys/devices/system.

The names of the files are those of the Linux kernel's Documentation/ABI: sysfs-devices-system-cpu, sysfs-devices-node.
"""

from __future__ import annotations

import re
from typing import Any

import networkx as nx

from shardlab.topology.graph import of_kind
from shardlab.topology.sysfs import Sysfs, cpu_list, size_bytes

_NODE = "sys/devices/system/node"
_CPU = "sys/devices/system/cpu"


def add_cpu(graph: nx.Graph, sysfs: Sysfs) -> None:
    """Add numa, socket, core and cache nodes, and the edges among them."""
    _add_numa(graph, sysfs)
    cpus = [int(name[3:]) for name in sysfs.names(_CPU, r"cpu\d+") if sysfs.number(f"{_CPU}/{name}/online") != 0]
    threads_of: dict[int, tuple[int, ...]] = {}
    for cpu in cpus:
        topology = f"{_CPU}/cpu{cpu}/topology"
        listed = sysfs.text(f"{topology}/core_cpus_list") or sysfs.text(f"{topology}/thread_siblings_list")
        threads = cpu_list(listed) or (cpu,)
        threads_of.setdefault(min(threads), threads)
    for first, threads in threads_of.items():
        _add_core(graph, sysfs, first, threads)
    for cache in of_kind(graph, "cache"):
        attributes = graph.nodes[cache]
        attributes["cores"] = len(threads_of.keys() & set(attributes.pop("cpus"))) or 1


def numa_of_cpu(graph: nx.Graph, cpu: int) -> str | None:
    """The NUMA node that a CPU number belongs to."""
    return next((node for node in of_kind(graph, "numa") if cpu in graph.nodes[node]["cpus"]), None)


def _add_numa(graph: nx.Graph, sysfs: Sysfs) -> None:
    distances: dict[str, list[int]] = {}
    for name in sysfs.names(_NODE, r"node\d+"):
        index = int(name[4:])
        cpus = cpu_list(sysfs.text(f"{_NODE}/{name}/cpulist"))
        memory_bytes = _memory_bytes(sysfs, f"{_NODE}/{name}/meminfo")
        if not cpus and not memory_bytes:  # a place that the operating system keeps for nothing
            continue
        graph.add_node(f"numa:{index}", kind="numa", index=index, cpus=cpus, memory_bytes=memory_bytes)
        row = (sysfs.text(f"{_NODE}/{name}/distance") or "").split()
        distances[f"numa:{index}"] = [int(value) for value in row if value.isdigit()]
    nodes = list(distances)
    if len(nodes) == 1:  # then all memory is its own; some virtual machines grow, and only /proc tells
        everything = _memory_bytes(sysfs, "proc/meminfo")
        graph.nodes[nodes[0]]["memory_bytes"] = everything or graph.nodes[nodes[0]]["memory_bytes"]
    for column, node in enumerate(nodes):
        for other in nodes[:column]:
            row = distances[other]
            distance = row[column] if len(row) == len(nodes) else None
            graph.add_edge(other, node, kind="numa", distance=distance, bandwidth_Bps=None)


def _memory_bytes(sysfs: Sysfs, path: str) -> int | None:
    total = re.search(r"MemTotal:\s*(\d+ kB)", sysfs.text(path) or "")
    return size_bytes(total[1]) if total else None


def _add_core(graph: nx.Graph, sysfs: Sysfs, first: int, threads: tuple[int, ...]) -> None:
    core = f"core:{first}"
    socket = _socket(graph, sysfs.number(f"{_CPU}/cpu{first}/topology/physical_package_id"))
    numa = numa_of_cpu(graph, first)
    caches = [_add_cache(graph, cache) for cache in _caches(sysfs, first)]
    graph.add_node(core, kind="core", index=first, cpus=threads, caches=tuple(caches), socket=socket, numa=numa)
    nearer = core
    for cache in caches:
        graph.add_edge(core if _is_instruction(graph, cache) else nearer, cache, kind="cache", bandwidth_Bps=None)
        nearer = nearer if _is_instruction(graph, cache) else cache
    if numa:
        graph.add_edge(nearer, numa, kind="cache", bandwidth_Bps=None)
    if socket:
        graph.add_edge(numa or nearer, socket, kind="socket", bandwidth_Bps=None)


def _socket(graph: nx.Graph, package: int | None) -> str | None:
    if package is None or package < 0:  # -1: the firmware does not say
        return None
    if f"socket:{package}" not in graph:
        graph.add_node(f"socket:{package}", kind="socket", index=package)
    return f"socket:{package}"


def _caches(sysfs: Sysfs, cpu: int) -> list[dict[str, Any]]:
    """The caches of one CPU, the nearest first, data before instructions."""
    found = []
    for name in sysfs.names(f"{_CPU}/cpu{cpu}/cache", r"index\d+"):
        folder = f"{_CPU}/cpu{cpu}/cache/{name}"
        level, kind = sysfs.number(f"{folder}/level"), sysfs.text(f"{folder}/type")
        if level is None or kind is None:
            continue
        shared = cpu_list(sysfs.text(f"{folder}/shared_cpu_list")) or (cpu,)
        size = size_bytes(sysfs.text(f"{folder}/size"))
        found.append({"level": level, "type": kind.lower(), "size_bytes": size, "cpus": shared})
    return sorted(found, key=lambda cache: (cache["level"], cache["type"]))


def _add_cache(graph: nx.Graph, cache: dict[str, Any]) -> str:
    letter = {"data": "d", "instruction": "i"}.get(cache["type"], "")
    node = f"l{cache['level']}{letter}:{min(cache['cpus'])}"
    if node not in graph:
        graph.add_node(node, kind="cache", **cache)
    return node


def _is_instruction(graph: nx.Graph, cache: str) -> bool:
    return graph.nodes[cache]["type"] == "instruction"

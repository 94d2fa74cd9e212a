"""Read the topology of a machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import networkx as nx

from shardlab.topology.cpu import add_cpu
from shardlab.topology.graph import of_kind
from shardlab.topology.network import add_network
from shardlab.topology.nvml import add_gpus
from shardlab.topology.sysfs import Sysfs


def read(root: str | Path = "/", nvml: Any = None) -> nx.Graph:
    """The graph of this machine (graph.py says what is in it). Never raises for what it cannot see.

    root: where sys/ is. nvml: the module pynvml where None, else something with its functions.
    """
    graph = nx.Graph()
    sysfs = Sysfs(root)
    add_cpu(graph, sysfs)
    if nvml is None:
        import pynvml as nvml
    add_gpus(graph, sysfs, nvml)
    add_network(graph, sysfs)
    if Path(root) == Path("/") and not of_kind(graph, "core"):  # no /sys: another system, or a strict sandbox
        for cpu in range(os.cpu_count() or 1):
            graph.add_node(f"core:{cpu}", kind="core", index=cpu, cpus=(cpu,), caches=(), socket=None, numa=None)
    return graph

"""Over what do two GPUs, or two cores, talk? The path between them, and its narrowest link."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import networkx as nx

from shardlab.topology.describe import names_text
from shardlab.topology.graph import nvlink_text, of_kind, pcie_text, ranges_text, rate_text, size_text

# What a message between two devices may pass through. GPUs and ports forward nothing.
_TRANSIT = {"cache", "numa", "socket", "pcie_switch", "pcie_root"}


@dataclass(frozen=True)
class Path:
    """The way from nodes[0] to nodes[-1]; edges[i] joins nodes[i] and nodes[i + 1]. No nodes: no way is known.

    narrowest: which edge is the slowest of those whose bandwidth is known, None where none is. bandwidth_Bps: of that
    edge, one way. `whole` says that every edge's bandwidth is known; else bandwidth_Bps is an upper bound.
    text: the path in a few words.
    """

    nodes: tuple[str, ...]
    edges: tuple[dict[str, Any], ...]
    narrowest: int | None
    bandwidth_Bps: float | None
    whole: bool
    text: str


def links(graph: nx.Graph, a: str, b: str) -> Path:
    """The path from a to b, nodes like "gpu:0" or "core:3". NVLink where it joins them, else PCIe, caches and memory.

    Raises ValueError for a node that the graph does not have.
    """
    for node in (a, b):
        if node not in graph:
            talkers = names_text([*of_kind(graph, "gpu"), *of_kind(graph, "core")])
            raise ValueError(f"{node!r} is not in the graph; it has: {talkers or 'no GPU and no core'}")
    nodes = _way(graph, a, b)
    edges = tuple(graph.edges[pair] for pair in zip(nodes, nodes[1:], strict=False))
    known = [at for at, edge in enumerate(edges) if edge["bandwidth_Bps"] is not None]
    narrowest = min(known, key=lambda at: edges[at]["bandwidth_Bps"], default=None)
    bandwidth_Bps = None if narrowest is None else float(edges[narrowest]["bandwidth_Bps"])
    whole = bool(edges) and len(known) == len(edges)
    text = _text(graph, a, b, nodes, edges, narrowest, whole)
    return Path(nodes, edges, narrowest, bandwidth_Bps, whole, text)


def _way(graph: nx.Graph, a: str, b: str) -> tuple[str, ...]:
    if a == b:
        return (a,)
    if graph.has_edge(a, b) and graph.edges[a, b]["kind"] == "nvlink":
        return (a, b)
    if "nvswitch" in graph and graph.has_edge(a, "nvswitch") and graph.has_edge("nvswitch", b):
        return (a, "nvswitch", b)
    passed = [node for node, kind in graph.nodes(data="kind") if kind in _TRANSIT or node in (a, b)]
    try:
        return tuple(nx.shortest_path(graph.subgraph(passed), a, b))
    except nx.NetworkXNoPath:
        return ()


def _text(
    graph: nx.Graph,
    a: str,
    b: str,
    nodes: tuple[str, ...],
    edges: tuple[dict[str, Any], ...],
    narrowest: int | None,
    whole: bool,
) -> str:
    if len(nodes) == 1:
        return f"one and the same: {name(graph, a)}"
    if not nodes:
        pair = tuple(sorted(graph.nodes[node].get("index", 0) for node in (a, b)))
        both_gpus = all(graph.nodes[node]["kind"] == "gpu" for node in (a, b))
        ancestor = graph.graph["pairs"].get(pair, {}).get("ancestor") if both_gpus else None
        return f"PCIe through {ancestor}, speed not known" if ancestor else "a way that this machine does not show"
    if edges[0]["kind"] == "nvlink":
        through = " each, through NVSwitch" if len(nodes) == 3 else ""
        slowest = edges[narrowest or 0]
        return f"{nvlink_text(slowest)}{through}: {rate_text(slowest['bandwidth_Bps'])} one way"
    through = _meeting(graph, nodes)
    if narrowest is None:
        return through
    slowest = edges[narrowest]
    bound = "" if whole else " at most"
    return f"{through}; narrowest: {pcie_text(slowest)}, {rate_text(slowest['bandwidth_Bps'])} one way{bound}"


def _meeting(graph: nx.Graph, nodes: tuple[str, ...]) -> str:
    """The outermost thing on the way, which is where the two sides meet."""
    kinds = [graph.nodes[node]["kind"] for node in nodes]
    memories = [node for node, kind in zip(nodes, kinds, strict=True) if kind == "numa"]
    if len(memories) > 1:
        indices = [graph.nodes[node]["index"] for node in memories]
        return f"the link between NUMA nodes {ranges_text([indices[0]])} and {ranges_text([indices[-1]])}"
    if memories:
        return f"the memory of {name(graph, memories[0])}"
    for kind, words in (("socket", "the inside of"), ("pcie_root", "the PCIe root"), ("pcie_switch", "PCIe switch")):
        if kind in kinds:
            return f"{words} {name(graph, nodes[kinds.index(kind)])}"
    caches = [node for node in nodes if graph.nodes[node]["kind"] == "cache"]
    if caches:
        shared = max(caches, key=lambda node: graph.nodes[node]["level"])
        size = graph.nodes[shared]["size_bytes"]
        return f"the L{graph.nodes[shared]['level']} cache" + (f" of {size_text(size)}" if size else "") + " they share"
    return "a direct link"


def name(graph: nx.Graph, node: str) -> str:
    """A node in words: 'GPU 0', 'core 3', 'NUMA node 1', 'socket 0'."""
    words = {"gpu": "GPU", "core": "core", "numa": "NUMA node", "socket": "socket"}
    attributes = graph.nodes[node]
    if attributes["kind"] in words:
        return f"{words[attributes['kind']]} {attributes['index']}"
    return attributes.get("name") or node

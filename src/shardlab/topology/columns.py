"""What stands over what in a picture: GPUs and ports in columns, by the switches and NUMA nodes that they hang on."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import networkx as nx

from shardlab.topology.graph import in_order, of_kind, ports


@dataclass(frozen=True)
class Column:
    """GPUs and ports that are drawn over one another. switches: outermost first. numa: None where it is not known."""

    numa: str | None
    switches: tuple[str, ...]
    gpus: tuple[str, ...]
    ports: tuple[str, ...]


def columns(graph: nx.Graph, limit: int = 10) -> list[Column]:
    """At most `limit` columns, NUMA node by NUMA node; where there are more devices, neighbours share a column.

    ValueError for a limit below 1.
    """
    if limit < 1:
        raise ValueError(f"limit={limit} columns; allowed: 1 or more")
    found: list[Column] = []
    for with_switches, gpus_each, ports_each in (
        (True, 1, 1),
        (True, 1, 2),
        (True, 1, 99),
        (True, 2, 99),
        (True, 4, 99),
        (True, 99, 99),
        (False, 99, 99),
    ):
        found = _columns(graph, with_switches, gpus_each, ports_each)
        if len(found) <= limit:
            return found
    devices = [node for column in found for node in column.gpus]
    wires = [node for column in found for node in column.ports]
    return [Column(None, (), tuple(devices), tuple(wires))]


def _columns(graph: nx.Graph, with_switches: bool, gpus_each: int, ports_each: int) -> list[Column]:
    places: dict[tuple[str | None, tuple[str, ...]], tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for node in [*in_order(of_kind(graph, "gpu"), graph), *ports(graph)]:
        attributes = graph.nodes[node]
        place = attributes["numa"], attributes["switches"] if with_switches else ()
        places[place][0 if attributes["kind"] == "gpu" else 1].append(node)
    found = []
    for (numa, switches), (gpus, wires) in places.items():
        stacks = _parts(gpus, gpus_each)
        bundles = _parts(wires, ports_each)
        for at in range(max(len(stacks), len(bundles))):
            found.append(
                Column(
                    numa,
                    switches,
                    stacks[at] if at < len(stacks) else (),
                    bundles[at] if at < len(bundles) else (),
                )
            )
    order = {node: at for at, node in enumerate(in_order(of_kind(graph, "numa"), graph))}
    return sorted(found, key=lambda column: order.get(column.numa or "", len(order)))


def _parts(nodes: list[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(nodes[at : at + size]) for at in range(0, len(nodes), size)]

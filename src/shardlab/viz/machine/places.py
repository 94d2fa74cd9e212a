"""Where everything of a drawn topology goes, in inches from the top left, decided before anything is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import networkx as nx

from shardlab.topology.columns import columns
from shardlab.topology.describe import core_lines, numa_lines
from shardlab.topology.graph import edges_of_kind, in_order, nvlink_text, of_kind, pcie_text, rate_text
from shardlab.viz.machine.numa_box import STACK_IN, numa_height_in
from shardlab.viz.sheet import LINE_IN
from shardlab.viz.style import INK, PETROFF, WIDTH_IN

GPU, NVLINK, PORT, PCIE = PETROFF[0], PETROFF[6], PETROFF[1], PETROFF[8]
EDGE, GAP = 0.1, 0.3  # the margin, and from one row to the next
FIELD = WIDTH_IN - 2 * EDGE
BAR = LINE_IN + 0.1  # a box with one line of text
DEVICE = 2 * LINE_IN + 0.1  # with two
ARC = 0.19  # what an arc rises with every column that it spans


class Places:
    """Columns, rows and words of one picture, all in inches."""

    def __init__(self, graph: nx.Graph) -> None:
        self.columns = columns(graph)
        self.title = _title(graph)
        self.legend = _legend_entries(graph)
        gpus = any(column.gpus for column in self.columns)
        depth = max((len(column.switches) for column in self.columns), default=0)
        self._slots(graph)
        self.y_links = 0.1 + LINE_IN + 0.12
        self.y_gpu = self.y_links + self._links_height(graph)
        self.y_port = self.y_gpu + (BAR + 0.16 if gpus else 0.0)
        self.y_switch = self.y_port + (DEVICE + GAP if any(column.ports for column in self.columns) else 0.12)
        self.y_memory = self.y_switch + depth * (BAR + GAP)
        self.memory_height = max((numa_height_in(graph, numa, width) for numa, _, width in self.memories), default=0)
        narrow = any(width < STACK_IN for _, _, width in self.memories)
        self.caption = [*numa_lines(graph), *core_lines(graph)] if narrow else []
        self.y_caption = self.y_memory + self.memory_height + (0.15 if self.memories else 0.0)
        self.y_inside = self.y_caption + len(self.caption) * (LINE_IN + 0.02) + (0.08 if self.caption else 0.0)
        self.inside = _inside_the_machine(graph)
        self.y_legend = self.y_inside + (BAR + 0.12 if self.inside else 0.0)
        rows = math.ceil(len(self.legend) / 2) + 1 if self.legend else 0
        self.height = self.y_legend + rows * (LINE_IN + 0.03) + 0.06

    def _slots(self, graph: nx.Graph) -> None:
        """Share the width among NUMA nodes by their columns; a node without a column takes the room of one."""
        numas: list[str | None] = list(in_order(of_kind(graph, "numa"), graph))
        if not numas and of_kind(graph, "core"):
            numas = [None]
        if len(numas) > 8:  # too narrow for words: all as one
            numas = [None]
        placed = [column.numa if column.numa in numas else None for column in self.columns]
        homes = numas if None in numas or None not in placed else [*numas, None]
        counts = [max(1, placed.count(home)) for home in homes]
        unit = FIELD / max(1, sum(counts))
        self.memories: list[tuple[str | None, float, float]] = []
        self._lefts: dict[int, float] = {}
        start = EDGE
        for home, count in zip(homes, counts, strict=True):
            if home in numas:
                self.memories.append((home, start + 0.04, count * unit - 0.08))
            mine = [at for at, place in enumerate(placed) if place == home]
            share = count * unit / max(1, len(mine))
            for order, at in enumerate(mine):
                self._lefts[at] = start + order * share
            start += count * unit
        self.column_width = min(unit, 1.9)
        self._share = unit

    def left(self, at: int) -> float:
        """The left edge of a column's own field, which stands in the middle of its share."""
        return self._lefts[at] + (self._share - self.column_width) / 2

    def gpu_x(self, at: int) -> float:
        """Where the wire of a column's GPU runs: on the right of the port's box where there is one."""
        column = self.columns[at]
        return self.left(at) + (self.column_width - 0.09 if column.ports else self.column_width / 2)

    def port_x(self, at: int) -> float:
        column = self.columns[at]
        return self.left(at) + self.column_width * (0.42 if column.gpus else 0.5)

    def _links_height(self, graph: nx.Graph) -> float:
        if "nvswitch" in graph:
            return BAR + GAP + 0.05
        spans = [span for *_, span in arcs(graph, self)]
        return 0.06 + ARC * (max(spans) + 0.5) if spans else 0.05


def arcs(graph: nx.Graph, places: Places) -> list[tuple[float, float, dict[str, Any], int]]:
    """(x, x, edge, how many columns apart) of the NVLinks that join two GPUs directly. Ends stand side by side."""
    home = {gpu: at for at, column in enumerate(places.columns) for gpu in column.gpus}
    pairs = []
    for a, b, edge in edges_of_kind(graph, "nvlink"):
        if "nvswitch" not in (a, b) and home[a] != home[b]:
            pairs.append((*sorted((home[a], home[b])), edge))
    most = max(len(places.columns), 2)
    step = places.column_width * 0.8 / most
    found = []
    for low, high, edge in pairs:  # the farther the partner, the nearer to the middle
        middle = (places.left(low) + places.column_width / 2, places.left(high) + places.column_width / 2)
        shift = step * (most / 2 - (high - low) / 2)
        found.append((middle[0] + shift, middle[1] - shift, edge, high - low))
    return found


def _inside_the_machine(graph: nx.Graph) -> str:
    loopback = [graph.nodes[node]["name"] for node in of_kind(graph, "loopback")]
    virtual = [graph.nodes[node]["name"] for node in of_kind(graph, "net") if graph.nodes[node]["virtual"]]
    shown = [f"loopback {name}" for name in loopback] + (virtual if len(virtual) < 4 else [f"{len(virtual)} virtual"])
    return ", ".join(shown)


def _legend_entries(graph: nx.Graph) -> list[tuple[str, str, float | None]]:
    """(text, colour, bandwidth) of every sort of link that is drawn, the fastest first."""
    found: dict[tuple[str, str], float | None] = {}
    for _, _, edge in edges_of_kind(graph, "nvlink"):
        found[f"{nvlink_text(edge)}: {rate_text(edge['bandwidth_Bps'])}", NVLINK] = edge["bandwidth_Bps"]
    for _, _, edge in edges_of_kind(graph, "pcie"):
        found[f"{pcie_text(edge)}: {rate_text(edge['bandwidth_Bps'])}", PCIE] = edge["bandwidth_Bps"]
    apart = sorted({edge["distance"] for _, _, edge in edges_of_kind(graph, "numa")} - {None})
    entries = sorted(((text, color, rate) for (text, color), rate in found.items()), key=lambda entry: -(entry[2] or 0))
    if apart:
        far = f"{apart[0]} to {apart[-1]}" if len(apart) > 1 else str(apart[0])
        entries.append((f"between NUMA nodes, distance {far} (own: 10)", INK, None))
    return entries


def _title(graph: nx.Graph) -> str:
    gpus = [graph.nodes[gpu]["name"] or "GPU" for gpu in of_kind(graph, "gpu")]
    names: Sequence[str] = list(dict.fromkeys(gpus))
    if gpus:
        return f"{len(gpus)} x {names[0]}" if len(names) == 1 else f"{len(gpus)} GPUs"
    cores = len(of_kind(graph, "core"))
    return (
        f"No GPU: ranks run on {cores} {'core' if cores == 1 else 'cores'}"
        if cores
        else "Nothing to be seen: this system hides it"
    )

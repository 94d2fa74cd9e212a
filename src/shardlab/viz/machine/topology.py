"""The topology of a machine as a picture: GPUs and ports above, PCIe below, memory, caches and cores at the foot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import networkx as nx
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Arc

from shardlab.topology.columns import Column
from shardlab.topology.describe import names_text
from shardlab.topology.graph import ranges_text, rate_text
from shardlab.viz.machine.numa_box import draw_numa
from shardlab.viz.machine.places import ARC, BAR, DEVICE, EDGE, FIELD, GAP, GPU, NVLINK, PCIE, PORT, Places, arcs
from shardlab.viz.sheet import LINE_IN, SIZE_PT, box, fit, sheet, wire
from shardlab.viz.style import INK, MUTED, REPLICATED, styled


@styled
def topology(graph: nx.Graph) -> Figure:
    """Draw the graph of `topology.read`: boxes are devices, lines are links, the wider the faster.

    A legend gives the bandwidth of each sort of line, one way; a dashed line's is not known. The cores of one sort
    are drawn as one where there are many.
    """
    places = Places(graph)
    figure, ax = sheet(places.height)
    ax.text(EDGE, 0.1 + LINE_IN / 2, places.title, ha="left", va="center_baseline", fontsize=10.5, weight="bold")
    _nvlinks(ax, graph, places)
    for at, column in enumerate(places.columns):
        _devices(ax, graph, places, at, column)
    _switches(ax, graph, places)
    for numa, left, width in places.memories:
        draw_numa(ax, graph, numa, left, places.y_memory, width, places.memory_height)
    _between_memories(ax, graph, places)
    for at, line in enumerate(places.caption):
        y = places.y_caption + LINE_IN / 2 + at * (LINE_IN + 0.02)
        ax.text(EDGE + 0.04, y, fit([line], FIELD - 0.08), ha="left", va="center_baseline", fontsize=SIZE_PT)
    _inside(ax, places)
    _legend(ax, places)
    return figure


def _devices(ax: Axes, graph: nx.Graph, places: Places, at: int, column: Column) -> None:
    left, width = places.left(at), places.column_width
    if column.gpus:
        joined = any(graph.has_edge(a, b) for a in column.gpus for b in column.gpus)
        outline = NVLINK if joined else None  # NVLinks among the GPUs of one box have no room for a line
        numbers = ranges_text([graph.nodes[gpu]["index"] for gpu in column.gpus])
        box(ax, left + 0.03, places.y_gpu, width - 0.06, [(f"GPU {numbers}", numbers)], GPU, outline=outline)
        edge = _link_above(graph, column.gpus[0])
        _drop(ax, places, places.gpu_x(at), places.y_gpu + BAR, column, edge)
    if column.ports:
        right = places.gpu_x(at) - 0.06 if column.gpus else left + width - 0.03
        lines, up = _port_lines(graph, column.ports)
        box(ax, left + 0.03, places.y_port, right - left - 0.03, lines, PORT, hollow=not up)
        _drop(ax, places, places.port_x(at), places.y_port + DEVICE, column, _link_above(graph, column.ports[0]))


def _port_lines(graph: nx.Graph, ports: Sequence[str]) -> tuple[list[list[str]], bool]:
    """(name, speed), each in wordings from long to short, and whether any of the ports is up."""
    names = [graph.nodes[port]["name"] for port in ports]
    up = [port for port in ports if graph.nodes[port]["state"] in ("up", "active")]
    rates = {graph.nodes[port]["bandwidth_Bps"] for port in up}
    title = names if len(names) == 1 else [f"{len(names)} ports: {names_text(names)}", f"{len(names)} ports"]
    if not up:
        return [title, ["down"]], False
    if len(up) < len(ports):
        return [title, [f"{len(up)} of {len(ports)} up", "some up"]], True
    (rate, *others) = rates
    if others:
        return [title, ["up, speeds differ", "up"]], True
    return [title, ["up, speed not known", "up"] if rate is None else [rate_text(rate)]], True


def _drop(ax: Axes, places: Places, x: float, top: float, column: Column, edge: dict[str, Any] | None) -> None:
    """The wire from a device down to its nearest switch, or to the memory."""
    if edge is None:
        return
    end = places.y_switch if column.switches else places.y_memory
    if end > top:
        wire(ax, (x, x), (top, end), PCIE, _points(edge["bandwidth_Bps"]), known=edge["bandwidth_Bps"] is not None)


def _switches(ax: Axes, graph: nx.Graph, places: Places) -> None:
    """Each switch once, as wide as what hangs on it; the innermost row nearest to the devices."""
    below: dict[str, list[int]] = {}
    row_of: dict[str, int] = {}
    for at, column in enumerate(places.columns):
        for row, switch in enumerate(reversed(column.switches)):
            below.setdefault(switch, []).append(at)
            row_of[switch] = max(row, row_of.get(switch, 0))
    for switch, members in below.items():
        left = places.left(members[0]) + 0.03
        right = places.left(members[-1]) + places.column_width - 0.03
        top = places.y_switch + row_of[switch] * (BAR + GAP)
        bottom = box(ax, left, top, right - left, [("PCIe switch", "switch")], REPLICATED)
        outer = places.columns[members[0]].switches
        above = outer[outer.index(switch) - 1] if outer.index(switch) else None
        edge = _link_above(graph, switch)
        end = places.y_memory if above is None else places.y_switch + row_of[above] * (BAR + GAP)
        if edge is not None and (above is not None or places.memories):
            rate = edge["bandwidth_Bps"]
            x = (left + right) / 2
            wire(ax, (x, x), (bottom, end), PCIE, _points(rate), known=rate is not None)


def _link_above(graph: nx.Graph, node: str) -> dict[str, Any] | None:
    """The pcie edge from a device or a switch towards the processor."""
    above = graph.nodes[node]["above"]
    return graph.edges[node, above] if above else None


def _nvlinks(ax: Axes, graph: nx.Graph, places: Places) -> None:
    if "nvswitch" in graph:
        members = [at for at, column in enumerate(places.columns) if column.gpus]
        count = len(graph.nodes["nvswitch"]["pci"])
        name = f"{count} NVSwitches, one plane" if count > 1 else "NVSwitch"
        left, right = places.left(members[0]) + 0.03, places.left(members[-1]) + places.column_width - 0.03
        bottom = box(ax, left, places.y_links, right - left, [(name, "NVSwitch")], NVLINK)
        for at in members:
            edge = graph.get_edge_data(places.columns[at].gpus[0], "nvswitch")
            if edge:
                x, rate = places.left(at) + places.column_width / 2, edge["bandwidth_Bps"]
                wire(ax, (x, x), (bottom, places.y_gpu), NVLINK, _points(rate), known=rate is not None)
    for left, right, edge, span in arcs(graph, places):
        ax.add_patch(
            Arc(
                ((left + right) / 2, places.y_gpu),
                right - left,
                2 * ARC * (span + 0.5),
                theta1=180,
                theta2=360,
                color=NVLINK,
                linewidth=_points(edge["bandwidth_Bps"]),
                linestyle="-" if edge["bandwidth_Bps"] else "--",
                zorder=2,
            )
        )


def _between_memories(ax: Axes, graph: nx.Graph, places: Places) -> None:
    """A short line between neighbours: the link between sockets or NUMA nodes."""
    for (a, left, width), (b, right, _) in zip(places.memories, places.memories[1:], strict=False):
        if graph.has_edge(a, b):
            y = places.y_memory + LINE_IN
            wire(ax, (left + width, right), (y, y), INK, 2.0, known=False)


def _inside(ax: Axes, places: Places) -> None:
    if places.inside:
        words = [f"inside the machine, no wire: {places.inside}", places.inside]
        box(ax, EDGE + 0.04, places.y_inside, FIELD - 0.08, [words], REPLICATED)


def _legend(ax: Axes, places: Places) -> None:
    if not places.legend:
        return
    top = places.y_legend + LINE_IN / 2
    ax.text(EDGE + 0.04, top, "Links, bandwidth one way", ha="left", va="center_baseline", fontsize=9, color=MUTED)
    for at, (text, color, rate) in enumerate(places.legend):
        x, y = EDGE + 0.04 + at % 2 * FIELD / 2, top + (at // 2 + 1) * (LINE_IN + 0.03)
        wire(ax, (x, x + 0.35), (y, y), color, _points(rate) if color != INK else 2.0, known=rate is not None)
        shown = fit([text], FIELD / 2 - 0.55)
        ax.text(x + 0.45, y, shown, ha="left", va="center_baseline", fontsize=SIZE_PT)


def _points(bandwidth_Bps: float | None) -> float:
    """Width of a line: doubling the bandwidth adds about one point."""
    return 1.2 if bandwidth_Bps is None else min(6.5, 0.8 + 0.9 * math.log2(1 + bandwidth_Bps / 8e9))

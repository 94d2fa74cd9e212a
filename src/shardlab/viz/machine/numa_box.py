"""One NUMA node as a box: its memory, its caches from the outermost inwards, and its cores."""

from __future__ import annotations

import networkx as nx
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from shardlab.topology.describe import cache_text, core_groups, cores_text
from shardlab.topology.graph import in_order, of_kind, size_text
from shardlab.viz.sheet import LINE_IN, SIZE_PT, box, fit
from shardlab.viz.style import INK, MUTED, PETROFF

_CACHE, _CORE = PETROFF[7], PETROFF[9]
_BAR = LINE_IN + 0.1
_ROW = _BAR + 0.03
STACK_IN = 0.98  # the narrowest stack in which "L2 1.25 MiB" and "L1 48 + 32" can be read

Bar = tuple[tuple[str, ...], str]  # (wordings, the longest first; colour)


def numa_height_in(graph: nx.Graph, numa: str | None, width: float) -> float:
    """The height that draw_numa needs in that width."""
    top, stacks = _content(graph, numa, width)
    rows = len(top) + max((len(stack) for stack in stacks), default=0)
    return LINE_IN + 0.16 + rows * _ROW


def draw_numa(
    ax: Axes, graph: nx.Graph, numa: str | None, left: float, top: float, width: float, height: float
) -> None:
    """Draw the NUMA node `numa` (None: all cores as one) into the field; one stack a core where there is room."""
    ax.add_patch(
        FancyBboxPatch(
            (left, top),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.05",
            facecolor="white",
            edgecolor=MUTED,
            linewidth=1.2,
            zorder=3,
        )
    )
    heading = fit(_heading(graph, numa), width - 0.16)
    y = top + 0.08 + LINE_IN / 2
    ax.text(left + 0.08, y, heading, ha="left", va="center_baseline", fontsize=SIZE_PT, color=INK, zorder=4)
    shared, stacks = _content(graph, numa, width)
    y = top + LINE_IN + 0.12
    for wordings, color in shared:
        box(ax, left + 0.06, y, width - 0.12, [wordings], color)
        y += _ROW
    each = (width - 0.12 + 0.04) / max(1, len(stacks))
    deepest = max((len(stack) for stack in stacks), default=0)
    for at, stack in enumerate(stacks):
        start = y + (deepest - len(stack)) * _ROW  # cores stand on one line
        for row, (wordings, color) in enumerate(stack):
            box(ax, left + 0.06 + at * each, start + row * _ROW, each - 0.04, [wordings], color)


def _heading(graph: nx.Graph, numa: str | None) -> list[str]:
    if numa is None:
        return ["all cores; memory not known"]
    attributes = graph.nodes[numa]
    memory = f", {size_text(attributes['memory_bytes'])}" if attributes["memory_bytes"] else ""
    sockets = {graph.nodes[core]["socket"] for core in _cores(graph, numa)} - {None}
    index = attributes["index"]
    short = [f"NUMA node {index}{memory}", f"NUMA {index}{memory}", f"NUMA {index}"]
    if len(sockets) == 1:
        (socket,) = sockets
        return [f"socket {graph.nodes[socket]['index']}, NUMA node {index}{memory}", *short]
    return short


def _cores(graph: nx.Graph, numa: str | None) -> list[str]:
    cores = in_order(of_kind(graph, "core"), graph)
    return cores if numa is None else [core for core in cores if graph.nodes[core]["numa"] == numa]


def _content(graph: nx.Graph, numa: str | None, width: float) -> tuple[list[Bar], list[list[Bar]]]:
    """(bars over the whole width: caches that all cores share; one stack of bars for each core or sort of core)."""
    cores = _cores(graph, numa)
    if not cores:
        return [], []
    common = set(graph.nodes[cores[0]]["caches"]).intersection(*(graph.nodes[core]["caches"] for core in cores))
    shared = common if len(cores) > 1 else set()
    outer = sorted(shared, key=lambda cache: -graph.nodes[cache]["level"])
    bars: list[Bar] = [(_shared_words(graph, cache), _CACHE) for cache in outer]
    if width < STACK_IN:
        return [], [[((cores_text(graph, cores), f"{len(cores)} cores", str(len(cores))), _CORE)]]
    if len(cores) * STACK_IN <= width:
        return bars, [_stack(graph, [core], shared) for core in cores]
    groups = core_groups(graph, cores)
    if len(groups) * STACK_IN > width:
        return bars, [[((cores_text(graph, cores), f"{len(cores)} cores", str(len(cores))), _CORE)]]
    return bars, [_stack(graph, group, shared) for group, _ in groups]


def _stack(graph: nx.Graph, cores: list[str], shared: set[str]) -> list[Bar]:
    """Bars from the outermost cache of these cores to the cores; a cache that several share is counted once."""
    bars: list[Bar] = []
    own = [cache for cache in graph.nodes[cores[0]]["caches"] if cache not in shared]
    levels = sorted({graph.nodes[cache]["level"] for cache in own}, reverse=True)
    for level in levels:
        caches = [cache for cache in own if graph.nodes[cache]["level"] == level]
        first = caches[0]
        count = len({cache for core in cores for cache in graph.nodes[core]["caches"] if _like(graph, cache, first)})
        if len(caches) > 1:
            sizes = [size_text(graph.nodes[cache]["size_bytes"] or 0) for cache in caches]
            plain = " + ".join(size.removesuffix(" KiB") for size in sizes)
            times = f"{count} x " if count > 1 else ""
            long = f"{times}L{level} {sizes[0]} data, {sizes[1]} instructions"
            bars.append(((long, f"{times}L{level} {plain} KiB", f"L{level} {plain} KiB", f"L{level} {plain}"), _CACHE))
            continue
        text, sharers = cache_text(graph, first), graph.nodes[first]["cores"]
        if count > 1:
            each = f", each for {sharers} cores" if sharers > 1 else ""
            bars.append(((f"{count} x {text}{each}", f"{count} x {text}", text, f"L{level}"), _CACHE))
        elif sharers > 1:
            bars.append((_shared_words(graph, first), _CACHE))
        else:
            bars.append(((text, f"L{level}"), _CACHE))
    if len(cores) == 1:
        index, threads = graph.nodes[cores[0]]["index"], len(graph.nodes[cores[0]]["cpus"])
        long = f"core {index}, {threads} threads" if threads > 1 else f"core {index}"
        bars.append(((long, f"core {index}", str(index)), _CORE))
    else:
        bars.append(((cores_text(graph, cores), f"{len(cores)} cores", str(len(cores))), _CORE))
    return bars


def _like(graph: nx.Graph, cache: str, other: str) -> bool:
    return all(graph.nodes[cache][key] == graph.nodes[other][key] for key in ("level", "type"))


def _shared_words(graph: nx.Graph, cache: str) -> tuple[str, ...]:
    text, sharers = cache_text(graph, cache), graph.nodes[cache]["cores"]
    return f"{text}, shared by {sharers} cores", f"{text} for {sharers}", text, f"L{graph.nodes[cache]['level']}"

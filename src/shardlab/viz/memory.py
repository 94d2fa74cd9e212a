"""What fills a GPU under each plan: weights, what the engine keeps back, and the room left for the KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from shardlab.theory.units import decimal_bytes_text
from shardlab.viz.style import INK, MUTED, PETROFF, blank, bytes_tick, styled


@dataclass(frozen=True)
class Filled:
    """One GPU under one plan, in bytes. `text` is written at the end (the tokens that fit)."""

    label: str
    weight_bytes: float
    reserve_bytes: float
    text: str = ""


@styled
def memory(rows: Sequence[Filled], memory_bytes: float) -> Figure:
    """One bar a plan, up to the GPU's memory: weights, the reserve, and the rest for KV. What does not fit sticks out.

    Raises ValueError for no rows or no memory.
    """
    if not rows or not memory_bytes > 0:
        raise ValueError("memory wants at least one row, and memory_bytes above 0")
    figure = blank(1.15 + 0.34 * len(rows))
    ax = figure.subplots()
    places = list(range(len(rows)))
    weights = [row.weight_bytes for row in rows]
    reserve = [row.reserve_bytes for row in rows]
    kv = [max(0.0, memory_bytes - row.weight_bytes - row.reserve_bytes) for row in rows]
    ax.barh(places, weights, 0.62, color=PETROFF[0], label="weights")
    left = [one + two for one, two in zip(weights, reserve, strict=True)]
    ax.barh(
        places,
        reserve,
        0.62,
        left=weights,
        color=PETROFF[3],
        hatch="//",
        edgecolor="white",
        linewidth=0,
        label="kept back",
    )
    ax.barh(places, kv, 0.62, left=left, color=PETROFF[1], label="room for the KV cache")
    ax.axvline(memory_bytes, color=INK, linewidth=1.2)
    ends = [max(total, memory_bytes) for total in left]
    for place, row, end in zip(places, rows, ends, strict=True):
        ax.annotate(
            row.text, (end, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9, color=INK
        )
    ax.set_xlim(0, max(ends) * 1.3)
    ax.set_yticks(places, [row.label for row in rows])
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_formatter(FuncFormatter(bytes_tick))
    ax.set_xlabel(f"memory of one GPU ({decimal_bytes_text(memory_bytes)}: the upright line)")
    ax.xaxis.label.set_color(MUTED)
    ax.grid(axis="x")
    figure.legend(loc="outside lower center", ncols=3)
    return figure

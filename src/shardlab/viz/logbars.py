"""Quantities many powers of ten apart, as horizontal bars on a logarithmic scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter

from shardlab.viz.curves import TICKS
from shardlab.viz.style import INK, LINE, POINT, blank, styled


@dataclass(frozen=True)
class LogBar:
    """`value` is predicted or given (a bar), `point` measured or claimed (a dot); `text` is written at the end."""

    label: str
    value: float
    text: str = ""
    point: float | None = None


@styled
def log_bars(
    rows: Sequence[LogBar],
    xlabel: str,
    unit: str = "bytes",
    bar: str = "",
    point: str = "",
) -> Figure:
    """One bar a row, the first on top. `bar` and `point` name the two kinds of mark in the legend.

    Raises ValueError for no rows, a value that is not above 0, or an unknown unit.
    """
    if not rows or min(row.value for row in rows) <= 0:
        raise ValueError("log_bars wants at least one row, and every value above 0")
    if unit not in TICKS:
        raise ValueError(f"unit={unit!r}; allowed: {', '.join(TICKS)}")
    figure = blank(0.9 + 0.34 * len(rows))
    ax = figure.subplots()
    values = [row.value for row in rows] + [row.point for row in rows if row.point]
    low, high = min(values) / 3, max(values)
    ax.set_xscale("log")
    ax.set_xlim(low, high * (high / low) ** 0.22)  # room for the words
    for place, row in enumerate(rows):
        ax.barh(place, row.value - low, 0.62, left=low, color=LINE)
        if row.point:
            ax.plot([row.point], [place], marker="o", color=POINT, markeredgecolor="white", linestyle="", zorder=4)
        end = max(row.value, row.point or 0)
        ax.annotate(
            row.text, (end, place), xytext=(7, 0), textcoords="offset points", va="center", fontsize=9, color=INK
        )
    ax.set_yticks(range(len(rows)), [row.label for row in rows])
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_formatter(FuncFormatter(TICKS[unit]))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(xlabel)
    ax.grid(axis="x")
    if bar and point:
        marks = [Patch(color=LINE), Line2D([], [], marker="o", color=POINT, linestyle="", markeredgecolor="white")]
        figure.legend(marks, [bar, point], loc="outside lower center", ncols=2)
    return figure

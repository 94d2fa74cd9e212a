"""Boxes, wires and words on a sheet whose unit is an inch, so that what fits can be known before it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch
from matplotlib.textpath import TextPath

from shardlab.viz.style import INK, WIDTH_IN, canvas, ink_on

SIZE_PT = 9.0
LINE_IN = 0.165  # from one line of 9 points to the next
_PAD_IN = 0.03


def sheet(height_in: float) -> tuple[Figure, Axes]:
    """A figure of page width with one Axes over all of it: x to the right, y down, both in inches."""
    figure = Figure(figsize=(WIDTH_IN, height_in))
    ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    canvas(ax, WIDTH_IN, height_in)
    return figure, ax


@cache
def width_in(text: str, size_pt: float = SIZE_PT, weight: str = "normal") -> float:
    """How wide a line of text is drawn, in inches."""
    if not text.strip():
        return 0.0
    font = FontProperties(family="DejaVu Sans", weight=weight)
    return TextPath((0.0, 0.0), text, size=size_pt, prop=font).get_extents().width / 72


def fit(candidates: Sequence[str], room_in: float) -> str:
    """The first of the texts that fits into the room, else the last one cut short."""
    for text in candidates:
        if width_in(text) <= room_in:
            return text
    text = candidates[-1]
    while text and width_in(text + "…") > room_in:
        text = text[:-1]
    return text + "…" if text else ""


def box(
    ax: Axes,
    left: float,
    top: float,
    width: float,
    lines: Sequence[Sequence[str]],
    color: str,
    *,
    height: float | None = None,
    hollow: bool = False,
    outline: str | None = None,
) -> float:
    """A box with one line of text for each of `lines` (the longest wording first). Returns its lower edge.

    hollow: only an outline, for what is there but at rest. outline: a thick edge of this colour.
    """
    height = height if height is not None else len(lines) * LINE_IN + 0.1
    ax.add_patch(
        FancyBboxPatch(
            (left, top),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.04",
            facecolor="white" if hollow else color,
            edgecolor=outline or (color if hollow else "white"),
            linewidth=2.2 if outline else 1.0,
            zorder=3,
        )
    )
    ink = INK if hollow else ink_on(color)
    start = top + height / 2 - (len(lines) - 1) * LINE_IN / 2
    for at, candidates in enumerate(lines):
        text = fit(candidates, width - 2 * _PAD_IN)
        ax.text(
            left + width / 2,
            start + at * LINE_IN,
            text,
            ha="center",
            va="center_baseline",
            fontsize=SIZE_PT,
            color=ink,
            zorder=4,
        )
    return top + height


def wire(
    ax: Axes, xs: Sequence[float], ys: Sequence[float], color: str, width_pt: float, *, known: bool = True
) -> None:
    """A line through the points; dashed where its bandwidth is not known."""
    ax.plot(
        xs,
        ys,
        color=color,
        linewidth=width_pt,
        linestyle="-" if known else (0, (2.5, 1.5)),
        solid_capstyle="butt",
        zorder=2,
    )

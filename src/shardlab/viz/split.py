"""The gated MLP over T ranks: which columns and rows each rank holds, and where the one all-reduce is."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from shardlab.theory.split import even_split
from shardlab.viz.style import INK, MUTED, REPLICATED, blank, canvas, ink_on, rank_color, styled

_ROWS, _D, _F = 0.62, 1.25, 2.3  # drawn sizes of B*S, D and F: F is larger than D, as it is in a model


@styled
def mlp_split(tp: int, d_ff: int = 64) -> Figure:
    """gate, up [D,F_tp] by columns, down [F_tp,D] by rows: out[B,S,D]{tp}, then one all_reduce.

    `tp` ranks share d_ff columns as evenly as they go. Raises ValueError for tp outside 1..8.
    """
    if not 1 <= tp <= 8:
        raise ValueError(f"tp={tp}: the drawing shows 1..8 ranks")
    figure = blank(4.1)
    ax = figure.subplots()
    canvas(ax, 10.2, 5.95)
    _column_step(ax, tp, d_ff, top=0.75)
    _row_step(ax, tp, d_ff, top=3.6)
    return figure


def _column_step(ax: Axes, tp: int, d_ff: int, top: float) -> None:
    _heading(ax, top, "1  by columns: x on every rank, no bytes sent")
    _box(ax, 0.1, top, _D, _ROWS, REPLICATED, "x")
    _below(ax, 0.1, top + _ROWS, _D, "[B,S,D]")
    _sign(ax, 1.62, top + _ROWS / 2, "·")
    _columns(ax, 1.9, top, _D, d_ff, tp, "gate, up")
    _below(ax, 1.9, top + _D, _F, "[D,F$_{tp}$]")
    _sign(ax, 4.62, top + _ROWS / 2, "=")
    _columns(ax, 5.05, top, _ROWS, d_ff, tp, "h")
    _below(ax, 5.05, top + _ROWS, _F, "h = silu(x·gate) * (x·up)\n[B,S,F$_{tp}$]")
    if tp > 1:
        _note(ax, 7.75, top, "Each rank has whole columns\nof h, so silu needs nobody\nelse's numbers.")


def _row_step(ax: Axes, tp: int, d_ff: int, top: float) -> None:
    sent = "then one all_reduce" if tp > 1 else "one rank: nothing to add up, no all_reduce"
    _heading(ax, top, f"2  by rows: h stays where it is, {sent}")
    middle = top + 0.55
    _columns(ax, 0.1, middle, _ROWS, d_ff, tp, "h")
    _below(ax, 0.1, middle + _ROWS, _F, "[B,S,F$_{tp}$]")
    _sign(ax, 2.62, middle + _ROWS / 2, "·")
    start = top - 0.1
    for rank, part in enumerate(even_split(d_ff, tp)):
        height = _F * 0.8 * len(part) / d_ff
        _box(ax, 2.9, start, _D, height, rank_color(rank), str(rank))
        start += height
    _below(ax, 2.9, start, _D, "down [F$_{tp}$,D]")
    _sign(ax, 4.42, middle + _ROWS / 2, "=")
    step = min(0.2, 0.9 / tp)
    for rank in reversed(range(tp)):
        shift = step * rank
        _box(
            ax,
            4.75 + shift,
            middle - 0.25 + shift,
            _D,
            _ROWS,
            rank_color(rank),
            str(rank) if rank == 0 else "",
        )
    right, lowest = 4.75 + step * (tp - 1) + _D, middle - 0.25 + step * (tp - 1) + _ROWS
    _below(ax, 4.75, lowest, right - 4.75, "partial [B,S,D]{tp}" if tp > 1 else "out [B,S,D]")
    if tp == 1:
        return
    ax.add_patch(
        FancyArrowPatch(
            (right + 0.12, middle + 0.3),
            (8.72, middle + 0.3),
            arrowstyle="-|>",
            mutation_scale=14,
            color=INK,
            lw=1.4,
        )
    )
    ax.text((right + 8.72) / 2 + 0.05, middle + 0.18, "all_reduce", ha="center", va="bottom", fontsize=9.5)
    ax.text(
        (right + 8.72) / 2 + 0.05,
        middle + 0.42,
        f"adds {tp} partials",
        ha="center",
        va="top",
        fontsize=9,
        color=MUTED,
    )
    _box(ax, 8.85, middle - 0.02, _D, _ROWS, REPLICATED, "out")
    _below(ax, 8.85, middle - 0.02 + _ROWS, _D, "[B,S,D]")


def _columns(ax: Axes, left: float, top: float, height: float, d_ff: int, tp: int, name: str) -> None:
    ax.text(
        left + _F / 2, top - 0.08, name, ha="center", va="bottom", fontsize=10, style="italic"
    ) if height == _D else None
    for rank, part in enumerate(even_split(d_ff, tp)):
        width = _F * len(part) / d_ff
        _box(ax, left, top, width, height, rank_color(rank), str(rank))
        left += width


def _box(ax: Axes, left: float, top: float, width: float, height: float, color: str, label: str) -> None:
    ax.add_patch(Rectangle((left, top), width, height, facecolor=color, edgecolor="white", linewidth=1.2))
    ax.text(left + width / 2, top + height / 2, label, ha="center", va="center", fontsize=10, color=ink_on(color))


def _below(ax: Axes, left: float, top: float, width: float, text: str) -> None:
    ax.text(left + width / 2, top + 0.08, text, ha="center", va="top", fontsize=9.5)


def _sign(ax: Axes, x: float, y: float, sign: str) -> None:
    ax.text(x, y, sign, ha="center", va="center", fontsize=15)


def _heading(ax: Axes, top: float, text: str) -> None:
    ax.text(0.1, top - 0.42, text, ha="left", va="bottom", fontsize=10.5, weight="bold")


def _note(ax: Axes, x: float, y: float, text: str) -> None:
    ax.text(x, y, text, ha="left", va="top", fontsize=9, color=MUTED)

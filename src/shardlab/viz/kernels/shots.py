"""All-reduce over memory that all ranks can read: what one rank reads, in one shot and in two."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from shardlab.viz.style import GRID, INK, PETROFF, blank, styled

_OWN, _READ, _SUM = PETROFF[9], PETROFF[0], PETROFF[1]


@styled
def shots(ranks: int) -> Figure:
    """Buffers of all ranks, a row each, in `ranks` slices. Coloured: what rank 0 reads, of itself and of its peers.

    One shot: all of them. Two shots: first its slice of each, then the finished sums of the others.
    Raises ValueError for ranks outside 2..8.
    """
    if not 2 <= ranks <= 8:
        raise ValueError(f"ranks={ranks}: the drawing shows 2..8")
    figure = blank(2.75)
    one, first, second = figure.subplots(1, 3)
    peers, part = ranks - 1, f"{ranks - 1}/{ranks}"
    _buffers(one, ranks, [(rank, slot, _READ) for rank in range(1, ranks) for slot in range(ranks)])
    _own(one, [(0, slot) for slot in range(ranks)])
    one.set_title("one shot")
    one.set_xlabel(f"rank 0 reads {peers} S")
    _buffers(first, ranks, [(rank, 0, _READ) for rank in range(1, ranks)])
    _own(first, [(0, 0)])
    first.set_title("two shots: 1, its slice")
    first.set_xlabel(f"rank 0 reads {part} S")
    _buffers(second, ranks, [(rank, rank, _SUM) for rank in range(1, ranks)])
    _own(second, [(0, 0)])
    second.set_title("2, the others' sums")
    second.set_xlabel(f"rank 0 reads {part} S")
    return figure


def _buffers(ax: Axes, ranks: int, read: list[tuple[int, int, str]]) -> None:
    colors = {(rank, slot): color for rank, slot, color in read}
    for rank in range(ranks):
        for slot in range(ranks):
            color = colors.get((rank, slot), "white")
            cell = Rectangle((slot + 0.05, rank + 0.1), 0.9, 0.8, facecolor=color, edgecolor=GRID, linewidth=0.9)
            if color == _SUM:
                cell.set_hatch("///")
                cell.set_edgecolor("white")
            ax.add_patch(cell)
    ax.set_xlim(-0.05, ranks + 0.05)
    ax.set_ylim(ranks, 0)
    ax.set_xticks([])
    ax.set_yticks([rank + 0.5 for rank in range(ranks)], [f"rank {rank}" for rank in range(ranks)])
    ax.tick_params(length=0)
    ax.xaxis.label.set_color(INK)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)


def _own(ax: Axes, cells: list[tuple[int, int]]) -> None:
    for rank, slot in cells:
        ax.add_patch(Rectangle((slot + 0.05, rank + 0.1), 0.9, 0.8, facecolor=_OWN, edgecolor="white", linewidth=0.9))
        ax.text(slot + 0.5, rank + 0.5, "own", ha="center", va="center", fontsize=9)

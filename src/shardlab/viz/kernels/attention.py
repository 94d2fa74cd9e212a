"""Flash attention in one picture: the tiles that are computed, and the bytes that never reach memory."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Patch, Rectangle

from shardlab.theory.units import decimal_bytes_text
from shardlab.viz.style import GRID, INK, PETROFF, blank, ink_on, styled

_WHOLE, _MASKED = PETROFF[0], PETROFF[1]
_ROW = 5  # the row that is pointed out


@styled
def attention_tiles(tiles: int, written_out_bytes: float, flash_bytes: float) -> Figure:
    """Left: tiles x tiles of the causal scores, one row a block. Right: bytes with the scores written out, and without.

    Raises ValueError for fewer than 6 tiles a side or more than 12, or bytes that are not above 0.
    """
    if not _ROW < tiles <= 12 or min(written_out_bytes, flash_bytes) <= 0:
        raise ValueError(f"tiles={tiles}, bytes {written_out_bytes} and {flash_bytes}: 6..12 tiles and bytes above 0")
    figure = blank(3.5)
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1.0))
    _tiles(left, tiles)
    _bytes(right, written_out_bytes, flash_bytes)
    handles = [
        Patch(facecolor=_WHOLE, edgecolor="white", label="computed"),
        Patch(facecolor=_MASKED, edgecolor="white", hatch="///", label="computed, half of it masked"),
        Patch(facecolor="white", edgecolor=GRID, label="after the query: skipped"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _tiles(ax: Axes, tiles: int) -> None:
    for row in range(tiles):
        for column in range(tiles):
            color = _WHOLE if column < row else _MASKED if column == row else "white"
            cell = Rectangle((column + 0.05, row + 0.05), 0.9, 0.9, facecolor=color, linewidth=0.8)
            cell.set_edgecolor(GRID if column > row else "white")
            if column == row:
                cell.set_hatch("///")
            ax.add_patch(cell)
    ax.add_patch(Rectangle((-0.04, _ROW - 0.04), _ROW + 1.08, 1.08, facecolor="none", edgecolor=INK, linewidth=1.6))
    arrow = FancyArrowPatch((0.25, _ROW + 0.5), (_ROW - 0.1, _ROW + 0.5), arrowstyle="-|>", mutation_scale=13, lw=1.8)
    arrow.set_color(ink_on(_WHOLE))
    ax.add_patch(arrow)
    ax.text(tiles + 0.1, _ROW + 0.5, "one block", ha="left", va="center", fontsize=9.5, color=INK)
    ax.set_xlim(-0.1, tiles + 2.4)
    ax.set_ylim(tiles + 0.1, -0.1)
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    ax.set_xlabel("tiles of keys and values", loc="left")
    ax.set_ylabel("tiles of queries")


def _bytes(ax: Axes, written_out_bytes: float, flash_bytes: float) -> None:
    names = ("scores\nwritten out", "flash\nattention")
    for place, (value, color) in enumerate(((written_out_bytes, PETROFF[3]), (flash_bytes, _WHOLE))):
        ax.bar(place, value, 0.6, color=color)
        ax.annotate(
            decimal_bytes_text(value),
            (place, value),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=10,
        )
    ax.set_xticks((0, 1), names)
    ax.tick_params(axis="x", length=0)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set_xlim(-0.6, 1.6)
    ax.set_ylim(0, 1.12 * max(written_out_bytes, flash_bytes))
    ax.set_title("moved, one layer")

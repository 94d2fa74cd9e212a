"""Flash-Decoding in pictures: which SMs have a block to run, and how the time follows the number of splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from shardlab.viz.curves import plain_tick
from shardlab.viz.style import GRID, INK, MUTED, PETROFF, blank, ink_on, styled

COLUMNS = 12
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)))


@dataclass(frozen=True)
class Busy:
    """One state of the GPU: blocks[i] is the KV head that the block on SM i works for; the other SMs stand idle."""

    title: str
    blocks: Sequence[int]
    note: str = ""


@dataclass(frozen=True)
class Splits:
    """A line: (splits, times longer than memory allows) for one batch."""

    label: str
    points: Sequence[tuple[int, float]]


@styled
def busy_sms(states: Sequence[Busy], num_sms: int) -> Figure:
    """A square an SM, coloured and numbered by KV head. A grid, not the floor plan of the chip.

    Raises ValueError for no state, more than two, or more blocks than SMs: a second round can't be drawn.
    """
    if not 1 <= len(states) <= 2:
        raise ValueError(f"{len(states)} states: one or two fit side by side")
    for state in states:
        if len(state.blocks) > num_sms:
            raise ValueError(f"{state.title!r}: {len(state.blocks)} blocks on {num_sms} SMs: one round can be drawn")
    figure = blank(3.75)
    for ax, state in zip(figure.subplots(1, len(states), squeeze=False)[0], states, strict=True):
        _grid(ax, state, num_sms)
    return figure


@styled
def split_times(lines: Sequence[Splits]) -> Figure:
    """How many times longer than memory allows, over the number of splits: one line a batch. ValueError for none."""
    if not 1 <= len(lines) <= len(_DASHES) or not all(line.points for line in lines):
        raise ValueError(f"one to {len(_DASHES)} lines with points are needed")
    figure = blank(3.3)
    ax = figure.subplots()
    for place, line in enumerate(lines):
        x, y = zip(*line.points, strict=True)
        ax.plot(x, y, color=PETROFF[(0, 2, 4)[place]], linestyle=_DASHES[place], label=line.label, zorder=3)
    ax.axhline(1, color=MUTED, linewidth=1.0, zorder=1)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    most = max(splits for line in lines for splits, _ in line.points)
    ax.xaxis.set_major_locator(FixedLocator([2**power for power in range(most.bit_length())]))
    ax.yaxis.set_major_locator(FixedLocator([1, 2, 4, 8, 16]))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(plain_tick))
        axis.set_minor_locator(NullLocator())
    ax.set_xlim(1, most)
    ax.set_ylim(0.9, 1.15 * max(times for line in lines for _, times in line.points))
    ax.set_xlabel("splits of the KV cache")
    ax.set_ylabel("times longer than\nmemory allows")
    ax.grid(True)
    ax.legend(loc="upper right")
    return figure


def _grid(ax: Axes, state: Busy, num_sms: int) -> None:
    rows = -(-num_sms // COLUMNS)
    for sm in range(num_sms):
        row, column = divmod(sm, COLUMNS)
        busy = sm < len(state.blocks)
        color = PETROFF[state.blocks[sm] % len(PETROFF)] if busy else "#f1f1f1"
        edge = "white" if busy else GRID
        ax.add_patch(Rectangle((column + 0.06, row + 0.06), 0.88, 0.88, facecolor=color, edgecolor=edge, linewidth=0.8))
        if busy:
            head = str(state.blocks[sm])
            ink = ink_on(color)
            ax.text(column + 0.5, row + 0.52, head, ha="center", va="center_baseline", fontsize=9, color=ink)
    ax.set_xlim(0, COLUMNS)
    ax.set_ylim(rows + 0.95, 0)
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(state.title)
    ax.text(0.06, rows + 0.25, state.note, ha="left", va="top", fontsize=9.5, color=INK)

"""Passes over memory: a formula written out line by line against the same formula as one kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from shardlab.viz.sheet import fit, sheet
from shardlab.viz.style import INK, MUTED, PETROFF, styled

_READ, _WRITE = PETROFF[0], PETROFF[1]
_LEFT, _BAR, _STEP, _GAP = 1.5, 0.27, 0.56, 0.27


@dataclass(frozen=True)
class Passes:
    """A kernel: steps (name, reads, writes) when written out, and (reads, writes) when fused, in tensors' sizes."""

    name: str
    steps: Sequence[tuple[str, float, float]]
    fused: tuple[float, float]


@styled
def passes(kernels: Sequence[Passes]) -> Figure:
    """Two bars a kernel, a square a tensor read or written: written out with its steps, and in one pass.

    Raises ValueError for no kernel, or one without steps.
    """
    if not kernels or not all(kernel.steps for kernel in kernels):
        raise ValueError("passes wants at least one kernel, each with steps")
    height = 0.45 + len(kernels) * (_STEP + _BAR + _GAP) - 0.1
    figure, ax = sheet(height)
    most = max(sum(read + written for _, read, written in kernel.steps) for kernel in kernels)
    unit = (7.0 - _LEFT - 0.55) / most
    handles = [Patch(color=_READ, label="read once"), Patch(color=_WRITE, label="written once")]
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(_LEFT / 7.0 - 0.012, 1.0), ncols=2, borderaxespad=0.4)
    top = 0.45
    for kernel in kernels:
        _kernel(ax, kernel, top, unit)
        top += _STEP + _BAR + _GAP
    return figure


def _kernel(ax: Axes, kernel: Passes, top: float, unit: float) -> None:
    ax.text(0.1, top + _BAR / 2, kernel.name, ha="left", va="center", fontsize=10, weight="bold")
    at = _LEFT
    for name, read, written in kernel.steps:
        end = _strip(ax, at, top, read, written, unit)
        text = fit((name, name.replace("times ", "· ")), end - at + 0.1)
        ax.text((at + end) / 2, top + _BAR + 0.05, text, ha="center", va="top", fontsize=9, color=MUTED)
        at = end
    number = sum(read + written for _, read, written in kernel.steps)
    ax.text(at + 0.1, top + _BAR / 2, f"{number:g}", ha="left", va="center", fontsize=11, color=INK)
    top += _STEP
    ax.text(0.1, top + _BAR / 2, "one pass", ha="left", va="center", fontsize=10)
    at = _strip(ax, _LEFT, top, *kernel.fused, unit)
    ax.text(at + 0.1, top + _BAR / 2, f"{sum(kernel.fused):g}", ha="left", va="center", fontsize=11, color=INK)


def _strip(ax: Axes, at: float, top: float, read: float, written: float, unit: float) -> float:
    """Squares for what is read, then for what is written, with a gap behind. -> where the next one starts."""
    for amount, color in ((read, _READ), (written, _WRITE)):
        left = amount
        while left > 0:
            width = min(1.0, left) * unit
            ax.add_patch(Rectangle((at, top), width - 0.03, _BAR, facecolor=color, edgecolor="none"))
            at += width
            left -= 1.0
    return at

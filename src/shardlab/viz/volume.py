"""Bytes sent against T, D, batch, ...: the formula as a line, what went over the wire as points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from shardlab.viz.style import MEASURED, THEORY, blank, bytes_tick, styled

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Sweep:
    """One knob turned: `formula` and `wire` are (knob, bytes) pairs. `held` says what stayed as it was."""

    knob: str
    formula: Points
    wire: Points = ()
    held: str = ""
    log: bool = True


@styled
def volume(sweeps: Sequence[Sweep], ylabel: str = "bytes that a rank sends") -> Figure:
    """One panel a sweep, side by side on one scale of bytes. Raises ValueError for none, or more than
    three."""
    if not 1 <= len(sweeps) <= 3:
        raise ValueError(f"{len(sweeps)} sweeps: one to three panels fit a page")
    figure = blank(3.1)
    axes: list[Axes] = list(figure.subplots(1, len(sweeps), sharey=True, squeeze=False)[0])
    for ax, sweep in zip(axes, sweeps, strict=True):
        _panel(ax, sweep)
    axes[0].set_ylabel(ylabel)
    handles, labels = max((ax.get_legend_handles_labels() for ax in axes), key=lambda pair: len(pair[1]))
    figure.legend(handles, labels, loc="outside upper right", ncols=2)
    return figure


def _panel(ax: Axes, sweep: Sweep) -> None:
    knobs, num_bytes = zip(*sweep.formula, strict=True)
    ax.plot(knobs, num_bytes, label="formula", **THEORY)
    if sweep.wire:
        x, y = zip(*sweep.wire, strict=True)
        ax.plot(x, y, label="on the wire", **MEASURED)
    if sweep.log:
        ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=10)
    ticks = sorted({float(x) for x, _ in sweep.wire or sweep.formula})
    while len(ticks) > 6:
        ticks = ticks[::2]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(bytes_tick))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(sweep.knob)
    if sweep.held:
        ax.set_title(sweep.held, fontsize=9)
    ax.grid(True)

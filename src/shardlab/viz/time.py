"""Time of a forward: measured, beside the two bounds T_lower = max(math, comms) and T_upper = math +
comms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from shardlab.measure.timer import Stats
from shardlab.theory.roofline import Times
from shardlab.viz.style import LINE, MEASURED, POINT, blank, seconds_tick, styled


@dataclass(frozen=True)
class Timed:
    """One forward on `tp` ranks, in seconds: the predicted bounds, and the measured median with p10 and
    p90."""

    tp: int
    lower_s: float
    upper_s: float
    median_s: float | None = None
    p10_s: float | None = None
    p90_s: float | None = None


def timed(tp: int, bounds: Times, samples_s: Sequence[Sequence[float]]) -> Timed:
    """The bounds beside samples_s[rank][round], in seconds: a round has ended when its last rank has.

    Raises ValueError where ranks took different numbers of rounds, or none.
    """
    stats = Stats(tuple(max(one_round) for one_round in zip(*samples_s, strict=True)))
    return Timed(tp, bounds.lower_s, bounds.upper_s, stats.median_s, stats.p10_s, stats.p90_s)


@styled
def forward_time(phases: Mapping[str, Sequence[Timed]]) -> Figure:
    """One panel a phase (prefill, decode): a bar from T_lower to T_upper for each T, the measurement as a point.

    Raises ValueError for no phase, more than three, or an empty one.
    """
    if not 1 <= len(phases) <= 3 or not all(phases.values()):
        raise ValueError("forward_time wants one to three phases, each with at least one Timed")
    figure = blank(3.2)
    axes: list[Axes] = list(figure.subplots(1, len(phases), squeeze=False)[0])
    for ax, (name, timed) in zip(axes, phases.items(), strict=True):
        _panel(ax, name, timed)
    axes[0].set_ylabel("time of one forward")
    figure.legend(
        [Patch(color=LINE, alpha=0.45), Line2D([], [], **MEASURED)],
        ["predicted: T_lower to T_upper", "measured: median, p10 to p90"],
        loc="outside lower center",
        ncols=2,
    )
    return figure


def _panel(ax: Axes, name: str, timed: Sequence[Timed]) -> None:
    top = 0.0
    for place, entry in enumerate(timed):
        height = max(entry.upper_s - entry.lower_s, 0.0)
        ax.bar(place, height, 0.62, bottom=entry.lower_s, color=LINE, alpha=0.45)
        for bound in (entry.lower_s, entry.upper_s):
            ax.plot([place - 0.31, place + 0.31], [bound, bound], color=LINE, linewidth=1.6)
        top = max(top, entry.upper_s, entry.p90_s or 0.0, entry.median_s or 0.0)
        if entry.median_s is None:
            continue
        low = entry.median_s if entry.p10_s is None else entry.p10_s
        high = entry.median_s if entry.p90_s is None else entry.p90_s
        ax.plot([place, place], [low, high], color=POINT, linewidth=1.4, zorder=3)
        ax.plot([place], [entry.median_s], **MEASURED)
    ax.set_xticks(range(len(timed)), [str(entry.tp) for entry in timed])
    ax.set_xlim(-0.6, len(timed) - 0.4)
    ax.set_ylim(0, top * 1.12)
    ax.yaxis.set_major_formatter(FuncFormatter(seconds_tick))
    ax.set_xlabel("T, ranks on the tp axis")
    ax.set_title(name)
    ax.grid(axis="y")

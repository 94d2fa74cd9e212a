"""A forecast and what came: one panel a workload, a bar for what was predicted of each plan, a point for its clock."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from shardlab.viz.curves import TICKS
from shardlab.viz.style import LINE, MEASURED, POINT, blank, styled

_TITLE_LETTERS = 72  # of all panels' titles in one line of the page


@dataclass(frozen=True)
class Forecast:
    """One plan: predicted, and measured as (median, p10, p90), in the figure's unit."""

    label: str
    predicted: float
    measured: tuple[float, float, float] | None = None


@styled
def forecasts(panels: Mapping[str, Sequence[Forecast]], ylabel: str, unit: str = "seconds") -> Figure:
    """One to four panels of bars and points, each on its own scale. Raises ValueError for other numbers of panels."""
    if not 1 <= len(panels) <= 4 or not all(panels.values()):
        raise ValueError("forecasts wants one to four panels, each with at least one plan")
    if unit not in TICKS:
        raise ValueError(f"unit={unit!r}; allowed: {', '.join(TICKS)}")
    figure = blank(3.3)
    axes: list[Axes] = list(figure.subplots(1, len(panels), squeeze=False)[0])
    for ax, (title, plans) in zip(axes, panels.items(), strict=True):
        top = 0.0
        for place, plan in enumerate(plans):
            ax.bar(place, plan.predicted, 0.62, color=LINE, alpha=0.55)
            top = max(top, plan.predicted)
            if plan.measured is not None:
                median, low, high = plan.measured
                ax.plot([place, place], [low, high], color=POINT, linewidth=1.4, zorder=3)
                ax.plot([place], [median], **MEASURED)
                top = max(top, high)
        ax.set_xticks(range(len(plans)), [plan.label for plan in plans])
        ax.set_ylim(0, top * 1.12)
        ax.yaxis.set_major_formatter(FuncFormatter(TICKS[unit]))
        ax.set_title(textwrap.fill(title, _TITLE_LETTERS // len(panels)), fontsize=9.5)
        ax.grid(axis="y")
    axes[0].set_ylabel(ylabel)
    figure.legend(
        [Patch(color=LINE, alpha=0.55), Line2D([], [], **MEASURED)],
        ["predicted", "measured: median, p10 to p90"],
        loc="outside lower center",
        ncols=2,
    )
    return figure

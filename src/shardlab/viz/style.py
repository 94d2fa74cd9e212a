"""One look for every figure: sizes, colours, and what a line and a point mean.

Lines are theory, points are measurements. petroff10 tells its ten colours apart for colour-blind
readers, cividis does the same for maps. The card behind a figure is white, so that it reads on a light
page and on a dark one. Figures are matplotlib Figure objects made without pyplot: no state is left
behind, no window opens.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import matplotlib.style
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shardlab.theory.units import decimal_bytes_text, seconds_text

P = ParamSpec("P")

WIDTH_IN = 7.0
INK = "#222222"
MUTED = "#6b6b6b"
REPLICATED = "#e4e4e4"  # what every rank holds a copy of
GRID = "#d9d9d9"
MAP = "cividis"
PETROFF = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
_DARK = {"#bd1f01", "#832db6", "#717581", "#a96b59"}  # white letters read better on these

_SETTINGS: dict[str, Any] = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "figure.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 6.5,
    "axes.prop_cycle": cycler(color=PETROFF),
}

LINE, POINT = PETROFF[0], PETROFF[2]  # a theory, a measurement

# Keyword arguments for Axes.plot: the meaning of a mark is the same in every figure.
THEORY: dict[str, Any] = {"color": LINE, "linestyle": "-", "marker": "", "zorder": 2}
MEASURED: dict[str, Any] = {
    "color": POINT,
    "linestyle": "",
    "marker": "o",
    "markeredgecolor": "white",
    "zorder": 4,
}


def styled(figure: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a figure function under the house style. The reader's own rcParams are left as they were."""

    @wraps(figure)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.style.context(["default", _SETTINGS]):
            return figure(*args, **kwargs)

    return wrapped


def blank(height_in: float) -> Figure:
    """An empty figure of page width, which lays itself out so that nothing is cut off."""
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.07, h_pad=0.07)  # type: ignore[union-attr, call-arg]
    return figure


def rank_color(rank: int) -> str:
    """The colour of a rank in every figure. It repeats after ten, so ranks also carry their number."""
    return PETROFF[rank % len(PETROFF)]


def ink_on(color: str) -> str:
    """Black or white: what can be read on that fill."""
    return "white" if color in _DARK else "black"


def canvas(ax: Axes, width: float, height: float) -> None:
    """Turn an Axes into a sheet to draw on: no frame, equal units, origin at the top left."""
    ax.set_axis_off()
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)


def bytes_tick(value: float, _position: int | None = None) -> str:
    """A tick label: 40000000 -> "40 MB"."""
    return _tick(value, decimal_bytes_text(value))


def seconds_tick(value: float, _position: int | None = None) -> str:
    """A tick label: 0.05 -> "50 ms"."""
    return _tick(value, seconds_text(value))


def _tick(value: float, text: str) -> str:
    number, unit = text.split()
    return f"{float(number.replace(',', '')):g} {unit}" if value else "0"

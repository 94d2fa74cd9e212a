"""Curves over sizes: theory as lines, measurements as points with their spread, up to three panels side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from shardlab.theory.units import bandwidth_text, bytes_text
from shardlab.viz.style import INK, MUTED, PETROFF, blank, bytes_tick, seconds_tick, styled

Pair = tuple[float, float]
_FEW_DECADES = 300
_MARKERS = "osD^vPX<"  # a curve has its own mark, so that it is known without its colour


def bandwidth_tick(value: float, _position: int | None = None) -> str:
    """A tick label: 2e9 -> "2 GB/s"."""
    number, unit = bandwidth_text(value).split()
    return f"{float(number.replace(',', '')):g} {unit}" if value else "0"


def size_tick(value: float, _position: int | None = None) -> str:
    """A tick label for sizes that are powers of two: 65536 -> "64 KiB"."""
    number, unit = bytes_text(value).split()
    return f"{float(number.replace(',', '')):g} {unit}"


def percent_tick(value: float, _position: int | None = None) -> str:
    """A tick label: 0.15 -> "+15 %"."""
    return f"{value * 100:+.0f} %" if value else "0"


def plain_tick(value: float, _position: int | None = None) -> str:
    return f"{value:g}"


Tick = Callable[..., str]  # what a FuncFormatter takes: (value, position)
TICKS: dict[str, Tick] = {
    "seconds": seconds_tick,
    "bytes": bytes_tick,
    "sizes": size_tick,
    "bandwidth": bandwidth_tick,
    "percent": percent_tick,
    "number": plain_tick,
}


@dataclass(frozen=True)
class Curve:
    """One contender: `line` is predicted, `points` are measured (x, y) or (x, y, low, high)."""

    label: str
    line: Sequence[Pair] = ()
    points: Sequence[tuple[float, ...]] = ()
    color: int | None = None  # the place in the palette; None: the next one
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes. `x` and `y` name a unit of TICKS; `marks` are upright lines with a word beside them.

    `band` shades -band..+band on the y axis: how far off is still called good.
    """

    curves: Sequence[Curve]
    title: str = ""
    xlabel: str = ""
    ylabel: str = ""
    x: str = "sizes"
    y: str = "seconds"
    logx: bool = True
    logy: bool = True
    marks: Sequence[tuple[float, str]] = field(default=())
    band: float = 0.0


@styled
def curves(
    panels: Sequence[Panel] | Panel, height_in: float = 3.6, columns: int = 3, *, share_y: bool = False
) -> Figure:
    """The panels side by side over one legend, which names each label once; share_y for one scale of all.

    Raises ValueError for no panel, more than three, an empty one, or a unit that has no tick format.
    """
    panels = [panels] if isinstance(panels, Panel) else list(panels)
    if not 1 <= len(panels) <= 3 or not all(panel.curves for panel in panels):
        raise ValueError("curves wants one to three panels, each with at least one curve")
    for panel in panels:
        for axis, unit in (("x", panel.x), ("y", panel.y)):
            if unit not in TICKS:
                raise ValueError(f"{axis}={unit!r}; allowed: {', '.join(TICKS)}")
    figure = blank(height_in)
    axes: list[Axes] = list(figure.subplots(1, len(panels), squeeze=False, sharey=share_y)[0])
    styles: dict[str, int] = {}
    handles: dict[str, Artist] = {}
    for ax, panel in zip(axes, panels, strict=True):
        _panel(ax, panel, styles, handles)
    if len(handles) > 1 or next(iter(handles)):
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns)
    return figure


def _panel(ax: Axes, panel: Panel, styles: dict[str, int], handles: dict[str, Artist]) -> None:
    for curve in panel.curves:
        place = curve.color if curve.color is not None else styles.setdefault(curve.label, len(styles))
        handle = _curve(ax, curve, place)
        if curve.label not in handles or curve.points:
            handles[curve.label] = handle
    if panel.logx:
        ax.set_xscale("log", base=2 if panel.x == "sizes" else 10)
    if panel.logy:
        ax.set_yscale("log")
        low, high = ax.get_ylim()
        if high / low < _FEW_DECADES:  # powers of ten alone would leave one tick, or none
            ax.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_minor_formatter(NullFormatter())
    if panel.logx and panel.x == "sizes":
        ax.xaxis.set_major_locator(LogLocator(base=2, numticks=5))
        ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(TICKS[panel.x]))
    ax.yaxis.set_major_formatter(FuncFormatter(TICKS[panel.y]))
    if panel.band:
        ax.axhspan(-panel.band, panel.band, color="#e4e4e4", zorder=0, linewidth=0)
        ax.axhline(0, color=MUTED, linewidth=0.8, zorder=1)
    for at, word in panel.marks:
        ax.axvline(at, color=MUTED, linewidth=1.0, linestyle=":", zorder=1)
        ax.annotate(
            word,
            (at, 0.99),
            xycoords=("data", "axes fraction"),
            xytext=(3, 0),
            textcoords="offset points",
            rotation=90,
            va="top",
            fontsize=9,
            color=INK,
        )
    ax.set_xlabel(panel.xlabel)
    ax.set_ylabel(panel.ylabel)
    ax.set_title(panel.title, fontsize=9.5)
    ax.grid(True)


def _curve(ax: Axes, curve: Curve, place: int) -> Artist:
    color = PETROFF[place % len(PETROFF)]
    x, y = zip(*curve.line, strict=True) if curve.line else ((), ())
    (handle,) = ax.plot(x, y, color=color, linestyle="--" if curve.dashed else "-", zorder=2)
    if curve.points:
        for point in curve.points:
            if len(point) == 4:
                ax.plot([point[0]] * 2, point[2:], color=color, linewidth=1.2, zorder=3)
        (handle,) = ax.plot(
            [point[0] for point in curve.points],
            [point[1] for point in curve.points],
            color=color,
            linestyle="",
            marker=_MARKERS[place % len(_MARKERS)],
            markersize=5.5,
            markeredgecolor="white",
            markeredgewidth=0.6,
            zorder=4,
        )
    return handle

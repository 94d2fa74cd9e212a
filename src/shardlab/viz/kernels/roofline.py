"""The roofline: what a kernel can reach, by how much it computes for a byte. Hollow: predicted. Filled: measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from shardlab.viz.curves import plain_tick
from shardlab.viz.style import INK, MUTED, PETROFF, THEORY, blank, styled

_MARKERS = "osD^vP"


@dataclass(frozen=True)
class Reach:
    """A kernel on the plot: FLOPs a byte and FLOP/s. `group` has one colour and mark, for what was measured.

    words: on which side of a predicted mark its label stands, (-1 left or 1 right, -1 below or 1 above).
    """

    label: str
    intensity: float
    flops_per_s: float
    group: str = ""
    measured: bool = False
    words: tuple[int, int] = (1, -1)


@styled
def roofline(
    kernels: Sequence[Reach],
    *,
    hbm_Bps: float,
    bf16_flops: float,
    roof: str,
    reached: tuple[float, float] | None = None,
    reached_roof: str = "",
) -> Figure:
    """The roof min(bf16_flops, intensity * hbm_Bps) and the kernels. Predicted ones are named beside their mark.

    reached: (bytes/s, FLOP/s) of the copy and the matrix product timed beside the kernels, a second roof, dashed.
    Raises ValueError for no kernel, or one that is not above 0.
    """
    if not kernels or min(min(one.intensity, one.flops_per_s) for one in kernels) <= 0:
        raise ValueError("roofline wants at least one kernel, with FLOPs a byte and FLOP/s above 0")
    figure = blank(4.4)
    ax = figure.subplots()
    low = min(0.4, 0.7 * min(one.intensity for one in kernels))
    high = max(8000.0, 2 * max(one.intensity for one in kernels))
    _roof(ax, (low, high), hbm_Bps, bf16_flops, label=roof, **THEORY)
    if reached:
        style = {"color": MUTED, "linestyle": "--", "linewidth": 1.3}
        _roof(ax, (low, high), *reached, label=reached_roof, **style)
    ridge = bf16_flops / hbm_Bps
    ax.axvline(ridge, color=MUTED, linewidth=1.0, linestyle=":", zorder=1)
    for side, text in ((-1, "memory decides"), (1, "arithmetic decides")):
        where = {"xytext": (6 * side, 0), "textcoords": "offset points", "xycoords": ("data", "axes fraction")}
        ax.annotate(text, (ridge, 0.06), ha="right" if side < 0 else "left", va="center", color=MUTED, **where)
    _predicted(ax, [one for one in kernels if not one.measured])
    _measured(ax, [one for one in kernels if one.measured])
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(low, high)
    least = min(low * hbm_Bps, min(one.flops_per_s for one in kernels))
    ax.set_ylim(0.6 * least, 2.5 * bf16_flops)
    ax.yaxis.set_major_locator(LogLocator(base=10))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e12:g}"))
    ax.xaxis.set_major_formatter(FuncFormatter(plain_tick))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("arithmetic intensity (FLOPs a byte)")
    ax.set_ylabel("attainable TFLOP/s")
    ax.grid(True)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _roof(ax: Axes, span: tuple[float, float], hbm_Bps: float, flops: float, **style: object) -> None:
    low, high = span
    ax.plot([low, flops / hbm_Bps, high], [low * hbm_Bps, flops, flops], **style)  # type: ignore[arg-type]


def _predicted(ax: Axes, kernels: Sequence[Reach]) -> None:
    for number, one in enumerate(kernels):
        ax.plot(
            [one.intensity],
            [one.flops_per_s],
            linestyle="",
            marker="o",
            markersize=7,
            markerfacecolor="white",
            markeredgecolor=PETROFF[0],
            markeredgewidth=1.6,
            zorder=3,
            label="predicted" if number == 0 else "_",
        )
        ax.annotate(
            one.label,
            (one.intensity, one.flops_per_s),
            xytext=(7 * one.words[0], 5 * one.words[1]),
            textcoords="offset points",
            ha="right" if one.words[0] < 0 else "left",
            va="bottom" if one.words[1] > 0 else "top",
            fontsize=9,
            color=INK,
        )


def _measured(ax: Axes, kernels: Sequence[Reach]) -> None:
    groups = list(dict.fromkeys(one.group for one in kernels))
    for place, group in enumerate(groups):
        own = [one for one in kernels if one.group == group]
        ax.plot(
            [one.intensity for one in own],
            [one.flops_per_s for one in own],
            color=PETROFF[(2, 4, 1, 5, 8, 6)[place % 6]],
            linestyle="",
            marker=_MARKERS[place % len(_MARKERS)],
            markersize=6.5,
            markeredgecolor="white",
            markeredgewidth=0.6,
            zorder=4,
            label=f"measured: {group}",
        )

"""When more ranks stop helping: a decode step reads weights, which falls as 1/T, and waits for its all-reduces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from shardlab.theory.units import seconds_text
from shardlab.viz.style import INK, MUTED, PETROFF, blank, seconds_tick, styled


@styled
def decode_step(
    degrees: Sequence[int],
    read_s: Sequence[float],
    all_reduce_s: Mapping[str, Sequence[float]],
    ylabel: str = "time of one decode step",
) -> Figure:
    """Stacked bars for each T: seconds to read a rank's weights, and above them the step's all-reduces.

    One panel for each belief about an all-reduce ("bandwidth only", "alpha model", "published"). A star
    marks the T with the shortest step. Raises ValueError where lengths differ or there is nothing to
    draw.
    """
    if not 1 <= len(all_reduce_s) <= 3 or not degrees:
        raise ValueError("decode_step wants one to three all_reduce_s and at least one degree")
    for name, values in {"read_s": read_s, **all_reduce_s}.items():
        if len(values) != len(degrees):
            raise ValueError(f"{name} has {len(values)} values for {len(degrees)} degrees")
    figure = blank(3.5)
    axes: list[Axes] = list(figure.subplots(1, len(all_reduce_s), sharey=True, squeeze=False)[0])
    for ax, (name, sent_s) in zip(axes, all_reduce_s.items(), strict=True):
        _panel(ax, name, degrees, read_s, sent_s)
    axes[0].set_ylabel(ylabel)
    tallest = max(read + sent for values in all_reduce_s.values() for read, sent in zip(read_s, values, strict=True))
    axes[0].set_ylim(0, 1.18 * tallest)
    axes[0].yaxis.set_major_formatter(FuncFormatter(seconds_tick))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def _panel(ax: Axes, name: str, degrees: Sequence[int], read_s: Sequence[float], sent_s: Sequence[float]) -> None:
    places = range(len(degrees))
    total = [read + sent for read, sent in zip(read_s, sent_s, strict=True)]
    ax.bar(places, read_s, 0.66, color=PETROFF[0], label="reading a rank's weights from memory")
    ax.bar(
        places,
        sent_s,
        0.66,
        bottom=read_s,
        color=PETROFF[1],
        hatch="//",
        edgecolor="white",
        linewidth=0,
        label="all-reduces",
    )
    best = total.index(min(total))
    for place in places:
        mark = "best\n" if place == best else ""
        ax.text(
            place,
            total[place],
            mark + seconds_text(total[place]).removesuffix(" ms"),
            ha="center",
            va="bottom",
            fontsize=9,
            color=INK if place == best else MUTED,
            weight="bold" if place == best else "normal",
            linespacing=1.1,
        )
    ax.set_xticks(places, [str(degree) for degree in degrees])
    ax.set_xlabel("T")
    ax.set_title(name, fontsize=9.5)
    ax.grid(axis="y")

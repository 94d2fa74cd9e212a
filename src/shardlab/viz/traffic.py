"""Who sends to whom: the T x T matrix of bytes on the wire, and the one that the formula expects."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from shardlab.viz.style import MAP, blank, styled


@styled
def traffic(
    measured: ArrayLike,
    expected: ArrayLike | None = None,
    titles: Sequence[str] = ("On the wire", "Formula"),
) -> Figure:
    """Heat maps of bytes: row i, column j is what rank i sent to rank j. `expected` (from
    theory.collectives.traffic_matrix) is drawn beside it.

    Raises ValueError for a matrix that is not square, or two of different size.
    """
    sheets = [_square(measured)] + ([] if expected is None else [_square(expected)])
    if len({sheet.shape for sheet in sheets}) > 1:
        raise ValueError(f"measured is {sheets[0].shape} and expected {sheets[1].shape}: the same ranks are needed")
    top = max(float(sheet.max()) for sheet in sheets) or 1.0
    figure = blank(3.7)
    axes: list[Axes] = list(figure.subplots(1, len(sheets), squeeze=False)[0])
    for ax, sheet, title in zip(axes, sheets, titles, strict=False):
        _heat(ax, sheet, top, title)
    return figure


def _square(values: ArrayLike) -> NDArray[np.float64]:
    sheet = np.asarray(values, dtype=np.float64)
    if sheet.ndim != 2 or sheet.shape[0] != sheet.shape[1] or not sheet.size:
        raise ValueError(f"a T x T matrix is needed, and this has shape {sheet.shape}")
    return sheet


def _heat(ax: Axes, sheet: NDArray[np.float64], top: float, title: str) -> None:
    unit, scale = _unit(top)
    ax.imshow(sheet, cmap=MAP, vmin=0, vmax=top)
    for (sender, receiver), value in np.ndenumerate(sheet):
        red, green, blue, _ = mpl.colormaps[MAP](value / top)
        light = 0.3 * red + 0.59 * green + 0.11 * blue > 0.5
        text = "-" if sender == receiver and not value else _number(value / scale)
        ax.text(receiver, sender, text, ha="center", va="center", fontsize=9, color="black" if light else "white")
    ax.set_xticks(range(len(sheet)))
    ax.set_yticks(range(len(sheet)))
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlabel("to rank")
    ax.set_ylabel("from rank")
    ax.set_title(f"{title}, {unit}")


def _unit(num_bytes: float) -> tuple[str, float]:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= scale:
            return unit, scale
    return "bytes", 1.0


def _number(value: float) -> str:
    """Three digits, and a trace of traffic is not called nothing."""
    if not value:
        return "0"
    if value < 0.005:
        return "~0"
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"

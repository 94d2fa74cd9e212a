"""Who sends to whom, algorithm by algorithm: small traffic matrices side by side, on one scale of bytes."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from shardlab.viz.style import MAP, blank, styled

_MOST = 8
_COLUMNS = {1: 4, 2: 4, 3: 4, 4: 4, 5: 5, 6: 3, 7: 4, 8: 4}  # of a page, by the number of matrices
_NUMBERED = 4


@styled
def traffic_gallery(sheets: Mapping[str, ArrayLike], unit_bytes: float, unit: str = "S") -> Figure:
    """T x T matrices in units of `unit_bytes` (one tensor of S bytes): row i, column j is what i sent to j.

    Up to four ranks each field has its number; more ranks leave room for the colours only.
    Raises ValueError for none, more than eight, or a matrix that is not square.
    """
    if not 1 <= len(sheets) <= _MOST:
        raise ValueError(f"{len(sheets)} matrices: 1 to {_MOST} fit a page")
    if not unit_bytes > 0:
        raise ValueError(f"unit_bytes={unit_bytes}: the size of the tensor, above 0, is needed")
    arrays = {name: np.asarray(sheet, dtype=np.float64) / unit_bytes for name, sheet in sheets.items()}
    for name, array in arrays.items():
        if array.ndim != 2 or array.shape[0] != array.shape[1]:
            raise ValueError(f"{name}: a T x T matrix is needed, and this has shape {array.shape}")
    top = max(float(array.max()) for array in arrays.values()) or 1.0
    width = _COLUMNS[len(arrays)]
    rows, columns = -(-len(arrays) // width), min(len(arrays), width)
    figure = blank(0.45 + (1.75 if columns == 5 else 2.05) * rows)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat[len(arrays) :]:
        ax.set_axis_off()
    for number, (ax, (name, array)) in enumerate(zip(axes.flat, arrays.items(), strict=False)):
        _sheet(ax, array, top, name)
        ax.set_ylabel("from rank" if number % columns == 0 else "")
        ax.set_xlabel("to rank" if number + columns >= len(arrays) else "")
    figure.suptitle(f"in units of the tensor's size {unit}", x=0.01, ha="left", fontsize=9)
    return figure


def _sheet(ax: Axes, array: np.ndarray, top: float, name: str) -> None:
    ax.imshow(array, cmap=MAP, vmin=0, vmax=top)
    for (sender, receiver), value in np.ndenumerate(array):
        if len(array) > _NUMBERED:
            break
        red, green, blue, _ = mpl.colormaps[MAP](value / top)
        light = 0.3 * red + 0.59 * green + 0.11 * blue > 0.5
        if value < 0.005:
            text = "-" if sender == receiver else "0"
        else:
            text = f"{value:.2f}".rstrip("0").rstrip(".")
        color = "black" if light else "white"
        ax.text(receiver, sender, text, ha="center", va="center", fontsize=9, color=color)
    step = 1 if len(array) <= _NUMBERED else 2
    ax.set_xticks(range(0, len(array), step))
    ax.set_yticks(range(0, len(array), step))
    ax.tick_params(length=0, labelsize=9)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_title(name, fontsize=9)

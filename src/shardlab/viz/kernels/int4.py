"""A Q4_1 block, byte by byte: where each of its 32 weights lies."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from shardlab.theory.kernels import Q4_1_BLOCK, Q4_1_BYTES
from shardlab.viz.sheet import sheet
from shardlab.viz.style import INK, MUTED, PETROFF, ink_on, styled

_TOP, _HALF, _BYTE = 0.45, 0.34, 0.335


@styled
def q4_1_block() -> Figure:
    """20 bytes: the fp16 scale, the fp16 minimum, then 16 bytes: low nibble weight j, high nibble weight j + 16.

    Under it what a weight costs in bits, in bf16 and in the block.
    """
    figure, ax = sheet(2.42)
    left = 0.1
    for name, color in (("scale", PETROFF[3]), ("min", PETROFF[7])):
        _cell(ax, left, _TOP, 2 * _BYTE, 2 * _HALF, color, name)
        left += 2 * _BYTE + 0.02
    _brace(ax, 0.1, left - 0.02, "4 bytes")
    start = left = left + 0.1
    for byte in range(Q4_1_BLOCK // 2):
        _cell(ax, left, _TOP, _BYTE, _HALF, PETROFF[1], str(byte + Q4_1_BLOCK // 2))
        _cell(ax, left, _TOP + _HALF, _BYTE, _HALF, PETROFF[0], str(byte))
        left += _BYTE
    _brace(ax, start, left, "16 bytes: two weights each")
    words = "low nibble of byte j: weight j          high nibble: weight j + 16"
    ax.text(start, _TOP + 2 * _HALF + 0.07, words, ha="left", va="top", fontsize=9.5, color=INK)
    ax.text(0.1, _TOP + 2 * _HALF + 0.07, "w = scale · q + min", ha="left", va="top", fontsize=9, color=INK)
    for place, (name, bits, color) in enumerate(
        (("bf16", 16.0, PETROFF[3]), ("Q4_1", 8 * Q4_1_BYTES / Q4_1_BLOCK, PETROFF[0]))
    ):
        top = 1.6 + 0.36 * place
        ax.text(0.1, top + 0.13, name, ha="left", va="center", fontsize=10)
        ax.add_patch(Rectangle((0.75, top), bits * 0.31, 0.26, facecolor=color, edgecolor="none"))
        text = f"{bits:g} bits a weight"
        ax.text(0.75 + bits * 0.31 + 0.08, top + 0.13, text, ha="left", va="center", fontsize=9.5, color=INK)
    return figure


def _cell(ax: Axes, left: float, top: float, width: float, height: float, color: str, text: str) -> None:
    ax.add_patch(Rectangle((left, top), width, height, facecolor=color, edgecolor="white", linewidth=1.2))
    ax.text(left + width / 2, top + height / 2, text, ha="center", va="center", fontsize=9, color=ink_on(color))


def _brace(ax: Axes, start: float, end: float, text: str) -> None:
    y = _TOP - 0.09
    ax.plot([start, start, end, end], [y + 0.05, y, y, y + 0.05], color=MUTED, linewidth=1.0)
    ax.text((start + end) / 2, y - 0.06, text, ha="center", va="bottom", fontsize=9.5, color=INK)

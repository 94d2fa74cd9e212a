"""The way of tokens through experts: routed, sorted by expert, multiplied, and put back."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from shardlab.viz.sheet import sheet
from shardlab.viz.style import INK, MUTED, PETROFF, REPLICATED, ink_on, styled

_ROW, _WIDE, _TOP = 0.24, 0.95, 0.62
_COLORS = (PETROFF[0], PETROFF[1], PETROFF[4], PETROFF[9], PETROFF[2], PETROFF[7])
_LEFT, _SORTED, _WEIGHTS, _BACK = 0.1, 1.95, 3.85, 5.95


@styled
def expert_rows(chosen: Sequence[Sequence[int]], num_experts: int) -> Figure:
    """chosen[t]: the experts of token t. Columns: tokens, their copies by expert, the weights that are read, the sums.

    An expert that no token chose is hollow: its weights stay in memory. Raises ValueError for more than six experts,
    no tokens, or an expert out of range.
    """
    if not chosen or not 1 <= num_experts <= len(_COLORS):
        raise ValueError(
            f"{len(chosen)} tokens, {num_experts} experts: the drawing wants tokens and 1..{len(_COLORS)} experts"
        )
    if any(not 0 <= expert < num_experts for experts in chosen for expert in experts):
        raise ValueError(f"chosen={chosen}: experts are 0..{num_experts - 1}")
    rows = [(expert, token) for expert in range(num_experts) for token, own in enumerate(chosen) if expert in own]
    gaps = num_experts - 1
    tall = len(rows) * _ROW + gaps * 0.14 + (num_experts - len({expert for expert, _ in rows})) * 0.34
    figure, ax = sheet(_TOP + tall + 0.55)
    step = tall / len(chosen)
    places = [_TOP + step * (token + 0.5) for token in range(len(chosen))]
    for left, title in ((_LEFT, "tokens"), (_SORTED, "permute"), (_WEIGHTS, "grouped product"), (_BACK, "unpermute")):
        ax.text(left, _TOP - 0.2, title, ha="left", va="bottom", fontsize=10.5, weight="bold")
    for token, at in enumerate(places):
        for left in (_LEFT, _BACK):
            _box(ax, left, at - _ROW / 2, _WIDE, _ROW, REPLICATED, f"token {token}")
    _experts(ax, rows, num_experts, places)
    foot = _TOP + tall + 0.12
    for left, text in ((_SORTED, "copies, by expert"), (_WEIGHTS, "weights read once"), (_BACK, "weighted sums")):
        ax.text(left, foot, text, ha="left", va="top", fontsize=9.5, color=MUTED)
    return figure


def _experts(ax: Axes, rows: Sequence[tuple[int, int]], num_experts: int, places: Sequence[float]) -> None:
    top = _TOP
    for expert in range(num_experts):
        color = _COLORS[expert]
        own = [token for other, token in rows if other == expert]
        for number, token in enumerate(own):
            at = top + number * _ROW
            _box(ax, _SORTED, at, _WIDE, _ROW, color, f"{token}")
            middle = at + _ROW / 2
            ax.plot([_LEFT + _WIDE, _SORTED], [places[token], middle], color=color, linewidth=1.4, zorder=1)
            ax.plot([_WEIGHTS + 1.45, _BACK], [middle, places[token]], color=color, linewidth=1.4, zorder=1)
        height = len(own) * _ROW if own else 0.34
        hollow = not own
        name = f"expert {expert}" + (": not read" if hollow else "")
        _box(ax, _WEIGHTS, top, 1.45, height, color, name, hollow=hollow)
        if own:
            ax.text(_WEIGHTS - 0.48, top + height / 2, "×", ha="center", va="center", fontsize=13, color=INK)
        top += height + 0.14


def _box(
    ax: Axes, left: float, top: float, width: float, height: float, color: str, text: str, *, hollow: bool = False
) -> None:
    face, edge = ("white", color) if hollow else (color, "white")
    patch = Rectangle((left, top), width, height, facecolor=face, edgecolor=edge, linewidth=1.2, zorder=2)
    if hollow:
        patch.set_linestyle("--")
    ax.add_patch(patch)
    ink = INK if hollow else ink_on(color)
    ax.text(left + width / 2, top + height / 2, text, ha="center", va="center", fontsize=9, color=ink, zorder=3)

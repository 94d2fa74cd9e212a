"""Attention by heads: which query heads and which KV heads each rank holds."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from shardlab.theory.split import even_split, kv_heads_of
from shardlab.viz.style import blank, ink_on, rank_color, styled


@styled
def heads_on_ranks(num_heads: int, num_kv_heads: int, tp: int) -> Figure:
    """One row a rank: the query heads it owns (each head once), and the KV heads that those read.

    A KV head in several rows is held that many times. Raises ValueError where tp is not in 1..num_heads or
    num_kv_heads does not divide num_heads.
    """
    if not 1 <= tp <= num_heads:
        raise ValueError(f"tp={tp} cannot split num_heads={num_heads}: degrees that work: 1..{num_heads}")
    queries = even_split(num_heads, tp)
    kv = [kv_heads_of(part, num_heads, num_kv_heads) for part in queries]
    figure = blank(1.3 + max(1.0, min(3.6, 0.3 * tp)))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2.1, 1.0))
    _grid(left, queries, num_heads)
    _grid(right, kv, num_kv_heads)
    copies = sum(len(part) for part in kv)
    left.set_title(f"{num_heads} query heads, each on one rank")
    left.set_ylabel("rank")
    left.set_xlabel("query head")
    right.set_title(f"{num_kv_heads} KV heads, {copies} held")
    right.set_xlabel("KV head" + ("\nhatched: on several ranks" if copies > num_kv_heads else ""))
    return figure


def _grid(ax: Axes, held: list[range] | tuple[range, ...], total: int) -> None:
    copies = [sum(head in part for part in held) for head in range(total)]
    numbered = total <= 16 and len(held) <= 16
    for rank, part in enumerate(held):
        ax.add_patch(Rectangle((0, rank + 0.08), total, 0.84, facecolor="#f3f3f3", edgecolor="none"))
        for head in part:
            color = rank_color(rank)
            cell = Rectangle((head + 0.04, rank + 0.08), 0.92, 0.84, facecolor=color, edgecolor="white", linewidth=0.6)
            if copies[head] > 1:  # more than one rank holds it
                cell.set_hatch("///")
                cell.set_hatch_linewidth(0.8)
            ax.add_patch(cell)
            if numbered:
                label = ax.text(head + 0.5, rank + 0.5, str(head), ha="center", va="center", color=ink_on(color))
                if copies[head] > 1:  # the hatch would run through the number
                    label.set_bbox({"boxstyle": "circle,pad=0.15", "facecolor": color, "edgecolor": "none"})
    ax.set_xlim(0, total)
    ax.set_ylim(len(held), 0)
    step = max(1, total // 8)
    ticks = list(range(0, total, step))
    ax.set_xticks([tick + 0.5 for tick in ticks], [str(tick) for tick in ticks])
    every = 1 if len(held) <= 12 else -(-len(held) // 16) * 2 if len(held) > 16 else 2
    rows = list(range(0, len(held), every))
    ax.set_yticks([row + 0.5 for row in rows], [str(row) for row in rows])
    ax.tick_params(length=0)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)

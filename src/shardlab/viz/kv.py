"""KV cache of the fullest rank against T: it falls until a rank holds one KV head, and no rank can hold less.

Where the query heads of a rank straddle two KV heads it holds both: 9 heads and 3 KV heads need 2 at T = 4.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from shardlab.theory.split import even_split, kv_heads_of
from shardlab.viz.style import MEASURED, MUTED, PETROFF, THEORY, blank, bytes_tick, styled


@styled
def kv_cache(
    num_heads: int,
    num_kv_heads: int,
    bytes_per_kv_head: float,
    max_tp: int,
    measured: Sequence[tuple[int, float]] = (),
) -> Figure:
    """Bytes of K and V on the fullest rank for T = 1..max_tp, and `measured` (T, bytes) points.

    bytes_per_kv_head: 2 * L * H * tokens * dtype_bytes. Raises ValueError for max_tp outside 1..num_heads.
    """
    if not 1 <= max_tp <= num_heads:
        raise ValueError(f"max_tp={max_tp} cannot split num_heads={num_heads}: degrees that work: 1..{num_heads}")
    degrees = list(range(1, max_tp + 1))
    fullest = [bytes_per_kv_head * fullest_rank(num_heads, num_kv_heads, tp) for tp in degrees]
    even = [bytes_per_kv_head * num_kv_heads / tp for tp in degrees]
    figure = blank(3.3)
    ax = figure.subplots()
    ax.plot(degrees, even, color=MUTED, linestyle="--", linewidth=1.2, label="an even share of all: 1/T")
    ax.plot(degrees, fullest, drawstyle="steps-mid", label="theory: the fullest rank", **THEORY)
    if measured:
        x, y = zip(*measured, strict=True)
        ax.plot(x, y, label="measured: the fullest rank's cache", **MEASURED)
    if max_tp > num_kv_heads:
        floor = f"floor: one KV head a rank, from T = K = {num_kv_heads}"
        ax.axhline(bytes_per_kv_head, color=PETROFF[3], linewidth=1.2, linestyle=":", label=floor)
    ax.set_xlabel("T, ranks on the tp axis")
    ax.set_ylabel("KV cache of a rank")
    ax.set_ylim(0, None)
    ax.set_xlim(0.5, max_tp + 0.5)
    ax.set_xticks(degrees if max_tp <= 12 else [1, *range(4, max_tp + 1, 4)])
    ax.yaxis.set_major_formatter(FuncFormatter(bytes_tick))
    ax.grid(axis="y")
    ax.legend(loc="upper right")
    return figure


def fullest_rank(num_heads: int, num_kv_heads: int, tp: int) -> int:
    """KV heads on the rank that holds the most of them."""
    return max(len(kv_heads_of(part, num_heads, num_kv_heads)) for part in even_split(num_heads, tp))

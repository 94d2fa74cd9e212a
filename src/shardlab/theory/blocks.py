"""How many SMs of a GPU have work: blocks against SMs, and what a split of the KV cache changes.

A kernel runs as blocks. An SM takes one block (or a few), and what no block is left for stands idle. Attention gives a
block to each tile of queries and each head. A decode step has one query: then the keys must be split to make blocks.
Flash-Decoding: Dao, Haziza, Massa, Sizov 2023, https://crfm.stanford.edu/2023/10/12/flashdecoding.html
"""

from __future__ import annotations

from shardlab.theory.hardware import Accelerator
from shardlab.theory.kernels import flash_decode
from shardlab.theory.work import check_sizes


def prefill_blocks(*, batch: int, heads: int, seq: int, tile: int = 128) -> int:
    """One block a sequence, query head and tile of queries."""
    check_sizes(batch=batch, heads=heads, seq=seq, tile=tile)
    return batch * heads * -(-seq // tile)


def decode_blocks(*, batch: int, kv_heads: int, splits: int = 1) -> int:
    """One block a sequence, KV head and split: the query heads that share a KV head are rows of one tile."""
    check_sizes(batch=batch, kv_heads=kv_heads, splits=splits)
    return batch * kv_heads * splits


def waves(blocks: int, num_sms: int) -> int:
    """How often all the SMs must be filled, one block an SM, the last time perhaps in part."""
    check_sizes(blocks=blocks, num_sms=num_sms)
    return -(-blocks // num_sms)


def busy_share(blocks: int, num_sms: int) -> float:
    """The share of the SMs' time that some block uses, all blocks being equal: blocks / (waves * SMs)."""
    return blocks / (waves(blocks, num_sms) * num_sms)


def decode_s(
    accelerator: Accelerator,
    *,
    batch: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    cached: int,
    splits: int = 1,
    item_bytes: int = 2,
) -> float:
    """Seconds of one layer's decode attention, where an SM draws no more than its equal share of the HBM's rate.

    Bytes of the cache / (hbm_Bps * busy share) + the partial results / hbm_Bps. An SM by itself can draw more than
    that share, so few blocks lose less than this says; how much less, only a measurement tells. Launches not counted.
    Raises ValueError for an accelerator whose number of SMs the catalogue lacks.
    """
    if accelerator.num_sms is None:
        raise ValueError(f"{accelerator.name}: the catalogue has no number of SMs for it")
    sizes = {"batch": batch, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "cached": cached}
    read = flash_decode(**sizes, item_bytes=item_bytes).moved_bytes
    partial = flash_decode(**sizes, splits=splits, item_bytes=item_bytes).moved_bytes - read
    blocks = decode_blocks(batch=batch, kv_heads=kv_heads, splits=splits)
    return (read / busy_share(blocks, accelerator.num_sms) + partial) / accelerator.hbm_Bps


def break_even_cached(
    accelerator: Accelerator, *, kv_heads: int, head_dim: int, ranks: int, exchange_s: float, item_bytes: int = 2
) -> float:
    """Cached positions of one layer above which `ranks` ranks that share the cache decode faster than one.

    They save (1 - 1 / ranks) of reading it, at the full rate of the HBM, and take exchange_s to merge their parts.
    Raises ValueError for fewer than two ranks.
    """
    check_sizes(kv_heads=kv_heads, head_dim=head_dim)
    if ranks < 2:
        raise ValueError(f"ranks={ranks}: 2 or more are needed to share a cache")
    position_s = 2 * kv_heads * head_dim * item_bytes / accelerator.hbm_Bps
    return exchange_s / (position_s * (1 - 1 / ranks))

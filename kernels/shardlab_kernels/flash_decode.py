"""One new query a sequence against its whole cache, the keys split over programs: a GPU is filled at batch 1 too.

FlashDecoding: Dao et al. 2023, https://pytorch.org/blog/flash-decoding/. The cache may be paged, as in vLLM:
Kwon et al. 2023, arXiv 2309.06180. The query heads of one KV head share a tile, so that K and V are read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import triton
import triton.language as tl

from shardlab_kernels import flash_attention as dense
from shardlab_kernels.attention_tile import check_head_dim, check_scale, check_window, finish, padded, weigh
from shardlab_kernels.checks import check_dtype, check_integers, check_rows, sizes
from shardlab_kernels.dot import dot
from shardlab_kernels.heads import HeadMap, check_heads
from shardlab_kernels.launch import cdiv, check_device, launch, num_multiprocessors, tuned
from shardlab_kernels.merge import merge

MIN_PAGE = 16
SPLIT_KEYS = 128  # a split has at least as many positions
MAX_SPLITS = 256


def reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lengths: torch.Tensor,
    heads: HeadMap | None = None,
    *,
    block_table: torch.Tensor | None = None,
    window: int | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """q[B,N,H], k[B,K,C,H], v[B,K,C,H] (or pages), lengths[B] -> (out[B,N,H], lse[B,N]): flash_attention.reference.

    A sequence at a time, K and V gathered from their pages first: 4 * their bytes more than are needed.
    """
    parts = []
    for b, length in enumerate(lengths.tolist()):
        one = (k[b], v[b]) if block_table is None else (_gather(x, block_table[b], length) for x in (k, v))
        keys, values = (x[None, :, :length] for x in one)
        parts.append(dense.reference(q[b][None, :, None], keys, values, heads, window=window, scale=scale))
    out, lse = zip(*parts, strict=True)
    return torch.cat(out)[:, :, 0], torch.cat(lse)[:, :, 0]


def _gather(pages: torch.Tensor, table: torch.Tensor, length: int) -> torch.Tensor:
    """pages[P,K,page,H], table[pages] -> [K,C,H]."""
    used = pages[table[: cdiv(length, pages.shape[2])].long()]
    return used.transpose(0, 1).flatten(1, 2)


def flops(lengths: Sequence[int], n: int, h: int) -> int:
    """4 * H for each key of each of n query heads. From the lengths of the sequences."""
    return 4 * h * n * sum(lengths)


def moved_bytes(q: torch.Tensor, k: torch.Tensor, lengths: Sequence[int]) -> int:
    """Read K and V of these lengths once, read q, write out and lse. k is a cache or pages: [_,K,_,H].

    The splits' partial results are small beside it and not counted.
    """
    return 2 * sum(lengths) * k.shape[1] * k.shape[3] * k.element_size() + 2 * q.nbytes + 4 * q.numel() // q.shape[-1]


@triton.jit(do_not_specialize=["C", "window", "num_splits", "num_groups"])
def _flash_decode_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, lengths_ptr, start_ptr, block_table_ptr,
    stride_qb, stride_qn, stride_kb, stride_kk, stride_kc, stride_vb, stride_vk, stride_vc, stride_tb,
    N, C, window, scale, num_splits, num_groups,
    H: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_G: tl.constexpr, PAGE: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    split, b = tl.program_id(0), tl.program_id(2).to(tl.int64)
    kv = (tl.program_id(1) // num_groups).to(tl.int64)
    head, end_head = tl.load(start_ptr + kv) + tl.program_id(1) % num_groups * BLOCK_G, tl.load(start_ptr + kv + 1)
    if head >= end_head:  # no query head reads this KV head, or fewer than the largest group's
        return
    rows = head + tl.arange(0, BLOCK_G)
    mine = rows < end_head
    dims = tl.arange(0, BLOCK_H)
    # This split's share of the keys that the query sees, in whole blocks: at most one block more than another's.
    length = tl.minimum(tl.maximum(tl.load(lengths_ptr + b), 0), C)
    seen = tl.maximum(length - window, 0)
    first_block = seen // BLOCK_N
    num_blocks = tl.cdiv(length, BLOCK_N) - first_block
    begin = (first_block + num_blocks * split // num_splits) * BLOCK_N
    end = tl.minimum((first_block + num_blocks * (split + 1) // num_splits) * BLOCK_N, length)

    q_ptrs = q_ptr + b * stride_qb + rows[:, None] * stride_qn + dims[None, :]
    q = tl.load(q_ptrs, mask=mine[:, None] & (dims < H)[None, :], other=0.0)
    acc = tl.zeros([BLOCK_G, BLOCK_H], tl.float32)
    l = tl.zeros([BLOCK_G], tl.float32)
    m = tl.full([BLOCK_G], float("-inf"), tl.float32)
    k_ptr += kv * stride_kk
    v_ptr += kv * stride_vk
    if PAGE == 0:
        k_ptr += b * stride_kb
        v_ptr += b * stride_vb
    for j in tl.range(begin, end, BLOCK_N):
        keys = j + tl.arange(0, BLOCK_N)
        inside = keys < end
        if PAGE == 0:
            k_at, v_at = keys.to(tl.int64) * stride_kc, keys.to(tl.int64) * stride_vc
        else:
            page = tl.load(block_table_ptr + b * stride_tb + keys // PAGE, mask=inside, other=0).to(tl.int64)
            k_at = page * stride_kb + keys % PAGE * stride_kc
            v_at = page * stride_vb + keys % PAGE * stride_vc
        # Masked loads, not only masked scores: what lies beyond the length may be NaN.
        mask = inside[:, None] & (dims < H)[None, :]
        k = tl.load(k_ptr + (k_at[:, None] + dims[None, :]), mask=mask, other=0.0)
        scores = dot(q, tl.trans(k), tl.zeros([BLOCK_G, BLOCK_N], tl.float32))
        weights, rescale, l, m = weigh(scores, l, m, (inside & (keys >= seen))[None, :], scale, True)
        v = tl.load(v_ptr + (v_at[:, None] + dims[None, :]), mask=mask, other=0.0)
        acc = dot(weights.to(v.dtype), v, acc * rescale[:, None])
    out, lse = finish(acc, l, m)
    at = (split * tl.num_programs(2) + b) * N + rows  # [num_splits, B, N]
    tl.store(lse_ptr + at, lse, mask=mine)
    # An empty split's lse says that its out is not to be read; the only split writes the result itself.
    out_mask = (mine & ((begin < end) | (num_splits == 1)))[:, None] & (dims < H)[None, :]
    tl.store(out_ptr + at[:, None] * H + dims[None, :], out.to(out_ptr.dtype.element_ty), mask=out_mask)


def _configs(*rows: tuple[int, int, int]) -> Sequence[triton.Config]:
    return [triton.Config({"BLOCK_N": n}, num_warps=warps, num_stages=stages) for n, warps, stages in rows]


# (BLOCK_N, warps, stages). What counts is the bytes in flight: about 64 KB a multiprocessor hide the latency of
# memory. The loop keeps stages - 1 blocks of K and V in flight, half as many where it must look up pages first. None
# spills on sm_80 or sm_90.
_kernels = {
    name: tuned(configs, key=["H", "PAGE", "BLOCK_G"])(_flash_decode_kernel)
    for name, configs in {
        "few heads": _configs((64, 4, 2), (64, 4, 3), (128, 4, 2), (128, 8, 3)),
        "few heads, paged": _configs((64, 4, 2), (64, 4, 5), (128, 4, 3), (128, 8, 5)),
        "few heads, H 256": _configs((32, 4, 2), (32, 4, 3), (64, 4, 2), (64, 8, 3)),
        "many heads": _configs((32, 8, 2), (64, 8, 2), (64, 8, 3)),
        "fp32": _configs((32, 4, 1)),
        "fp32, H 256": _configs((16, 8, 1)),
    }.items()
}


@cache  # many layers ask the same
def split_count(num_tiles: int, num_keys: int, num_multiprocessors: int) -> int:
    """-> how many programs share the keys of each (sequence, KV head). From sizes, so that a CUDA graph can keep it.

    Two programs a multiprocessor run at a time. The fewest splits whose last round is nearly as full as can be, as in
    FlashAttention's num_splits_heuristic (github.com/Dao-AILab/flash-attention, hopper/heuristics.h).
    """
    slots, num_tiles = 2 * num_multiprocessors, max(num_tiles, 1)
    most = max(1, min(cdiv(num_keys, SPLIT_KEYS), MAX_SPLITS, slots))
    efficiency = [num_tiles * s / (slots * cdiv(num_tiles * s, slots)) for s in range(1, most + 1)]
    return 1 + next(i for i, e in enumerate(efficiency) if e >= 0.85 * max(efficiency))


def flash_decode(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lengths: torch.Tensor,
    heads: HeadMap | None = None,
    *,
    block_table: torch.Tensor | None = None,
    window: int | None = None,
    scale: float | None = None,
    num_splits: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """q[B,N,H], k[B,K,C,H], v[B,K,C,H], lengths[B] -> (out[B,N,H], lse[B,N] in fp32).

    lse is the natural logarithm of the sum of exp(scale * q . k). The query of sequence b is its last position: it sees
    the keys length - window .. length - 1, without a window all below its length. length 0 gives out = 0, lse = -inf; a
    length above C means C. Keys at and beyond the length are never read.

    With block_table int32[B,pages], k and v are pages [P,K,page,H], page a power of two of at least 16: position j is
    in page block_table[b, j // page]. lengths (int32) and block_table stay on the device: a CUDA graph replays while
    they change. num_splits programs share each sequence's keys, by default as many as fill the GPU. heads, scale,
    dtypes, H and strides as in flash_attention.

    Raises ValueError for shapes, dtypes, strides, head_dim, page, window, scale, splits or devices that do not fit.
    """
    cache = "B K C H" if block_table is None else "P K page H"
    size = sizes(
        q=(q, "B N H"), k=(k, cache), v=(v, cache), lengths=(lengths, "B"), block_table=(block_table, "B pages")
    )
    b, n, h = size["B"], size["N"], size["H"]
    page = size.get("page", 0)
    dtype = check_dtype(q=q, k=k, v=v)
    check_integers(lengths=lengths, block_table=block_table)
    check_rows(q=q, k=k, v=v, lengths=lengths, block_table=block_table)
    check_head_dim(h)
    check_window(window)
    log2_scale = check_scale(scale, h)
    if block_table is not None and (page < MIN_PAGE or page & (page - 1)):
        raise ValueError(f"k{tuple(k.shape)} has page={page}: a power of two of at least {MIN_PAGE} is supported")
    if num_splits is not None and num_splits < 1:
        raise ValueError(f"num_splits={num_splits}: at least 1 is needed")
    device = check_device(q=q, k=k, v=v, lengths=lengths, block_table=block_table)
    heads = check_heads(heads, n, size["K"], device)
    block_h = padded(h)
    block_g = _group_rows(dtype, block_h, heads.widest)
    num_groups = cdiv(max(heads.widest, 1), block_g)
    c = size["C"] if block_table is None else page * size["pages"]
    if num_splits is None:
        num_splits = split_count(b * size["K"] * num_groups, c, num_multiprocessors(device))
    out = torch.empty(num_splits, b, n, h, dtype=dtype if num_splits == 1 else torch.float32, device=device)
    lse = torch.empty(num_splits, b, n, dtype=torch.float32, device=device)
    if out.numel():
        launch(
            _kernels[_size_class(dtype, h, block_g, page > 0)], (num_splits, size["K"] * num_groups, b),
            q, k, v, out, lse, lengths, heads.start, block_table,
            *q.stride()[:2], *k.stride()[:3], *v.stride()[:3], 0 if block_table is None else block_table.stride(0),
            n, c, c if window is None else min(window, c), log2_scale, num_splits, num_groups,
            H=h, BLOCK_H=block_h, BLOCK_G=block_g, PAGE=page,
        )  # fmt: skip
    return (out.squeeze(0), lse.squeeze(0)) if num_splits == 1 else merge(out, lse, dtype)


def _group_rows(dtype: torch.dtype, block_h: int, widest: int) -> int:
    """-> the query heads in a tile: all that read one KV head, if the registers hold them."""
    most = 16 if dtype == torch.float32 else (128 * 128) // max(block_h, 128)
    return min(max(16, 1 << (widest - 1).bit_length()), most)


def _size_class(dtype: torch.dtype, h: int, block_g: int, paged: bool) -> str:
    if dtype == torch.float32:
        return "fp32" if h <= 128 else "fp32, H 256"
    if block_g > 32:
        return "many heads"
    if h > 128:
        return "few heads, H 256"
    return "few heads, paged" if paged else "few heads"

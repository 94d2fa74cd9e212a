"""Exact attention over a prompt without writing the scores to memory, with the log-sum-exp that merges partial results.

FlashAttention-2: Dao 2023, arXiv 2307.08691. Group sizes are any (heads.HeadMap): K and V are never repeated.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from shardlab_kernels.attention_tile import (
    attend_tile,
    check_head_dim,
    check_scale,
    check_window,
    limits,
    padded,
    size_class,
    tuned_by_size,
    tuning_bucket,
)
from shardlab_kernels.checks import check_dtype, check_integers, check_rows, sizes, wide
from shardlab_kernels.heads import HeadMap, check_heads
from shardlab_kernels.launch import cdiv, check_device, launch


def reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: HeadMap | None = None,
    *,
    causal: bool = True,
    query_offset: int | None = None,
    window: int | None = None,
    scale: float | None = None,
    kv_lengths: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """q[B,N,S,H] . k[B,K,C,H] -> scores[B,N,S,C] -> softmax . v[B,K,C,H] -> (out[B,N,S,H], lse[B,N,S] in fp32 or fp64).

    In torch the scores are written, read to mask, written, read by logsumexp and by exp, written, read: 7 times
    4 * B*N*S*C bytes, beside which q, k, v and out are nothing.
    """
    (_, n, s, h), c = q.shape, k.shape[2]
    index = check_heads(heads, n, k.shape[1], q.device).kv_index.long()
    keys = torch.arange(c, device=q.device)
    first, last = limits(s, c, causal, query_offset, window)
    rows = torch.arange(s, device=q.device)[:, None]
    visible = ((keys >= rows + first) & (keys <= rows + last))[None, None]
    if kv_lengths is not None:
        inside = keys < kv_lengths[:, None]
        visible = visible & inside[:, None, None]
        k, v = (torch.where(inside[:, None, :, None], x, 0) for x in (k, v))  # NaN * 0 is NaN
    scores = torch.einsum("bnsh,bnch->bnsc", wide(q), wide(k)[:, index]) * (h**-0.5 if scale is None else scale)
    scores = scores.masked_fill(~visible, float("-inf"))
    lse = scores.logsumexp(-1) if c else scores.sum(-1) - float("inf")
    weights = torch.exp(scores - lse.clamp(min=torch.finfo(lse.dtype).min)[..., None])  # of no key at all: 0, not NaN
    return torch.einsum("bnsc,bnch->bnsh", weights, wide(v)[:, index]).to(q.dtype), lse


def visible_pairs(
    s: int, c: int, *, causal: bool = True, query_offset: int | None = None, window: int | None = None
) -> int:
    """How many of the s * c (query, key) pairs one head looks at. From sizes."""
    first, last = limits(s, c, causal, query_offset, window)

    def below(limit: int) -> int:  # sum over queries i of the keys j < i + limit, of which there are 0..c
        triangle = [max(x, 0) * (max(x, 0) - 1) // 2 for x in (s + limit, limit, s + limit - c, limit - c)]
        return triangle[0] - triangle[1] - triangle[2] + triangle[3]

    return below(last + 1) - below(first)


def flops(
    q: torch.Tensor, k: torch.Tensor, *, causal: bool = True, query_offset: int | None = None, window: int | None = None
) -> int:
    """4 * H for each visible (query, key) pair of each query head: two dot products. From the shapes of q and k."""
    (b, n, s, h), c = q.shape, k.shape[2]
    return 4 * h * b * n * visible_pairs(s, c, causal=causal, query_offset=query_offset, window=window)


def moved_bytes(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> int:
    """Read q, k and v once (later tiles find K and V in the L2 cache), write out and lse. From tensors."""
    return 2 * q.nbytes + k.nbytes + v.nbytes + 4 * q.numel() // q.shape[-1]


@triton.jit(do_not_specialize=["S", "C", "first", "last", "bucket"])
def _flash_attention_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, kv_index_ptr, kv_lengths_ptr,
    stride_qb, stride_qn, stride_qs, stride_kb, stride_kk, stride_kc, stride_vb, stride_vk, stride_vc,
    stride_ob, stride_on, stride_os, stride_lb, stride_ln,
    S, C, first, last, scale, bucket,
    H: tl.constexpr, BLOCK_H: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, LENGTHS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    # Tiles of one head run side by side and share its K and V in the L2 cache; the last tile, which sees the most
    # keys, starts first.
    tile = tl.cdiv(S, BLOCK_M) - 1 - tl.program_id(0)
    n, b = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    kv = tl.load(kv_index_ptr + n).to(tl.int64)
    num_keys = C
    if LENGTHS:
        num_keys = tl.minimum(tl.maximum(tl.load(kv_lengths_ptr + b), 0), C)
    attend_tile(
        q_ptr + b * stride_qb + n * stride_qn, k_ptr + b * stride_kb + kv * stride_kk,
        v_ptr + b * stride_vb + kv * stride_vk, out_ptr + b * stride_ob + n * stride_on,
        lse_ptr + b * stride_lb + n * stride_ln, stride_qs, stride_kc, stride_vc, stride_os, 1,
        tile, S, num_keys, first, last, scale, H, BLOCK_H, BLOCK_M, BLOCK_N, CAUSAL, WINDOW,
    )  # fmt: skip


_kernels = tuned_by_size(_flash_attention_kernel, key=["bucket", "H", "CAUSAL", "WINDOW"])


def flash_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: HeadMap | None = None,
    *,
    causal: bool = True,
    query_offset: int | None = None,
    window: int | None = None,
    scale: float | None = None,
    kv_lengths: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """q[B,N,S,H], k[B,K,C,H], v[B,K,C,H] -> (out[B,N,S,H], lse[B,N,S] in fp32).

    lse is the natural logarithm of the sum of exp(scale * q . k), scale by default H ** -0.5. Query i sees key j where
    j <= i + query_offset (if causal), j > i + query_offset - window (if there is a window) and j < kv_lengths[b]
    (int32[B], on the device). query_offset is the position of the first query minus that of the first key, any
    integer; by default C - S: the queries are the last of the C keys, whatever kv_lengths says. A query that sees no
    key gives out = 0, lse = -inf. Keys beyond kv_lengths are never read; others must be finite, hidden or not.

    heads says which KV head a query head reads, by default even groups. fp32, bf16 or fp16; H a multiple of 8 in
    16..256 (multiples of 16 are faster: the others are read an element at a time); any strides but the last.
    out.transpose(1, 2) is contiguous: the output projection needs no copy.

    Raises ValueError for shapes, dtypes, strides, head_dim, window, scale or devices that do not fit.
    """
    size = sizes(q=(q, "B N S H"), k=(k, "B K C H"), v=(v, "B K C H"), kv_lengths=(kv_lengths, "B"))
    b, n, s, c, h = (size[letter] for letter in "BNSCH")
    dtype = check_dtype(q=q, k=k, v=v)
    check_integers(kv_lengths=kv_lengths)
    check_rows(q=q, k=k, v=v, kv_lengths=kv_lengths)
    check_head_dim(h)
    check_window(window)
    log2_scale = check_scale(scale, h)
    device = check_device(q=q, k=k, v=v, kv_lengths=kv_lengths)
    heads = check_heads(heads, n, size["K"], device)
    out = torch.empty(b, s, n, h, dtype=dtype, device=device).transpose(1, 2)
    lse = torch.empty(b, n, s, dtype=torch.float32, device=device)
    if out.numel():
        launch(
            _kernels[size_class(dtype, h)], lambda meta: (cdiv(s, meta["BLOCK_M"]), n, b),
            q, k, v, out, lse, heads.kv_index, kv_lengths,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3], *lse.stride()[:2],
            s, c, *limits(s, c, causal, query_offset, window), log2_scale, tuning_bucket(s),
            H=h, BLOCK_H=padded(h), CAUSAL=causal, WINDOW=window is not None,
            LENGTHS=kv_lengths is not None,
        )  # fmt: skip
    return out, lse

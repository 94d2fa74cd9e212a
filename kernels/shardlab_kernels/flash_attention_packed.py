"""flash_attention for sequences of different lengths, laid end to end: no padding is stored, read or multiplied."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from shardlab_kernels import flash_attention as dense
from shardlab_kernels.attention_tile import (
    attend_tile,
    check_head_dim,
    check_scale,
    check_window,
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
    cu_q: torch.Tensor,
    cu_k: torch.Tensor,
    heads: HeadMap | None = None,
    *,
    causal: bool = True,
    window: int | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """q[T,N,H], k[U,K,H], v[U,K,H] -> (out[T,N,H], lse[T,N]): flash_attention.reference for each sequence."""
    out, lse = torch.zeros_like(q), wide(q).new_zeros(q.shape[:2])
    for b in range(len(cu_q) - 1):
        mine, keys = slice(int(cu_q[b]), int(cu_q[b + 1])), slice(int(cu_k[b]), int(cu_k[b + 1]))
        one_q, one_k, one_v = (x.transpose(0, 1)[None] for x in (q[mine], k[keys], v[keys]))
        found = dense.reference(one_q, one_k, one_v, heads, causal=causal, window=window, scale=scale)
        out[mine], lse[mine] = (x[0].transpose(0, 1) for x in found)
    return out, lse


def flops(
    queries: Sequence[int], keys: Sequence[int], n: int, h: int, *, causal: bool = True, window: int | None = None
) -> int:
    """4 * H for each visible (query, key) pair of each of n query heads. From the lengths of the sequences."""
    pairs = (dense.visible_pairs(s, c, causal=causal, window=window) for s, c in zip(queries, keys, strict=True))
    return 4 * h * n * sum(pairs)


def moved_bytes(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> int:
    """Read q, k and v once, write out and lse. From tensors."""
    return dense.moved_bytes(q, k, v)


@triton.jit(do_not_specialize=["bucket", "window"])
def _flash_attention_packed_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, kv_index_ptr, cu_q_ptr, cu_k_ptr,
    stride_qt, stride_qn, stride_kt, stride_kk, stride_vt, stride_vk, stride_ot, stride_on, stride_lt,
    window, scale, bucket,
    H: tl.constexpr, BLOCK_H: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    n, b = tl.program_id(1).to(tl.int64), tl.program_id(2)
    start_q, start_k = tl.load(cu_q_ptr + b), tl.load(cu_k_ptr + b)
    num_queries, num_keys = tl.load(cu_q_ptr + b + 1) - start_q, tl.load(cu_k_ptr + b + 1) - start_k
    tile = tl.cdiv(num_queries, BLOCK_M) - 1 - tl.program_id(0)  # the heaviest first, as in flash_attention
    if tile < 0:  # the grid is that of the longest sequence
        return
    start_q, start_k = start_q.to(tl.int64), start_k.to(tl.int64)
    kv = tl.load(kv_index_ptr + n).to(tl.int64)
    last = num_keys - num_queries
    attend_tile(
        q_ptr + start_q * stride_qt + n * stride_qn, k_ptr + start_k * stride_kt + kv * stride_kk,
        v_ptr + start_k * stride_vt + kv * stride_vk, out_ptr + start_q * stride_ot + n * stride_on,
        lse_ptr + start_q * stride_lt + n, stride_qt, stride_kt, stride_vt, stride_ot, stride_lt,
        tile, num_queries, num_keys, last - window + 1, last, scale,
        H, BLOCK_H, BLOCK_M, BLOCK_N, CAUSAL, WINDOW,
    )  # fmt: skip


_kernels = tuned_by_size(_flash_attention_packed_kernel, key=["bucket", "H", "CAUSAL", "WINDOW"])


def flash_attention_packed(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_q: torch.Tensor,
    cu_k: torch.Tensor,
    max_queries: int,
    heads: HeadMap | None = None,
    *,
    causal: bool = True,
    window: int | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """q[T,N,H], k[U,K,H], v[U,K,H] -> (out[T,N,H], lse[T,N] in fp32).

    Sequence b owns the queries cu_q[b] .. cu_q[b+1] - 1 and the keys cu_k[b] .. cu_k[b+1] - 1: int32[B+1] on the
    device, from 0 to T and to U. Its queries are the last of its keys: query i sees key j <= i + len_k - len_q, and
    with a window j > i + len_k - len_q - window. No sequence has more than max_queries queries: a bound that the host
    knows, and that the grid is made for. Results of queries beyond it are undefined. lse, heads, scale, dtypes and H as
    in flash_attention.

    Raises ValueError for shapes, dtypes, strides, head_dim, window, scale, max_queries or devices that do not fit.
    """
    size = sizes(q=(q, "T N H"), k=(k, "U K H"), v=(v, "U K H"), cu_q=(cu_q, "B+1"), cu_k=(cu_k, "B+1"))
    t, n, h, b = size["T"], size["N"], size["H"], size["B+1"] - 1
    dtype = check_dtype(q=q, k=k, v=v)
    check_integers(cu_q=cu_q, cu_k=cu_k)
    check_rows(q=q, k=k, v=v, cu_q=cu_q, cu_k=cu_k)
    check_head_dim(h)
    check_window(window)
    log2_scale = check_scale(scale, h)
    if b < 0 or (t and not (b and 1 <= max_queries <= t)):
        raise ValueError(
            f"max_queries={max_queries}, cu_q{tuple(cu_q.shape)}: 1..T={t} and cu_q[B+1], B >= 1 are needed"
        )
    device = check_device(q=q, k=k, v=v, cu_q=cu_q, cu_k=cu_k)
    heads = check_heads(heads, n, size["K"], device)
    out = torch.empty(t, n, h, dtype=dtype, device=device)
    lse = torch.empty(t, n, dtype=torch.float32, device=device)
    if out.numel():
        launch(
            _kernels[size_class(dtype, h)], lambda meta: (cdiv(max_queries, meta["BLOCK_M"]), n, b),
            q, k, v, out, lse, heads.kv_index, cu_q, cu_k,
            *q.stride()[:2], *k.stride()[:2], *v.stride()[:2], *out.stride()[:2], lse.stride(0),
            min(window or 1, 1 << 30), log2_scale, tuning_bucket(max_queries),
            H=h, BLOCK_H=padded(h), CAUSAL=causal, WINDOW=window is not None,
        )  # fmt: skip
    return out, lse

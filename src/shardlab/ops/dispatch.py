"""The operations of the layers: Triton kernel or plain torch, chosen in this one place.

Tensors on a GPU go through the kernels, tensors on a CPU through torch. Two contexts say otherwise, for a comparison:
`plain_torch` keeps a GPU's tensors from the kernels; `interpreted` sends a CPU's through them, in Triton's interpreter,
which is slow, and the way to see without a GPU that the model is wired to its kernels rightly.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
import torch.nn.functional as F

from shardlab.ops import reference as torch_ops
from shardlab_kernels import rms_norm as _rms_norm
from shardlab_kernels import silu_mul as _silu_mul
from shardlab_kernels.flash_attention import flash_attention
from shardlab_kernels.flash_decode import flash_decode
from shardlab_kernels.heads import HeadMap
from shardlab_kernels.int4 import Int4Weight, dequantize
from shardlab_kernels.int4_gemv import int4_gemv
from shardlab_kernels.int4_matmul import int4_matmul
from shardlab_kernels.launch import INTERPRETED
from shardlab_kernels.rope import rope_
from shardlab_kernels.skinny import MAX_ROWS, skinny_matmul

_told: bool | None = None  # by one of the contexts: whether to use the kernels. None: the tensor's device says


@contextmanager
def _kernels(used: bool) -> Iterator[None]:
    global _told
    _told, before = used, _told
    try:
        yield
    finally:
        _told = before


def plain_torch() -> AbstractContextManager[None]:
    """Within it nothing goes through the kernels."""
    return _kernels(False)


def interpreted() -> AbstractContextManager[None]:
    """Within it CPU tensors go through the kernels as well. Raises RuntimeError where they would not be interpreted."""
    if not INTERPRETED:
        raise RuntimeError("set TRITON_INTERPRET=1 before triton is imported: these kernels were defined for a GPU")
    return _kernels(True)


def _on_kernels(x: torch.Tensor) -> bool:
    return x.is_cuda if _told is None else _told  # asked a dozen times a layer: it must cost next to nothing


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x[...,D], weight[D] -> [...,D]: x / sqrt(mean(x^2) + eps) * weight, the mean taken in fp32."""
    chosen = _rms_norm.rms_norm if _on_kernels(x) else _rms_norm.reference
    return chosen(x, weight, eps)


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """x[...,D], residual[...,D], weight[D] -> (the norm of their sum [...,D], the sum [...,D])."""
    chosen = _rms_norm.add_rms_norm if _on_kernels(x) else _rms_norm.add_reference
    return chosen(x, residual, weight, eps)


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """gate[...,F], up[...,F] -> [...,F]: silu(gate) * up."""
    chosen = _silu_mul.silu_mul if _on_kernels(gate) else _silu_mul.reference
    return chosen(gate, up)


def rope(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """q[B,N,S,H], k[B,K,S,H], cos[S,H], sin[S,H] -> both turned by position.

    q and k are consumed: use what is returned.
    """
    if _on_kernels(q):
        rope_(q, k, cos, sin)
        return q, k
    return torch_ops.rotate(q, cos, sin), torch_ops.rotate(k, cos, sin)


def linear(x: torch.Tensor, weight: torch.Tensor | Int4Weight, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x[...,K] . weight[N,K] + bias[N] -> [...,N]. The weight may be stored in 4 bits.

    On a GPU, up to 16 rows (decode) go to the kernel that streams the weight; more rows are the case that vendors'
    libraries are made for, and there our teaching GEMM is the slower one.
    """
    if isinstance(weight, Int4Weight):
        out = _int4_linear(x, weight)
        return out if bias is None else out.add_(bias)
    if _on_kernels(x) and x.numel() <= MAX_ROWS * x.shape[-1]:
        return skinny_matmul(x, weight, bias)
    return F.linear(x, weight, bias)


def _int4_linear(x: torch.Tensor, weight: Int4Weight) -> torch.Tensor:
    if not _on_kernels(x):
        return F.linear(x, dequantize(weight, x.dtype))
    few = x.numel() <= MAX_ROWS * x.shape[-1]
    return int4_gemv(x, weight) if few else int4_matmul(x, weight)


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    kv_index: tuple[int, ...],
    window: int | None = None,
    lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """q[B,N,S,H], k, v[B,K,C,H] -> [B,N,S,H]: causal; q are the last S of the C positions (torch_ops.attend).

    One query a sequence is split over its cached positions (flash_decode); more are split over queries.
    """
    if not _on_kernels(q):
        return torch_ops.attend(q, k, v, kv_index, window, lengths)
    heads = _head_map(kv_index, k.shape[1], q.device)
    if q.shape[2] > 1:
        return flash_attention(q, k, v, heads, window=window)[0]
    if lengths is None:
        lengths = torch.full((q.shape[0],), k.shape[2], dtype=torch.int32, device=q.device)
    return flash_decode(q.squeeze(2), k, v, lengths, heads, window=window)[0].unsqueeze(2)


@functools.cache  # never evicts: a CUDA graph may still read what a call of long ago made
def _head_map(kv_index: tuple[int, ...], num_kv_heads: int, device: torch.device) -> HeadMap:
    """Made once: a launch must not copy anything to the device."""
    return HeadMap.of(kv_index, num_kv_heads, device)

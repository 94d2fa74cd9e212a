"""The operations of the layers: Triton kernel or plain torch, chosen in this one place.

Tensors on a GPU go through the kernels, tensors on a CPU through torch. `interpreted` sends CPU tensors through the
kernels too, in Triton's interpreter: slow, and the way to see without a GPU that the model is wired to them rightly.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from shardlab import torch_ops
from shardlab_kernels import rms_norm as _rms_norm
from shardlab_kernels import silu_mul as _silu_mul
from shardlab_kernels.flash_attention import flash_attention
from shardlab_kernels.flash_decode import flash_decode
from shardlab_kernels.heads import HeadMap
from shardlab_kernels.launch import INTERPRETED
from shardlab_kernels.rope import rope_
from shardlab_kernels.skinny import MAX_ROWS, skinny_matmul

_interpreted = False


@contextmanager
def interpreted() -> Iterator[None]:
    """Within it, CPU tensors go through the kernels as well. Raises RuntimeError where they would not be interpreted."""
    global _interpreted
    if not INTERPRETED:
        raise RuntimeError("set TRITON_INTERPRET=1 before triton is imported: these kernels were defined for a GPU")
    _interpreted, before = True, _interpreted
    try:
        yield
    finally:
        _interpreted = before


def _on_kernels(x: torch.Tensor) -> bool:
    return x.is_cuda or _interpreted


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


def rope(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """q[B,N,S,H], k[B,K,S,H], cos[S,H], sin[S,H] -> both turned by position. q and k are consumed: use what is returned."""
    if _on_kernels(q):
        rope_(q, k, cos, sin)
        return q, k
    return torch_ops.rotate(q, cos, sin), torch_ops.rotate(k, cos, sin)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x[...,K] . weight[N,K] + bias[N] -> [...,N].

    On a GPU, up to 16 rows (decode) go to the kernel that streams the weight; more rows are the case that vendors'
    libraries are made for, and there our teaching GEMM is the slower one.
    """
    if _on_kernels(x) and x.numel() <= MAX_ROWS * x.shape[-1]:
        return skinny_matmul(x, weight, bias)
    return F.linear(x, weight, bias)


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


@functools.lru_cache(maxsize=256)
def _head_map(kv_index: tuple[int, ...], num_kv_heads: int, device: torch.device) -> HeadMap:
    """Made once: a launch must not copy anything to the device."""
    return HeadMap.of(kv_index, num_kv_heads, device)

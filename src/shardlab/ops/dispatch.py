"""The operations of the layers: Triton kernel or plain torch, chosen in this one place.

Tensors on a GPU go through the kernels, tensors on a CPU through torch. Two contexts say otherwise, for a comparison:
`plain_torch` keeps a GPU's tensors from the kernels; `interpreted` sends a CPU's through them, in Triton's interpreter,
which is slow, and the way to see without a GPU that the model is wired to its kernels rightly.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F

from shardlab.ops import reference as torch_ops
from shardlab.ops.positions import check_integers, check_positions, check_window, first_of_run
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

# The open contexts of this thread, the innermost last: whether to use the kernels. None: the tensor's device says.
_chosen: ContextVar[tuple[list[bool], ...]] = ContextVar("_chosen", default=())


@contextmanager
def _kernels(used: bool) -> Iterator[None]:
    """Contexts may close in any order (a generator may end long after it was begun): each takes away its own word."""
    mine = [used]
    _chosen.set((*_chosen.get(), mine))
    try:
        yield
    finally:
        _chosen.set(tuple(one for one in _chosen.get() if one is not mine))


def plain_torch() -> AbstractContextManager[None]:
    """Within it nothing of this thread goes through the kernels.

    A generator that yields within it leaves it open for its caller, until it goes on: wrap the loop instead.
    """
    return _kernels(False)


def interpreted() -> AbstractContextManager[None]:
    """Within it CPU tensors go through the kernels as well. Raises RuntimeError where they would not be interpreted.

    For this thread, and for generators, it is as plain_torch.
    """
    if not INTERPRETED:
        raise RuntimeError("set TRITON_INTERPRET=1 before triton is imported: these kernels were defined for a GPU")
    return _kernels(True)


def on_kernels(x: torch.Tensor) -> bool:
    """Whether x goes through the kernels."""
    chosen = _chosen.get()  # asked a dozen times a layer: it must cost next to nothing
    return chosen[-1][0] if chosen else x.is_cuda


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x[...,D], weight[D] -> [...,D]: x / sqrt(mean(x^2) + eps) * weight, the mean taken in fp32."""
    chosen = _rms_norm.rms_norm if on_kernels(x) else _rms_norm.reference
    return chosen(x, weight, eps)


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """x[...,D], residual[...,D], weight[D] -> (the norm of their sum [...,D], the sum [...,D])."""
    chosen = _rms_norm.add_rms_norm if on_kernels(x) else _rms_norm.add_reference
    return chosen(x, residual, weight, eps)


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """gate[...,F], up[...,F] -> [...,F]: silu(gate) * up."""
    chosen = _silu_mul.silu_mul if on_kernels(gate) else _silu_mul.reference
    return chosen(gate, up)


def rope(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """q[B,N,S,H], k[B,K,S,H], cos, sin [S,H], or [B,S,H] where rows differ in position -> both turned by position.

    q and k are consumed: use what is returned. H is even, cos and sin repeat their first half.
    """
    if on_kernels(q):
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
    if on_kernels(x) and x.numel() <= MAX_ROWS * x.shape[-1]:
        return skinny_matmul(x, weight, bias)
    return F.linear(x, weight, bias)


def _int4_linear(x: torch.Tensor, weight: Int4Weight) -> torch.Tensor:
    if not on_kernels(x):
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
    q_positions: torch.Tensor | None = None,
) -> torch.Tensor:
    """q[B,N,S,H], k, v[B,K,C,H] -> [B,N,S,H]: causal softmax attention; query head i reads KV head kv_index[i].

    Key j is at position j. `lengths`[B]: only the first lengths[b] positions of row b are filled, and nothing of the
    others reaches a result, be they NaN; without it all C are. `q_positions`, [S] or [B,S]: where the queries are; by
    default the last S of the filled positions. A query sees the filled keys up to its own position, with `window` the
    last so many of those; where there is none, out is 0. Positions and lengths are int64 or int32.

    On a GPU one query a row is split over its cached positions (flash_decode), more are split over queries
    (flash_attention). Not yet there: more than one query at positions that the host does not know to be one run, the
    same for all rows (q_positions[S] in the host's memory says it): those go through torch.

    Raises ValueError for lengths, positions or a window that do not fit.
    """
    if lengths is not None or q_positions is not None:
        _check(q, k, window, lengths, q_positions)
    if not on_kernels(q):
        return torch_ops.attend(q, k, v, kv_index, window, lengths, q_positions)
    if q.shape[2] == 1 and (q_positions is None or window is None):
        seen = _decode_lengths(k, lengths, q_positions)
        heads = head_map(kv_index, k.shape[1], q.device)
        return flash_decode(q.squeeze(2), k, v, seen, heads, window=window)[0].unsqueeze(2)
    start = None if q_positions is None else first_of_run(q_positions)
    if (lengths is None and q_positions is None) or start is not None:
        heads = head_map(kv_index, k.shape[1], q.device)
        filled = None if lengths is None else lengths.to(torch.int32)
        return flash_attention(q, k, v, heads, window=window, query_offset=start, kv_lengths=filled)[0]
    return torch_ops.attend(q, k, v, kv_index, window, lengths, q_positions)


def _check(
    q: torch.Tensor,
    k: torch.Tensor,
    window: int | None,
    lengths: torch.Tensor | None,
    q_positions: torch.Tensor | None,
) -> None:
    batch, num_queries = q.shape[0], q.shape[2]
    check_window(window)
    if lengths is not None:
        if lengths.shape != (batch,):
            raise ValueError(
                f"lengths{tuple(lengths.shape)}: [{batch}] is needed, one for each row of q{tuple(q.shape)}"
            )
        check_integers("lengths", lengths)
        if lengths.device != k.device:
            raise ValueError(f"lengths is on {lengths.device}, k on {k.device}: one device is needed")
    if q_positions is not None:
        check_positions("q_positions", q_positions, batch, num_queries)


def _decode_lengths(k: torch.Tensor, lengths: torch.Tensor | None, q_positions: torch.Tensor | None) -> torch.Tensor:
    """-> int32[B]: how many keys the one query of each row sees, the window apart. The device is asked for nothing."""
    if q_positions is not None:  # [1] or [B,1]
        upto = q_positions.to(k.device).clamp(min=-1).view(-1).expand(k.shape[0]) + 1
        lengths = upto if lengths is None else torch.minimum(upto, lengths)
    if lengths is None:
        return torch.full((k.shape[0],), k.shape[2], dtype=torch.int32, device=k.device)
    return lengths.to(torch.int32)


@functools.cache  # never evicts: a CUDA graph may still read what a call of long ago made
def head_map(kv_index: tuple[int, ...], num_kv_heads: int, device: torch.device) -> HeadMap:
    """Made once: a launch must not copy anything to the device."""
    return HeadMap.of(kv_index, num_kv_heads, device)

"""The element-wise operations that have a Triton kernel: kernel or torch reference, chosen by device in this
one place.
"""

from __future__ import annotations

import torch

from shardlab_kernels import rms_norm as _rms_norm
from shardlab_kernels import silu_mul as _silu_mul


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x[...,D], weight[D] -> [...,D]: x / sqrt(mean(x^2) + eps) * weight, the mean taken in fp32."""
    chosen = _rms_norm.rms_norm if x.is_cuda else _rms_norm.reference
    return chosen(x, weight, eps)


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """gate[...,F], up[...,F] -> [...,F]: silu(gate) * up."""
    chosen = _silu_mul.silu_mul if gate.is_cuda else _silu_mul.reference
    return chosen(gate, up)

"""silu(gate) * up in one pass over memory: the middle of the gated MLP. Shazeer 2020, arXiv 2002.05202."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from shardlab_kernels.checks import check_dtype
from shardlab_kernels.launch import cdiv, check_device, launch

BLOCK = 1024


def reference(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """gate[...,F], up[...,F] -> silu(gate) * up. In torch: read and write for silu, 2 reads and a write: 5 x nbytes."""
    return torch.nn.functional.silu(gate) * up


def moved_bytes(gate: torch.Tensor) -> int:
    """From tensors. What the kernel moves: read gate, read up, write the result."""
    return 3 * gate.nbytes


@triton.jit
def _silu_mul_kernel(gate_ptr, up_ptr, out_ptr, num_elements, BLOCK: tl.constexpr):
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < num_elements
    gate = tl.load(gate_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    # Rounded after silu, as the reference does; casts are explicit (the interpreter needs them for bf16).
    silu = (gate / (1.0 + tl.exp(-gate))).to(out_ptr.dtype.element_ty).to(tl.float32)
    tl.store(out_ptr + offsets, (silu * up).to(out_ptr.dtype.element_ty), mask=inside)


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """gate[...,F], up[...,F] -> [...,F]. Raises ValueError for shapes, dtypes or devices that differ."""
    if gate.shape != up.shape:
        raise ValueError(f"gate{tuple(gate.shape)} and up{tuple(up.shape)}: one shape is needed")
    check_dtype(gate=gate, up=up)
    check_device(gate=gate, up=up)
    gate, up = gate.contiguous(), up.contiguous()
    out = torch.empty_like(gate)
    if gate.numel():
        launch(_silu_mul_kernel, (cdiv(gate.numel(), BLOCK),), gate, up, out, gate.numel(), BLOCK=BLOCK)
    return out

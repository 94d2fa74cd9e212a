"""theory.kernels counts what the kernels themselves count: two hands, one number. No kernel runs here."""

from __future__ import annotations

import pytest
import torch

from shardlab.theory import kernels as theory
from shardlab.theory.kernels import Work
from shardlab_kernels import (
    flash_attention,
    flash_decode,
    grouped_matmul,
    matmul,
    merge,
    moe_permute,
    moe_route,
    rms_norm,
    rope,
    silu_mul,
)

HEADS = {"heads": 32, "kv_heads": 8, "head_dim": 128}


def shape(*sizes: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """A tensor without memory: only its sizes count."""
    return torch.empty(*sizes, dtype=dtype, device="meta")


def test_attention() -> None:
    q, k = shape(2, 32, 512, 128), shape(2, 8, 640, 128)
    found = Work(flash_attention.moved_bytes(q, k, k), flash_attention.flops(q, k))
    assert found == theory.flash_attention(batch=2, seq=512, cached=640, **HEADS)


def test_decode() -> None:
    found = Work(
        flash_decode.moved_bytes(shape(3, 32, 128), shape(3, 8, 700, 128), [700] * 3),
        flash_decode.flops([700] * 3, 32, 128),
    )
    assert found == theory.flash_decode(batch=3, cached=700, **HEADS)


def test_merge() -> None:
    outs, lses = shape(4, 32, 128, dtype=torch.float32), shape(4, 32, dtype=torch.float32)
    assert merge.moved_bytes(outs, lses) == theory.merge(parts=4, rows=32, head_dim=128, item_bytes=4).moved_bytes


def test_one_pass() -> None:
    x, weight = shape(100, 4096), shape(4096)
    assert rms_norm.moved_bytes(x, weight) == theory.rms_norm(rows=100, d_model=4096).moved_bytes
    q, k, cos = shape(2, 32, 100, 128), shape(2, 8, 100, 128), shape(100, 128)
    assert rope.moved_bytes(q, k, cos) == theory.rope(batch=2, seq=100, **HEADS).moved_bytes
    assert silu_mul.moved_bytes(x) == theory.silu_mul(rows=100, d_ff=4096).moved_bytes


def test_matmul() -> None:
    found = matmul.moved_bytes(shape(16, 4096), shape(14336, 4096))
    assert found == theory.matmul(rows=16, width_in=4096, width_out=14336).moved_bytes


def test_experts() -> None:
    logits, x, rows = shape(64, 8), shape(64, 4096), shape(128, 4096)
    route = Work(moe_route.moved_bytes(logits, 2), moe_route.flops(logits, 2))
    assert route == theory.route(tokens=64, experts=8, chosen=2)
    assert moe_permute.moved_bytes_permute(x, 2) == theory.permute(tokens=64, chosen=2, d_model=4096).moved_bytes
    back = Work(moe_permute.moved_bytes_unpermute(rows, 2), moe_permute.flops_unpermute(rows))
    assert back == theory.unpermute(tokens=64, chosen=2, d_model=4096)
    wanted = theory.grouped_matmul(tokens=64, chosen=2, experts=8, width_in=4096, width_out=14336)
    w = shape(8, 14336, 4096)
    assert grouped_matmul.flops(rows, w) == wanted.flops
    assert grouped_matmul.moved_bytes(rows, w) == pytest.approx(wanted.moved_bytes, rel=1e-3)  # all 8 awake, nearly

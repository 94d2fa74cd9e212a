"""The Triton kernels against their references, in interpreter mode without a GPU. Odd sizes; fp32 and bf16."""

from __future__ import annotations

import pytest
import torch

from shardlab_kernels import rms_norm, silu_mul

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = (1, 7, 127, 128, 129, 576, 1023)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}


def draw(*shape: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("d", SIZES)
def test_rms_norm(d: int, dtype: torch.dtype) -> None:
    x, weight = draw(2, 3, d, dtype=dtype, seed=0), draw(d, dtype=dtype, seed=1)
    out = rms_norm.rms_norm(x, weight, 1e-5)
    assert out.dtype == dtype and out.shape == x.shape
    torch.testing.assert_close(out, rms_norm.reference(x, weight, 1e-5), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("f", SIZES)
def test_silu_mul(f: int, dtype: torch.dtype) -> None:
    gate, up = draw(2, 3, f, dtype=dtype, seed=0), draw(2, 3, f, dtype=dtype, seed=1)
    out = silu_mul.silu_mul(gate, up)
    assert out.dtype == dtype and out.shape == gate.shape
    torch.testing.assert_close(out, silu_mul.reference(gate, up), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_strided_and_empty_inputs() -> None:
    gate, up = draw(8, 6, dtype=torch.float32, seed=0).T, draw(8, 6, dtype=torch.float32, seed=1).T
    torch.testing.assert_close(silu_mul.silu_mul(gate, up), silu_mul.reference(gate, up))
    weight = draw(8, dtype=torch.float32, seed=2)
    torch.testing.assert_close(rms_norm.rms_norm(gate, weight, 1e-6), rms_norm.reference(gate, weight, 1e-6))
    assert silu_mul.silu_mul(gate[:0], up[:0]).shape == (0, 8)
    assert rms_norm.rms_norm(gate[:0], weight, 1e-6).shape == (0, 8)


def test_bytes_are_those_of_one_pass() -> None:
    x, weight = torch.empty(4, 10), torch.empty(10)
    assert rms_norm.moved_bytes(x, weight) == (40 + 40 + 10) * 4
    assert silu_mul.moved_bytes(x) == 3 * 40 * 4


@pytest.mark.parametrize(
    ("x", "weight", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(4), r"\(2, 3\).*\(4,\)"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.bfloat16), "bfloat16"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), "floating-point"),
        (torch.zeros(2, 3), torch.zeros(3, device="meta"), "meta"),
        (torch.zeros(2, 0), torch.zeros(0), "D=0"),
    ],
)
def test_rms_norm_refuses(x: torch.Tensor, weight: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rms_norm.rms_norm(x, weight, 1e-6)


@pytest.mark.parametrize(
    ("gate", "up", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 2), r"\(2, 3\).*\(3, 2\)"),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float16), "float16"),
        (torch.zeros(2), torch.zeros(2, device="meta"), "meta"),
    ],
)
def test_silu_mul_refuses(gate: torch.Tensor, up: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        silu_mul.silu_mul(gate, up)

"""silu(gate) * up against fp64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab_kernels import silu_mul
from tests.kernels.support import DEVICE, DTYPES, assert_close, draw


def check(gate: torch.Tensor, up: torch.Tensor) -> None:
    out = silu_mul.silu_mul(gate, up)
    assert out.dtype == gate.dtype and out.shape == gate.shape
    assert_close(out, silu_mul.reference(gate.double(), up.double()), gate.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("f", (1, 7, 127, 128, 129, 576, 1023))
def test_silu_mul(f: int, dtype: torch.dtype) -> None:
    check(draw(2, 3, f, dtype=dtype, seed=0), draw(2, 3, f, dtype=dtype, seed=1))


@pytest.mark.filterwarnings("ignore:overflow")  # numpy's, in the interpreter: exp gives infinity, as it should
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_gates_neither_overflow_nor_vanish(dtype: torch.dtype) -> None:
    gate = torch.tensor([-1e4, -200.0, -89.0, -20.0, 0.0, 20.0, 89.0, 200.0, 1e4]).to(DEVICE, dtype)
    check(gate, torch.ones_like(gate))


def test_strided_inputs() -> None:
    gate, up = draw(8, 6, dtype=torch.float32, seed=0).T, draw(6, 16, dtype=torch.float32, seed=1)[:, ::2]
    check(gate, up)


def test_empty_inputs() -> None:
    assert silu_mul.silu_mul(torch.empty(0, 8, device=DEVICE), torch.empty(0, 8, device=DEVICE)).shape == (0, 8)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(rows=st.integers(1, 9), f=st.integers(1, 300), seed=st.integers(0, 99), dtype=st.sampled_from(DTYPES))
def test_any_size(rows: int, f: int, seed: int, dtype: torch.dtype) -> None:
    check(draw(rows, f, dtype=dtype, seed=seed), draw(rows, f, dtype=dtype, seed=seed + 1))


def test_bytes_are_those_of_one_pass() -> None:
    assert silu_mul.moved_bytes(torch.empty(4, 10)) == 3 * 40 * 4


@pytest.mark.parametrize(
    ("up", "message"),
    [
        (torch.zeros(3, 2), r"gate\(2, 3\) and up\(3, 2\)"),
        (torch.zeros(2, 3, dtype=torch.float16), "up is torch.float16"),
        (torch.zeros(2, 3, device="meta"), "up on meta"),
    ],
)
def test_refuses(up: torch.Tensor, message: str) -> None:
    up = up if up.device.type == "meta" else up.to(DEVICE)
    with pytest.raises(ValueError, match=message):
        silu_mul.silu_mul(torch.zeros(2, 3, device=DEVICE), up)

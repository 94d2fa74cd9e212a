"""The teaching GEMM against fp64, and what its docstring claims about tiles."""

from __future__ import annotations

import pytest
import torch
import triton
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab_kernels import matmul
from tests.kernels.support import DEVICE, DTYPES, assert_close, draw


def check(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None) -> None:
    out = matmul.matmul(x, w, bias)
    assert out.dtype == x.dtype and out.shape == (*x.shape[:-1], w.shape[0]) and out.is_contiguous()
    assert_close(out, matmul.reference(x.double(), w.double(), None if bias is None else bias.double()), x.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 1, 1), (127, 129, 128), (129, 127, 127), (64, 64, 64), (3, 257, 72), (611, 67, 40)]
)
def test_matmul(m: int, n: int, k: int, dtype: torch.dtype) -> None:
    check(draw(m, k, dtype=dtype, seed=0), draw(n, k, dtype=dtype, seed=1, fan_in=k))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bias_is_added_once(dtype: torch.dtype) -> None:
    w, bias = draw(131, 96, dtype=dtype, seed=1, fan_in=96), draw(131, dtype=dtype, seed=2)
    check(draw(2, 37, 96, dtype=dtype, seed=0), w, bias)


def test_more_tiles_than_programs_in_every_group() -> None:
    """11 x 3 tiles: a whole group of 8 rows, a lower one, and several tiles a program."""
    check(draw(700, 24, dtype=torch.float32, seed=0), draw(190, 24, dtype=torch.float32, seed=1, fan_in=24))


def test_strided_inputs() -> None:
    dtype = torch.bfloat16
    x, w = draw(2, 96, 9, dtype=dtype, seed=0).mT, draw(160, 96, dtype=dtype, seed=1, fan_in=96)
    check(x, w[::2])
    check(draw(9, 200, dtype=dtype, seed=0)[:, 3:99], w[:, :].clone().T.contiguous().T)
    check(draw(1, 96, dtype=dtype, seed=0).expand(5, 96), w, draw(320, dtype=dtype, seed=2)[::2])


@pytest.mark.parametrize(("m", "n"), [(0, 8), (3, 0)])
def test_empty_inputs(m: int, n: int) -> None:
    assert matmul.matmul(torch.zeros(2, m, 16, device=DEVICE), torch.zeros(n, 16, device=DEVICE)).shape == (2, m, n)


def test_a_sum_of_nothing() -> None:
    x, w, bias = torch.empty(3, 0, device=DEVICE), torch.empty(5, 0, device=DEVICE), torch.arange(5.0, device=DEVICE)
    assert torch.equal(matmul.matmul(x, w), torch.zeros(3, 5, device=DEVICE))
    assert torch.equal(matmul.matmul(x, w, bias), bias.expand(3, 5))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    m=st.integers(1, 150),
    n=st.integers(1, 150),
    k=st.integers(1, 150),
    dtype=st.sampled_from(DTYPES),
    biased=st.booleans(),
)
def test_any_size(m: int, n: int, k: int, dtype: torch.dtype, biased: bool) -> None:
    bias = draw(n, dtype=dtype, seed=2) if biased else None
    check(draw(m, k, dtype=dtype, seed=0), draw(n, k, dtype=dtype, seed=1, fan_in=k), bias)


def test_rows_are_copied_only_where_the_copy_engine_needs_it() -> None:
    aligned = torch.zeros(4, 64, dtype=torch.bfloat16)
    assert matmul._readable(aligned) is aligned
    assert matmul._readable(aligned[:, 8:40]).data_ptr() == aligned[:, 8:40].data_ptr()
    padded = matmul._readable(aligned[:, :33])
    assert padded.data_ptr() == aligned.data_ptr()  # its rows still start at multiples of 16 bytes
    for x in (aligned[:, 1:33], aligned[:, :33].contiguous(), aligned.T, aligned[:1].expand(4, 64)):
        found = matmul._readable(x)
        assert found.stride(0) * 2 % 16 == 0 and found.stride(1) == 1 and torch.equal(found[:, : x.shape[1]], x)


def test_bytes_flops_and_intensity() -> None:
    x, w, bias = torch.empty(2, 3, 5), torch.empty(7, 5), torch.empty(7)
    assert matmul.moved_bytes(x, w) == (30 + 35 + 42) * 4
    assert matmul.moved_bytes(x, w, bias) == (30 + 35 + 42 + 7) * 4
    assert matmul.flops(6, 7, 5) == 420
    found = [matmul.intensity(m, n, 2) for m, n in ((64, 64), (128, 128), (128, 256))]
    assert [int(one) for one in found] == [32, 64, 85]  # the docstring's


def test_configurations_fit_where_the_first_must() -> None:
    for configs, element_size in ((matmul.HALF_CONFIGS, 2), (matmul.FP32_CONFIGS, 4)):
        first = configs[0]
        tile = (first.kwargs["BLOCK_M"] + first.kwargs["BLOCK_N"]) * first.kwargs["BLOCK_K"] * element_size
        assert tile * first.num_stages <= 99 << 10
        assert len(configs) <= 6
    assert all(isinstance(config, triton.Config) for config in matmul.HALF_CONFIGS)


@pytest.mark.parametrize(
    ("x", "w", "bias", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(5, 4), None, r"w\(5, 4\) has K=4, x\(2, 3\) has K=3"),
        (torch.zeros(2, 3), torch.zeros(5, 3), torch.zeros(6), r"bias\(6,\) has N=6"),
        (torch.zeros(2, 3), torch.zeros(3), None, r"w\[N,K\] is needed"),
        (torch.zeros(2, 3), torch.zeros(5, 3, dtype=torch.float16), None, "w is torch.float16"),
        (torch.zeros(2, 3, dtype=torch.float64), torch.zeros(5, 3, dtype=torch.float64), None, "x is torch.float64"),
        (torch.zeros(2, 3), torch.zeros(5, 3, device="meta"), None, "w on meta"),
    ],
)
def test_refuses(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, message: str) -> None:
    x, bias = x.to(DEVICE), None if bias is None else bias.to(DEVICE)
    with pytest.raises(ValueError, match=message):
        matmul.matmul(x, w if w.device.type == "meta" else w.to(DEVICE), bias)

"""The four-bit product for a few rows against fp64: odd sizes, splits of K, and the extremes of its number tricks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab_kernels.int4 import Int4Weight, quantize, reference
from shardlab_kernels.int4_gemv import int4_gemv
from tests.kernels.support import DEVICE, DTYPES, assert_close, draw


def make(n: int, k: int, group: int, minimum: bool, seed: int = 0) -> Int4Weight:
    return quantize(draw(n, k, dtype=torch.float32, seed=seed, fan_in=k), group, minimum)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("group", "minimum"), [(32, True), (128, False)])
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(1, 1, 128), (1, 127, 384), (1, 129, 1152), (2, 1, 128), (5, 127, 128), (16, 128, 384), (16, 67, 640)],
)
def test_against_fp64(m: int, n: int, k: int, group: int, minimum: bool, dtype: torch.dtype) -> None:
    weight, x = make(n, k, group, minimum), draw(m, k, dtype=dtype, seed=1)
    out = int4_gemv(x, weight)
    assert out.dtype == dtype and out.shape == (m, n)
    assert_close(out, reference(x.double(), weight), dtype)


@pytest.mark.parametrize("m", [1, 3])
def test_k_is_shared_and_the_bits_stay(m: int) -> None:
    """Few outputs and a long K: several programs a tile, the last of them with little or nothing to do."""
    weight, x = make(19, 2208, 32, True), draw(m, 2208, dtype=torch.float32, seed=1)
    out = int4_gemv(x, weight)
    assert_close(out, reference(x.double(), weight), torch.float32)
    assert torch.equal(out, int4_gemv(x, weight))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    m=st.integers(1, 16),
    n=st.integers(1, 70),
    groups=st.integers(1, 3),
    group=st.sampled_from([32, 128]),
    minimum=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_shape(m: int, n: int, groups: int, group: int, minimum: bool, seed: int) -> None:
    weight, x = make(n, groups * group, group, minimum, seed), draw(m, groups * group, dtype=torch.float32, seed=seed)
    assert_close(int4_gemv(x, weight), reference(x.double(), weight), torch.float32)


@pytest.mark.parametrize("m", [1, 16])
def test_each_weight_alone(m: int) -> None:
    """x picks one column: what comes out is that weight, whichever nibble of whichever word it is."""
    weight = make(5, 64, 32, minimum=m == 1)
    for x in torch.eye(64, device=DEVICE).split(m):
        assert_close(int4_gemv(x, weight), reference(x.double(), weight), torch.float32)


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize(("x_size", "w_size"), [(2.0**40, 2.0**-10), (2.0**-40, 1.0), (1.0, 2.0**15), (1.0, 2.0**-14)])
def test_very_large_and_very_small_numbers(x_size: float, w_size: float, m: int) -> None:
    """Nibbles are read as floats of 2**-149: neither end of fp32 may be met."""
    w, x = draw(9, 64, dtype=torch.float32, seed=0, fan_in=64), draw(m, 64, dtype=torch.float32, seed=1)
    weight = quantize(w * w_size, 32, minimum=True)
    out = int4_gemv(x * x_size, weight).double() / (x_size * w_size)
    assert_close(out, reference((x * x_size).double(), weight) / (x_size * w_size), torch.float32)


@pytest.mark.parametrize("m", [1, 3])
def test_shards_and_strides(m: int) -> None:
    weight, x = make(50, 512, 32, True), draw(512, m, dtype=torch.float32, seed=1).T
    part = weight.rows(7, 48).columns(96, 416)
    assert_close(int4_gemv(x, weight), reference(x.double(), weight), torch.float32)
    assert_close(int4_gemv(x[:, 96:416], part), reference(x[:, 96:416].double(), part), torch.float32)


def test_leading_dims_and_nothing() -> None:
    weight, x = make(10, 64, 32, False), draw(2, 3, 64, dtype=torch.float32, seed=1)
    assert_close(int4_gemv(x, weight), reference(x.double(), weight), torch.float32)
    assert_close(int4_gemv(x[0, 0], weight), reference(x[0, 0].double(), weight), torch.float32)
    assert int4_gemv(x[:0], weight).shape == (0, 3, 10)
    assert int4_gemv(x, weight.rows(4, 4)).shape == (2, 3, 0)


def test_what_is_refused() -> None:
    weight = make(4, 64, 32, False)
    for x, message in [
        (torch.zeros(17, 64), r"x\(17, 64\) has 17 rows: at most 16.*int4_matmul"),
        (torch.zeros(2, 32), r"x\(2, 32\) and weight\(4, 64\)"),
        (torch.zeros(()), r"x\(\)"),
        (torch.zeros(2, 64, dtype=torch.int32), "x is torch.int32"),
        (torch.zeros(2, 64, dtype=torch.float64), "x is torch.float64"),
    ]:
        with pytest.raises(ValueError, match=message):
            int4_gemv(x.to(DEVICE), weight)
    with pytest.raises(ValueError, match="x is on meta, packed on"):
        int4_gemv(torch.zeros(2, 64, device="meta"), weight)

"""The four-bit product for many rows against fp64: odd sizes, groups, shards, and the ends of the number range."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab_kernels import int4_matmul as module
from shardlab_kernels.int4 import Int4Weight, quantize, reference
from shardlab_kernels.int4_matmul import int4_matmul
from tests.kernels.support import DEVICE, DTYPES, assert_close, draw


def make(n: int, k: int, group: int, minimum: bool, seed: int = 0) -> Int4Weight:
    return quantize(draw(n, k, dtype=torch.float32, seed=seed, fan_in=k), group, minimum)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("group", "minimum"), [(32, True), (32, False), (128, True), (128, False)])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 128), (127, 65, 256), (129, 128, 384)])
def test_against_fp64(m: int, n: int, k: int, group: int, minimum: bool, dtype: torch.dtype) -> None:
    weight, x = make(n, k, group, minimum), draw(m, k, dtype=dtype, seed=1)
    out = int4_matmul(x, weight)
    assert out.dtype == dtype and out.shape == (m, n)
    assert_close(out, reference(x.double(), weight), dtype)


def test_more_tiles_than_go_together() -> None:
    """Tiles are walked in groups of rows; the last group is a smaller one, and every tile is visited once."""
    assert module.TILES_TOGETHER == 8
    weight, x = make(150, 32, 32, True), draw(64 * 10 + 1, 32, dtype=torch.float32, seed=1)
    assert_close(int4_matmul(x, weight), reference(x.double(), weight), torch.float32)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    m=st.integers(1, 80),
    n=st.integers(1, 80),
    groups=st.integers(1, 3),
    group=st.sampled_from([32, 128]),
    minimum=st.booleans(),
    dtype=st.sampled_from(DTYPES),
)
def test_any_shape(m: int, n: int, groups: int, group: int, minimum: bool, dtype: torch.dtype) -> None:
    weight, x = make(n, groups * group, group, minimum), draw(m, groups * group, dtype=dtype, seed=m)
    assert_close(int4_matmul(x, weight), reference(x.double(), weight), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("w_size", [2.0**15, 2.0**-14])
def test_weights_at_the_ends_of_fp16(w_size: float, dtype: torch.dtype) -> None:
    """The kernel keeps weights 2**-39 times too small: neither end of the dtype may be met."""
    w, x = draw(9, 64, dtype=torch.float32, seed=0, fan_in=64), draw(20, 64, dtype=dtype, seed=1)
    weight = quantize(w * w_size, 32, minimum=True)
    if dtype == torch.float16 and w_size > 1:
        x = x / 4  # the product itself must stay within fp16
    assert_close(int4_matmul(x, weight).double() / w_size, reference(x.double(), weight) / w_size, dtype)


def test_shards_and_strides() -> None:
    weight, x = make(50, 512, 128, False), draw(512, 21, dtype=torch.float32, seed=1).T
    part = weight.rows(7, 48).columns(128, 384)
    assert_close(int4_matmul(x, weight), reference(x.double(), weight), torch.float32)
    assert_close(int4_matmul(x[:, 128:384], part), reference(x[:, 128:384].double(), part), torch.float32)


def test_leading_dims_and_nothing() -> None:
    weight, x = make(10, 64, 32, False), draw(2, 9, 64, dtype=torch.float32, seed=1)
    assert_close(int4_matmul(x, weight), reference(x.double(), weight), torch.float32)
    assert int4_matmul(x[:0], weight).shape == (0, 9, 10)
    assert int4_matmul(x, weight.rows(4, 4)).shape == (2, 9, 0)


def test_what_is_refused() -> None:
    weight = make(4, 64, 32, False)
    for x, message in [
        (torch.zeros(20, 32), r"x\(20, 32\) and weight\(4, 64\)"),
        (torch.zeros(20, 64, dtype=torch.int64), "x is torch.int64"),
    ]:
        with pytest.raises(ValueError, match=message):
            int4_matmul(x.to(DEVICE), weight)
    with pytest.raises(ValueError, match="x is on meta, packed on"):
        int4_matmul(torch.zeros(2, 64, device="meta"), weight)

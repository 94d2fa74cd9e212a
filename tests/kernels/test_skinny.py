"""The product for a few rows against fp64: K split or not, the last program to arrive adds the parts in order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab_kernels import skinny, split_k
from tests.kernels.support import DEVICE, DTYPES, assert_close, draw


def check(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None, num_splits: int | None = None) -> None:
    out = skinny.skinny_matmul(x, w, bias, num_splits=num_splits)
    assert out.dtype == x.dtype and out.shape == (*x.shape[:-1], w.shape[0])
    assert_close(out, skinny.reference(x.double(), w.double(), None if bias is None else bias.double()), x.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("m", (1, 2, 16))
@pytest.mark.parametrize(("n", "k"), [(1, 1), (127, 129), (129, 127), (64, 512), (70, 1100)])
def test_skinny(m: int, n: int, k: int, dtype: torch.dtype) -> None:
    check(draw(m, k, dtype=dtype, seed=0), draw(n, k, dtype=dtype, seed=1, fan_in=k))


@pytest.mark.parametrize("num_splits", (1, 2, 3, 16))
@pytest.mark.parametrize("m", (1, 5))
@pytest.mark.parametrize("k", (100, 1400))
def test_every_split_is_the_product_and_the_same_bits_again(k: int, m: int, num_splits: int) -> None:
    """K=100 leaves most of 16 splits without work: they add zeros."""
    x, w = draw(m, k, dtype=torch.float32, seed=0), draw(20, k, dtype=torch.float32, seed=1, fan_in=k)
    bias = draw(20, dtype=torch.float32, seed=2)
    check(x, w, bias, num_splits)
    found = [skinny.skinny_matmul(x, w, bias, num_splits=num_splits) for _ in range(2)]
    assert torch.equal(*found)


@pytest.mark.parametrize("m", (1, 3))
def test_bias_is_added_once_however_k_is_split(m: int) -> None:
    x, w, bias = draw(m, 900, dtype=torch.float32, seed=0), torch.zeros(9, 900, device=DEVICE), torch.arange(9.0)
    for num_splits in (1, 2, 4):
        out = skinny.skinny_matmul(x, w, bias.to(DEVICE), num_splits=num_splits)
        assert torch.equal(out, bias.to(DEVICE).expand(m, 9))


def test_leading_dims_are_rows() -> None:
    w = draw(33, 40, dtype=torch.bfloat16, seed=1, fan_in=40)
    check(draw(2, 3, 40, dtype=torch.bfloat16, seed=0), w)
    check(draw(4, 1, 40, dtype=torch.bfloat16, seed=0), w)
    check(draw(1, 1, 40, dtype=torch.bfloat16, seed=0), w)
    check(draw(40, dtype=torch.bfloat16, seed=0), w)


@pytest.mark.parametrize("m", (1, 4))
def test_strided_inputs(m: int) -> None:
    w = draw(60, 90, dtype=torch.float32, seed=1, fan_in=80)[::2, 3:83]
    check(draw(80, m, dtype=torch.float32, seed=0).T, w, draw(60, dtype=torch.float32, seed=2)[::2], 2)


@pytest.mark.parametrize(("m", "n"), [(0, 8), (3, 0)])
def test_empty_inputs(m: int, n: int) -> None:
    assert skinny.skinny_matmul(torch.zeros(m, 16, device=DEVICE), torch.zeros(n, 16, device=DEVICE)).shape == (m, n)


@pytest.mark.parametrize("m", (1, 3))
def test_a_sum_of_nothing(m: int) -> None:
    x, w, bias = torch.empty(m, 0, device=DEVICE), torch.empty(5, 0, device=DEVICE), torch.arange(5.0, device=DEVICE)
    assert torch.equal(skinny.skinny_matmul(x, w), torch.zeros(m, 5, device=DEVICE))
    assert torch.equal(skinny.skinny_matmul(x, w, bias, num_splits=2), bias.expand(m, 5))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    m=st.integers(1, 16),
    n=st.integers(1, 90),
    k=st.integers(1, 700),
    num_splits=st.one_of(st.none(), st.integers(1, 16)),
    dtype=st.sampled_from(DTYPES),
    biased=st.booleans(),
)
def test_any_size(m: int, n: int, k: int, num_splits: int | None, dtype: torch.dtype, biased: bool) -> None:
    bias = draw(n, dtype=dtype, seed=2) if biased else None
    check(draw(m, k, dtype=dtype, seed=0), draw(n, k, dtype=dtype, seed=1, fan_in=k), bias, num_splits)


def test_counters_end_as_they_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a CUDA graph may run again with the same buffers."""
    made: list[tuple[torch.Tensor | None, torch.Tensor | None]] = []

    def remembered(
        splits: int, num_elements: int, tiles: int, device: torch.device
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        made.append(split_k.split_buffers(splits, num_elements, tiles, device))
        return made[-1]

    monkeypatch.setattr(skinny, "split_buffers", remembered)
    check(draw(3, 600, dtype=torch.float32, seed=0), draw(70, 600, dtype=torch.float32, seed=1, fan_in=600), None, 4)
    ((workspace, counters),) = made
    assert workspace is not None and counters is not None
    assert not counters.any()
    assert not workspace.isnan().any()  # every split left its part


def test_splits_come_from_sizes() -> None:
    device = torch.device("cpu")  # stands in with 4 multiprocessors
    assert split_k.count_splits(1, 64, device) == 8
    assert split_k.count_splits(3, 64, device) == 2
    assert split_k.count_splits(8, 64, device) == 1
    assert split_k.count_splits(1000, 64, device) == 1
    assert split_k.count_splits(1, 5, device) == 2  # at least two steps each
    assert split_k.count_splits(1, 0, device) == 1
    assert split_k.count_splits(1, 1000, device, per_sm=100) == split_k.MAX_SPLITS


def test_bytes_and_flops() -> None:
    x, w, bias = torch.empty(2, 5), torch.empty(7, 5), torch.empty(7)
    assert skinny.moved_bytes(x, w) == (10 + 35 + 14) * 4
    assert skinny.moved_bytes(x, w, bias) == (10 + 35 + 14 + 7) * 4
    assert skinny.moved_bytes(x, w, num_splits=4) == (10 + 35 + 14 + 2 * 4 * 14) * 4
    assert skinny.flops(2, 7, 5) == 140


@pytest.mark.parametrize(
    ("x", "w", "bias", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(5, 4), None, r"w\(5, 4\) has K=4, x\(2, 3\) has K=3"),
        (torch.zeros(2, 3), torch.zeros(5, 3), torch.zeros(6), r"bias\(6,\) has N=6"),
        (torch.zeros(2, 3), torch.zeros(5, 3, dtype=torch.float16), None, "w is torch.float16"),
        (torch.zeros(2, 3), torch.zeros(5, 3, device="meta"), None, "w on meta"),
        (torch.zeros(2, 3), torch.zeros(3, 5).T, None, "w.*last dim must be contiguous"),
        (torch.zeros(17, 3), torch.zeros(5, 3), None, r"x\(17, 3\) has 17 rows: at most 16"),
    ],
)
def test_refuses(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, message: str) -> None:
    x, bias = x.to(DEVICE), None if bias is None else bias.to(DEVICE)
    with pytest.raises(ValueError, match=message):
        skinny.skinny_matmul(x, w if w.device.type == "meta" else w.to(DEVICE), bias)


@pytest.mark.parametrize("num_splits", (0, 17))
def test_refuses_a_split(num_splits: int) -> None:
    with pytest.raises(ValueError, match=f"num_splits={num_splits}: 1..16"):
        skinny.skinny_matmul(torch.zeros(2, 3, device=DEVICE), torch.zeros(5, 3, device=DEVICE), num_splits=num_splits)

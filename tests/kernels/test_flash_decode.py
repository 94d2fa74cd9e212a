"""flash_decode: lengths, splits, pages and groups against the written-out softmax in fp64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab_kernels import flash_decode as module
from shardlab_kernels.flash_decode import flash_decode, reference
from shardlab_kernels.heads import HeadMap
from tests.kernels.support import DEVICE, DTYPES, assert_close, draw

INF = float("inf")
FP32 = torch.float32
NAN = float("nan")


def int32(numbers: Any) -> torch.Tensor:
    return torch.as_tensor(numbers, dtype=torch.int32).to(DEVICE)


Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def inputs(n: int, kv: int, c: int, h: int, lengths: list[int], dtype: torch.dtype = FP32) -> Inputs:
    """q, k, v, lengths; the cache holds NaN at and beyond each length."""
    b = len(lengths)
    q = draw(b, n, h, dtype=dtype, seed=0)
    k, v = draw(b, kv, c, h, dtype=dtype, seed=1), draw(b, kv, c, h, dtype=dtype, seed=2)
    for i, length in enumerate(lengths):
        k[i, :, length:], v[i, :, length:] = NAN, NAN
    return q, k, v, int32(lengths)


def paged(x: torch.Tensor, lengths: list[int], page: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x[B,K,C,H] -> (pages[P,K,page,H] in a shuffled order, block_table[B,C/page]). Pages of no sequence hold NaN."""
    b, kv, c, h = x.shape
    num_pages = b * c // page + 3
    where = torch.randperm(num_pages, generator=torch.Generator().manual_seed(0))[: b * c // page].reshape(b, -1)
    pages = torch.full((num_pages, kv, page, h), NAN, dtype=x.dtype, device=DEVICE)
    for i, length in enumerate(lengths):
        for j in range(-(-length // page)):
            pages[where[i, j]] = x[i, :, j * page : (j + 1) * page]
        where[i, -(-length // page) :] = (1 << 31) - 1  # entries beyond the length are not read
    return pages, int32(where)


def check(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor, heads: HeadMap | None = None, **kw: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    out, lse = flash_decode(q, k, v, lengths, heads, **kw)
    kw.pop("num_splits", None)
    wanted, wanted_lse = reference(q.double(), k.double(), v.double(), lengths, heads, **kw)
    assert out.dtype == q.dtype and out.shape == q.shape and lse.dtype == FP32 and lse.shape == q.shape[:2]
    assert_close(out, wanted, q.dtype)
    assert_close(lse, wanted_lse, FP32)
    return out, lse


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_splits", [None, 1, 3])
def test_dtypes(num_splits: int | None, dtype: torch.dtype) -> None:
    check(*inputs(4, 2, 200, 64, [200, 129], dtype), num_splits=num_splits)


@pytest.mark.parametrize("num_splits", [None, 1, 2, 5])
def test_lengths_of_all_kinds_in_one_batch(num_splits: int | None) -> None:
    lengths = [0, 1, 127, 128, 129, 331]
    out, lse = check(*inputs(2, 1, 331, 32, lengths), num_splits=num_splits)
    assert (out[0] == 0).all() and (lse[0] == -INF).all()


def test_a_length_beyond_the_cache_means_all_of_it() -> None:
    q, k, v, _ = inputs(2, 1, 70, 32, [70, 70])
    found = flash_decode(q, k, v, int32([1000, 70]))
    for x, wanted in zip(found, flash_decode(q, k, v, int32([70, 70])), strict=True):
        assert torch.equal(x, wanted)


def test_any_number_of_splits_gives_the_same() -> None:
    q, k, v, lengths = inputs(2, 1, 700, 32, [700, 3])
    whole, whole_lse = flash_decode(q, k, v, lengths, num_splits=1)
    for num_splits in (2, 7, 20):
        out, lse = flash_decode(q, k, v, lengths, num_splits=num_splits)
        torch.testing.assert_close(out, whole, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(lse, whole_lse, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("h", [16, 24, 80, 96, 128, 200, 256])
def test_head_dims(h: int) -> None:
    check(*inputs(2, 1, 67, h, [67, 30]))


@pytest.mark.parametrize(("n", "dtype"), [(1, FP32), (17, FP32), (33, torch.float16), (128, torch.float16)])
def test_group_sizes(n: int, dtype: torch.dtype) -> None:
    check(*inputs(n, 1, 67, 32, [67, 30], dtype))


@pytest.mark.parametrize("index", [(0, 0, 1), (0, 1, 1, 1), (1, 1, 2), tuple([0] * 19 + [2])])
def test_uneven_groups(index: tuple[int, ...]) -> None:
    heads = HeadMap.of(index, 3, torch.device(DEVICE))
    check(*inputs(len(index), 3, 70, 32, [70, 41]), heads)


@pytest.mark.parametrize("window", [1, 30, 64, 1000, 10**12])
def test_window(window: int) -> None:
    for num_splits in (1, 3):
        check(*inputs(2, 1, 200, 32, [200, 0, 35]), window=window, num_splits=num_splits)


@pytest.mark.parametrize("page", [16, 64, 256])
def test_pages_equal_a_contiguous_cache(page: int) -> None:
    lengths = [0, 16, 129, 300]
    q, k, v, device_lengths = inputs(2, 2, 512, 32, lengths)
    k_pages, block_table = paged(k, lengths, page)
    v_pages, _ = paged(v, lengths, page)
    for num_splits, window in ((1, None), (3, 150)):
        options: dict[str, Any] = {"num_splits": num_splits, "window": window}
        found = flash_decode(q, k_pages, v_pages, device_lengths, block_table=block_table, **options)
        wanted = flash_decode(q, k, v, device_lengths, **options)
        for x, y in zip(found, wanted, strict=True):
            torch.testing.assert_close(x, y, atol=1e-6, rtol=1e-6)
    check(q, k_pages, v_pages, device_lengths, block_table=block_table, num_splits=2)


def test_strided_caches() -> None:
    lengths = int32([90, 33])
    q = draw(2, 3, 4, 32, dtype=FP32, seed=0)[:, 1]
    k, v = draw(2, 100, 2, 2, 32, dtype=FP32, seed=1).unbind(3)  # [B,C,K,H], K and V side by side
    check(q, k.transpose(1, 2), v.transpose(1, 2), lengths)
    k_pages, v_pages = draw(8, 16, 2, 2, 32, dtype=FP32, seed=2).transpose(1, 3).unbind(2)
    table = int32(torch.tensor([[3, 1, 0, 7, 5, 2, 6], [4, 5, 6, 0, 0, 0, 0]]))
    check(q, k_pages, v_pages, lengths, block_table=table[:, :6])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(0, 260), min_size=1, max_size=2),
    h=st.sampled_from([16, 40, 64]),
    num_splits=st.none() | st.integers(1, 6),
    window=st.none() | st.integers(1, 260),
    page=st.sampled_from([None, 16, 32]),
)
def test_any_lengths(lengths: list[int], h: int, num_splits: int | None, window: int | None, page: int | None) -> None:
    q, k, v, device_lengths = inputs(2, 1, 288, h, lengths)
    table = None
    if page is not None:
        (k, table), (v, _) = paged(k, lengths, page), paged(v, lengths, page)
    check(q, k, v, device_lengths, block_table=table, num_splits=num_splits, window=window)


def test_empty() -> None:
    q, k, v, lengths = inputs(2, 1, 30, 32, [3, 4])
    assert flash_decode(q[:0], k[:0], v[:0], lengths[:0])[0].shape == (0, 2, 32)
    out, lse = flash_decode(q, k[:, :, :0], v[:, :, :0], lengths)
    assert (out == 0).all() and (lse == -INF).all()


def test_split_count_fills_the_gpu_and_no_more() -> None:
    assert module.split_count(8, 128 << 10, 132) * 8 >= 0.85 * 2 * 132  # batch 1, 8 KV heads
    assert module.split_count(264, 128 << 10, 132) == 1  # full already
    assert module.split_count(300, 128 << 10, 132) > 1  # a second round that is nearly empty would cost as much
    assert module.split_count(1, 100, 132) == 1 and module.split_count(1, 0, 132) == 1
    assert module.split_count(1, 1 << 20, 132) <= module.MAX_SPLITS


def test_flops_and_bytes() -> None:
    assert module.flops([3, 5], 6, 16) == 4 * 16 * 6 * 8
    q, k = torch.empty(2, 6, 16, dtype=torch.bfloat16), torch.empty(2, 3, 100, 16, dtype=torch.bfloat16)
    assert module.moved_bytes(q, k, [3, 5]) == 2 * 8 * 3 * 16 * 2 + 2 * q.nbytes + 4 * 12


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"k": torch.zeros(2, 2, 9, 16)}, r"v\(2, 2, 32, 16\) has C=32.*k\(2, 2, 9, 16\)"),
    ({"q": torch.zeros(2, 4, 1, 16)}, r"q\[B,N,H\]"),
    ({"q": torch.zeros(2, 3, 16)}, "N=3 query heads do not divide over K=2"),
    ({"q": torch.zeros(2, 4, 16).half()}, "q is torch.float16"),
    ({"q": torch.zeros(2, 16, 4).mT}, "last dim must be contiguous"),
    ({"q": torch.zeros(2, 4, 8), "k": torch.zeros(2, 2, 32, 8), "v": torch.zeros(2, 2, 32, 8)}, "H=8"),
    ({"lengths": torch.zeros(2, dtype=torch.int64)}, "lengths is torch.int64"),
    ({"lengths": torch.zeros(3, dtype=torch.int32)}, r"lengths\(3,\) has B=3"),
    ({"window": 0}, "window=0"),
    ({"scale": 0.0}, "scale=0.0"),
    ({"num_splits": 0}, "num_splits=0"),
    ({"heads": HeadMap.of((0, 0, 1), 2, torch.device(DEVICE))}, r"kv_index\(3,\)"),
    ({"block_table": torch.zeros(2, 5)}, "block_table is torch.float32"),
    ({"block_table": torch.zeros(3, 5, dtype=torch.int32)}, r"block_table\(3, 5\) has B=3"),
    (
        {"block_table": torch.zeros(2, 5, dtype=torch.int32)} | {name: torch.zeros(9, 2, 24, 16) for name in "kv"},
        "page=24: a power of two",
    ),
    (
        {"block_table": torch.zeros(2, 5, dtype=torch.int32)} | {name: torch.zeros(9, 2, 8, 16) for name in "kv"},
        "page=8: a power of two of at least 16",
    ),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_refusals(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"q": torch.zeros(2, 4, 16), "lengths": torch.zeros(2, dtype=torch.int32)}
    good |= {name: torch.zeros(2, 2, 32, 16) for name in "kv"}
    given_: dict[str, Any] = {
        name: x.to(DEVICE) if isinstance(x, torch.Tensor) else x for name, x in (good | change).items()
    }
    with pytest.raises(ValueError, match=message):
        flash_decode(**given_)

"""flash_attention_packed: sequences laid end to end give what each gives alone."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab_kernels import flash_attention as dense
from shardlab_kernels import flash_attention_packed as module
from shardlab_kernels.flash_attention_packed import flash_attention_packed, reference
from shardlab_kernels.heads import HeadMap
from tests.kernels.support import DEVICE, DTYPES, assert_close, draw


def prefix(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=DEVICE)


def check(queries: list[int], keys: list[int], n: int, kv: int, h: int, dtype: torch.dtype, **options: Any) -> None:
    q, k, v = (
        draw(sum(lengths), heads, h, dtype=dtype, seed=seed)
        for seed, (lengths, heads) in enumerate(((queries, n), (keys, kv), (keys, kv)))
    )
    cu = prefix(queries), prefix(keys)
    out, lse = flash_attention_packed(q, k, v, *cu, max(queries), **options)
    wanted, wanted_lse = reference(q.double(), k.double(), v.double(), *cu, **options)
    assert out.dtype == dtype and out.shape == q.shape and lse.shape == q.shape[:2]
    assert_close(out, wanted, dtype)
    assert_close(lse, wanted_lse, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("causal", [True, False])
def test_dtypes(causal: bool, dtype: torch.dtype) -> None:
    check([129, 1, 40], [129, 65, 77], 2, 1, 64, dtype, causal=causal)


def test_lengths_of_all_kinds() -> None:
    lengths = [1, 127, 0, 128, 129]
    check(lengths, lengths, 1, 1, 32, torch.float32)
    check([5, 0, 70, 3], [2, 9, 0, 3], 1, 1, 32, torch.float32)  # more queries than keys; no queries; no keys
    check([100, 3], [150, 70], 3, 2, 32, torch.float32, window=20, heads=HeadMap.of((0, 0, 1), 2, torch.device(DEVICE)))


def test_equals_a_loop_over_flash_attention() -> None:
    q, k, v = draw(90, 4, 3, 32, dtype=torch.float32, seed=0).unbind(2)  # strided: rows of a fused projection
    cu = prefix([70, 20])
    out, lse = flash_attention_packed(q, k, v, cu, cu, 70, scale=0.2)
    for rows in (slice(0, 70), slice(70, 90)):
        one_q, one_k, one_v = (x[rows].transpose(0, 1)[None] for x in (q, k, v))
        wanted, wanted_lse = dense.flash_attention(one_q, one_k, one_v, scale=0.2)
        assert torch.equal(out[rows], wanted[0].transpose(0, 1)) and torch.equal(lse[rows], wanted_lse[0].T)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 80), st.integers(0, 80)), min_size=1, max_size=2),
    st.booleans(),
    st.none() | st.integers(1, 90),
)
def test_any_lengths(lengths: list[tuple[int, int]], causal: bool, window: int | None) -> None:
    queries, keys = ([*x] for x in zip(*lengths, strict=True))
    if sum(queries):
        check(queries, keys, 1, 1, 16, torch.float32, causal=causal, window=window)


def test_empty() -> None:
    x, cu = torch.zeros(0, 2, 32, device=DEVICE), prefix([0, 0])
    assert flash_attention_packed(x, x, x, cu, cu, 0)[0].shape == (0, 2, 32)


def test_flops_and_bytes_are_those_of_the_sequences() -> None:
    assert module.flops([3, 1], [3, 5], 2, 16) == 4 * 16 * 2 * (6 + 5)
    assert module.flops([3, 1], [3, 5], 2, 16, causal=False) == 4 * 16 * 2 * (9 + 5)
    q, k = torch.empty(4, 2, 16), torch.empty(8, 1, 16)
    assert module.moved_bytes(q, k, k) == 4 * (2 * 4 * 2 * 16 + 2 * 8 * 16 + 4 * 2)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"v": torch.zeros(5, 2, 16)}, r"v\(5, 2, 16\) has U=5"),
    ({"cu_q": torch.zeros(2, dtype=torch.int32)}, r"B\+1"),
    ({"cu_q": torch.zeros(3, dtype=torch.int64)}, "cu_q is torch.int64"),
    ({"max_queries": 0}, "max_queries=0"),
    ({"max_queries": 9}, "max_queries=9"),
    ({"window": 0}, "window=0"),
    ({"scale": -1.0}, "scale=-1.0"),
    ({"q": torch.zeros(8, 3, 16)}, "N=3 query heads"),
    ({name: torch.zeros(8, 2, 12) for name in "qkv"}, "H=12"),
    ({"q": torch.zeros(8, 16, 4).mT}, "last dim must be contiguous"),
    ({"q": torch.zeros(8, 4, 16).half()}, "q is torch.float16"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_refusals(change: dict[str, Any], message: str) -> None:
    cu = torch.tensor([0, 3, 8], dtype=torch.int32)
    good = {name: torch.zeros(8, 4 if name == "q" else 2, 16) for name in "qkv"} | {"cu_q": cu, "cu_k": cu}
    arguments: dict[str, Any] = good | {"max_queries": 5} | change
    given_: dict[str, Any] = {name: x.to(DEVICE) if isinstance(x, torch.Tensor) else x for name, x in arguments.items()}
    with pytest.raises(ValueError, match=message):
        flash_attention_packed(**given_)

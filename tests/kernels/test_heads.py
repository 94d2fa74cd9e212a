"""HeadMap: which KV head each query head reads, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab_kernels.heads import HeadMap, check_heads
from tests.kernels.support import DEVICE

HERE = torch.device(DEVICE)


def test_even_groups() -> None:
    heads = HeadMap.even(6, 2, HERE)
    assert heads.kv_index.tolist() == [0, 0, 0, 1, 1, 1] and heads.start.tolist() == [0, 3, 6] and heads.widest == 3
    assert heads.kv_index.dtype == heads.start.dtype == torch.int32
    assert HeadMap.even(6, 2, HERE) is heads, "made once: a launcher copies nothing to the device"


def test_uneven_groups_and_a_kv_head_that_nobody_reads() -> None:
    heads = HeadMap.of((0, 0, 2), 4, HERE)
    assert heads.kv_index.tolist() == [0, 0, 2] and heads.start.tolist() == [0, 2, 2, 3, 3] and heads.widest == 2
    assert HeadMap.of((), 2, HERE).widest == 0


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 5), max_size=20).map(sorted), st.integers(6, 8))
def test_start_says_the_same_as_kv_index(index: list[int], num_kv_heads: int) -> None:
    heads = HeadMap.of(index, num_kv_heads, HERE)
    start = heads.start.tolist()
    assert [k for k in range(num_kv_heads) for _ in range(start[k], start[k + 1])] == index
    assert heads.widest == max((index.count(k) for k in index), default=0)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="nondecreasing"):
        HeadMap.of((0, 1, 0), 2, HERE)
    for index in ((0, 2), (-1, 0)):
        with pytest.raises(ValueError, match=r"KV heads 0\.\.1"):
            HeadMap.of(index, 2, HERE)
    with pytest.raises(ValueError, match=r"N=9 .* K=2"):
        HeadMap.even(9, 2, HERE)
    with pytest.raises(ValueError, match=r"kv_index\(3,\) and start\(3,\).*kv_index\(4,\) and start\(3,\)"):
        check_heads(HeadMap.of((0, 0, 1), 2, HERE), 4, 2, HERE)
    with pytest.raises(ValueError, match="heads is on"):
        check_heads(HeadMap.of((0, 1), 2, HERE), 2, 2, torch.device("meta"))
    heads = HeadMap.of((0, 1), 2, HERE)
    with pytest.raises(ValueError, match=r"heads\.start is torch\.int64"):
        check_heads(HeadMap(heads.kv_index, heads.start.long(), 1), 2, 2, HERE)

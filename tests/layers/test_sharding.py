"""Cutting and joining: nothing lost, nothing twice unless the plan says so (FAULTS.md P3)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab.layers.sharding import Part, even_parts, shard, split_heads, unshard, widen
from shardlab.theory.split import even_split

few = settings(max_examples=100, derandomize=True, deadline=None)


def counted(shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor whose elements are all different: a shard's elements say where they come from."""
    return torch.arange(torch.Size(shape).numel()).reshape(shape)


def holders(parts: tuple[Part, ...]) -> torch.Tensor:
    """How many ranks hold each element."""
    count = torch.zeros(parts[0].full_shape, dtype=torch.int64)
    for part in parts:
        count[part.index] += 1
    return count


@few
@given(shape=st.lists(st.integers(1, 40), min_size=1, max_size=3), dim=st.integers(0, 2), ranks=st.integers(1, 9))
def test_shard_then_unshard_is_the_tensor(shape: list[int], dim: int, ranks: int) -> None:
    dim %= len(shape)
    full = counted(tuple(shape))
    parts = even_parts(shape, dim, ranks)
    shards = [shard(full, part) for part in parts]
    assert torch.equal(unshard(shards, parts), full)
    assert bool((holders(parts) == 1).all())
    sizes = [part.local_shape[dim] for part in parts]
    assert max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes, reverse=True)


@few
@given(kv=st.integers(1, 8), group=st.integers(1, 6), head_dim=st.integers(1, 4), data=st.data())
def test_heads_are_where_the_plan_says(kv: int, group: int, head_dim: int, data: st.DataObject) -> None:
    num_heads = kv * group
    ranks = data.draw(st.integers(1, num_heads))
    split = split_heads(num_heads, kv, ranks)
    full_q, full_kv = counted((num_heads * head_dim, 3)), counted((kv * head_dim, 3))
    q_parts = tuple(Part.cut((num_heads * head_dim, 3), {0: widen(heads.query, head_dim)}) for heads in split)
    kv_parts = tuple(Part.cut((kv * head_dim, 3), {0: widen(heads.kv, head_dim)}) for heads in split)
    assert torch.equal(unshard([shard(full_q, part) for part in q_parts], q_parts), full_q)
    assert torch.equal(unshard([shard(full_kv, part) for part in kv_parts], kv_parts), full_kv)
    assert bool((holders(q_parts) == 1).all())
    for rank, heads in enumerate(split):
        assert heads.query == even_split(num_heads, ranks)[rank]
        # each query head finds the KV head that it reads in the full model, and no KV head lies unused
        assert [heads.kv[i] for i in heads.kv_index] == [head // group for head in heads.query]
        assert {heads.kv[i] for i in heads.kv_index} == set(heads.kv)
    readers = [sum(head // group == i for head in heads.query) > 0 for i in range(kv) for heads in split]
    assert int(holders(kv_parts)[:, 0].sum()) == sum(readers) * head_dim


def test_nine_heads_on_four_ranks() -> None:
    split = split_heads(9, 3, 4)
    assert [len(heads.query) for heads in split] == [3, 2, 2, 2]
    assert [heads.kv for heads in split] == [range(0, 1), range(1, 2), range(1, 3), range(2, 3)]
    assert [heads.kv_index for heads in split] == [(0, 0, 0), (0, 0), (0, 1), (0, 0)]


def test_more_ranks_than_heads_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tp=10 .*num_heads=9.*degrees that work: 1\.\.9"):
        split_heads(9, 3, 10)


def test_a_shard_is_a_copy() -> None:
    full = torch.zeros(4, 4)
    local = shard(full, Part.cut((4, 4), {1: range(0, 2)}))
    local += 1
    assert local.is_contiguous() and not full.any()


def test_wrong_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="dim=2"):
        Part.cut((2, 2), {2: range(0, 1)})
    with pytest.raises(ValueError, match=r"range\(1, 5\)"):
        Part.cut((4, 4), {0: range(1, 5)})
    with pytest.raises(ValueError, match=r"\(4, 4\) is needed.*\(4, 5\)"):
        shard(torch.zeros(4, 5), Part.whole((4, 4)))


def test_unshard_refuses_gaps_and_copies_that_differ() -> None:
    first, second = Part.cut((4,), {0: range(0, 2)}), Part.cut((4,), {0: range(1, 3)})
    with pytest.raises(ValueError, match="differs"):
        unshard([torch.tensor([1, 2]), torch.tensor([3, 4])], [first, second])
    with pytest.raises(ValueError, match="no rank holds 1 of the 4"):
        unshard([torch.tensor([1, 2]), torch.tensor([2, 4])], [first, second])
    with pytest.raises(ValueError, match="shard 0"):
        unshard([torch.zeros(3)], [first])
    with pytest.raises(ValueError, match="1 shards for 2 parts"):
        unshard([torch.zeros(3)], [first, second])

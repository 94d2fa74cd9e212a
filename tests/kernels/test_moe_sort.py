"""The counting sort against torch's stable sort: the same integers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab_kernels import moe_sort
from shardlab_kernels.launch import launch
from shardlab_kernels.moe_sort import BLOCK, Order, sort_by_expert
from tests.kernels.support import DEVICE


def choices(t: int, k: int, low: int, high: int, seed: int) -> torch.Tensor:
    """experts int32[T,k], each low..high - 1, repeats allowed."""
    numbers = torch.randint(low, high, (t, k), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    return numbers.to(DEVICE)


def check(order: Order, wanted: Order) -> None:
    for name in ("offsets", "token", "position"):
        found = getattr(order, name)
        assert found.dtype == torch.int32
        assert torch.equal(found, getattr(wanted, name)), name


@pytest.mark.parametrize(
    ("t", "k", "e"),
    [
        *((1, 1, 1), (1, 8, 8), (5, 1, 3), (100, 2, 1), (3, 5, 7), (7, 8, 512), (13, 16, 1024)),
        *((127, 2, 60), (128, 2, 8), (257, 1, 8), (129, 2, 129), (521, 3, 33)),  # around and beyond one block
        (1031, 2, 5),
    ],
)
def test_sort_by_expert(t: int, k: int, e: int) -> None:
    experts = choices(t, k, 0, e, seed=t)
    check(sort_by_expert(experts, e), moe_sort.reference(experts, e))


@pytest.mark.parametrize("num_blocks", [2, BLOCK, BLOCK + 1, 3 * BLOCK - 5])
def test_the_scan_goes_on_over_any_number_of_blocks(num_blocks: int) -> None:
    counts = choices(3, num_blocks, 0, BLOCK + 1, seed=4)
    before, totals = counts.clone(), torch.empty(3, dtype=torch.int32, device=DEVICE)
    launch(moe_sort._scan_kernel, (3,), before, totals, num_blocks, BLOCK=BLOCK, num_warps=1)
    assert torch.equal(before, counts.cumsum(1).int() - counts) and torch.equal(totals, counts.sum(1).int())


@pytest.mark.parametrize("t", [20, 200])
@pytest.mark.parametrize(("low", "high"), [(3, 4), (0, 1), (6, 7), (2, 5)])
def test_all_to_one_and_none_to_some(t: int, low: int, high: int) -> None:
    experts = choices(t, 2, low, high, seed=1)
    order = sort_by_expert(experts, 7)
    check(order, moe_sort.reference(experts, 7))
    if high - low == 1:  # stable: nothing moves
        assert torch.equal(order.position.flatten(), torch.arange(2 * t, dtype=torch.int32, device=DEVICE))
        assert order.offsets.tolist() == [0] * high + [2 * t] * (8 - high)


@pytest.mark.parametrize("t", [40, 300])
def test_experts_that_do_not_exist_are_dropped(t: int) -> None:
    experts = choices(t, 3, -2, 9, seed=2)
    experts[0, 0], experts[1, 1] = 2**31 - 1, -(2**31)
    order = sort_by_expert(experts, 6)
    check(order, moe_sort.reference(experts, 6))
    exists = (experts >= 0) & (experts < 6)
    rows = int(exists.sum())
    assert order.offsets[-1] == rows and (order.token[rows:] == -1).all() and (order.token[:rows] >= 0).all()
    assert torch.equal(order.position < 0, ~exists)
    check(sort_by_expert(torch.full_like(experts, 6), 6), moe_sort.reference(torch.full_like(experts, 6), 6))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.integers(0, 90), st.integers(1, 8), st.integers(1, 40), st.integers(-2, 0), st.integers(0, 2), st.integers(0, 9)
)
def test_any_routing_is_a_stable_permutation(t: int, k: int, e: int, below: int, above: int, seed: int) -> None:
    experts = choices(t, k, below, e + above, seed)
    order = sort_by_expert(experts, e)
    check(order, moe_sort.reference(experts, e))
    flat, offsets = experts.flatten().tolist(), order.offsets.tolist()
    rows = [[m // k for m in range(t * k) if flat[m] == expert] for expert in range(e)]  # (t, j) in order
    assert [order.token[start:end].tolist() for start, end in zip(offsets, offsets[1:], strict=False)] == rows


def test_strided_and_empty_experts() -> None:
    experts = choices(6, 30, 0, 5, seed=3)
    check(sort_by_expert(experts.T, 5), moe_sort.reference(experts.T, 5))
    for shape in ((0, 2), (3, 0)):
        order = sort_by_expert(torch.zeros(shape, dtype=torch.int32, device=DEVICE), 4)
        assert order.offsets.tolist() == [0] * 5 and order.token.shape == (0,) and order.position.shape == shape


@pytest.mark.parametrize(
    ("experts", "num_experts", "message"),
    [
        (torch.zeros(4, dtype=torch.int32), 2, r"experts\(4,\).*\[T,k\]"),
        (torch.zeros(4, 2, dtype=torch.int64), 2, "experts is torch.int64: torch.int32"),
        (torch.zeros(4, 2, dtype=torch.int32, device="meta"), 2, "experts is on meta"),
        (torch.zeros(4, 2, dtype=torch.int32), 0, r"num_experts=0: 1\.\.1024"),
        (torch.zeros(4, 2, dtype=torch.int32), 1025, r"num_experts=1025: 1\.\.1024"),
        (torch.zeros(1, 1, dtype=torch.int32).expand(2**30, 2), 2, r"2147483648 assignments, at most 2\^31 - 256"),
    ],
)
def test_sort_refuses(experts: torch.Tensor, num_experts: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sort_by_expert(experts if experts.is_meta else experts.to(DEVICE), num_experts)


def test_bytes() -> None:
    few, many = torch.empty(16, 8, dtype=torch.int32), torch.empty(100, 8, dtype=torch.int32)
    assert moe_sort.moved_bytes(few, 64) == (2 + 1 + 1) * 128 * 4 + 65 * 4
    assert moe_sort.moved_bytes(many, 64) == (2 + 1 + 1) * 800 * 4 + 65 * 4 + 4 * (4 * 64) * 4  # 4 blocks

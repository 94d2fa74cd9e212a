"""Rows to experts and back: exact copies, and sums against fp64. FAULTS P4: any routing conserves the tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab_kernels import moe_permute, moe_sort
from shardlab_kernels.moe_permute import Order, permute, sort_by_expert, unpermute
from tests.kernels.support import DEVICE, DTYPES, assert_close, draw
from tests.kernels.test_moe_sort import choices


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", [1, 127, 128, 129, 577, 7168])
def test_permute_and_unpermute(d: int, dtype: torch.dtype) -> None:
    experts, x = choices(9, 3, 0, 5, seed=0), draw(9, d, dtype=dtype, seed=1)
    order, wanted = sort_by_expert(experts, 5), moe_sort.reference(experts, 5)
    rows = permute(x, order)
    assert rows.dtype == dtype and torch.equal(rows, moe_permute.reference_permute(x, wanted))
    weights = draw(9, 3, dtype=torch.float32, seed=2)
    out = unpermute(rows, order, weights)
    assert out.dtype == dtype and out.shape == x.shape
    assert_close(out, moe_permute.reference_unpermute(rows.double(), wanted, weights.double()), dtype)


@pytest.mark.parametrize("t", [7, 150])
def test_dropped_assignments_leave_zeros_and_add_nothing(t: int) -> None:
    experts, x = choices(t, 2, -1, 6, seed=3), draw(t, 33, dtype=torch.float32, seed=4)
    experts[0] = 9  # nothing is left of this token
    order, wanted = sort_by_expert(experts, 4), moe_sort.reference(experts, 4)
    rows, count = permute(x, order), int(order.offsets[-1])
    assert torch.equal(rows, moe_permute.reference_permute(x, wanted)) and not rows[count:].any()
    rows[count:] = float("nan")
    weights = draw(t, 2, dtype=torch.float32, seed=5)
    weights[order.position < 0] = float("nan")
    out = unpermute(rows, order, weights)
    kept = weights.nan_to_num().double()
    assert_close(out, moe_permute.reference_unpermute(rows.double(), wanted, kept), torch.float32)
    assert not out[0].any()


def test_rounded_once_and_added_in_order() -> None:
    """256 + 1 - 256 + 0.5 in bf16 steps would lose the 1; in fp32 it is exact."""
    experts = torch.tensor([[3, 1, 0, 2]], dtype=torch.int32, device=DEVICE)
    order = sort_by_expert(experts, 4)
    rows = torch.tensor([[-256.0], [1.0], [0.5], [256.0]], dtype=torch.bfloat16, device=DEVICE)
    assert unpermute(rows, order, torch.ones(1, 4, device=DEVICE)).item() == 1.5
    big = torch.tensor(
        [[-(2.0**30)], [1.0], [0.0], [2.0**30]], device=DEVICE
    )  # j: 2^30 + 1 - 2^30 = 0 in fp32, in this order
    assert unpermute(big, order, torch.ones(1, 4, device=DEVICE)).item() == 0.0


def test_strided_and_empty_inputs() -> None:
    experts, wide = choices(8, 2, 0, 3, seed=6), draw(16, 40, dtype=torch.bfloat16, seed=7)
    order, x = sort_by_expert(experts, 3), wide[::2, 3:20]
    rows = permute(x, order)
    assert torch.equal(rows, permute(x.contiguous(), order))
    weights = draw(2, 8, dtype=torch.float32, seed=8).T
    out = unpermute(wide[:, 3:20], order, weights)
    assert torch.equal(out, unpermute(wide[:, 3:20].contiguous(), order, weights.contiguous()))
    assert permute(x[:, :0], order).shape == (16, 0) and unpermute(rows[:, :0], order, weights).shape == (8, 0)
    none = sort_by_expert(experts[:0], 3)
    assert permute(x[:0], none).shape == (0, 17) and unpermute(rows[:0], none, weights[:0]).shape == (0, 17)
    no_choice = sort_by_expert(experts[:, :0], 3)
    assert permute(x, no_choice).shape == (0, 17) and not unpermute(rows[:0], no_choice, weights[:, :0]).any()


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.integers(0, 24), st.integers(1, 6), st.integers(1, 20), st.sampled_from(["any", "one", "few"]), st.integers(0, 9)
)
def test_any_routing_conserves_the_tokens(t: int, k: int, e: int, kind: str, seed: int) -> None:
    low, high = {"any": (0, e), "one": (e - 1, e), "few": (e // 2, e // 2 + 1 + e // 4)}[kind]
    experts, x = choices(t, k, low, min(high, e), seed), draw(t, 5, dtype=torch.float32, seed=seed)
    order = sort_by_expert(experts, e)
    rows = permute(x, order)
    assert sorted(rows.tolist()) == sorted(x.repeat_interleave(k, 0).tolist())  # the multiset of tokens
    assert_close(unpermute(rows, order, torch.full((t, k), 1 / k, device=DEVICE)), x, torch.float32)


def order_of(t: int, k: int, e: int = 4) -> Order:
    return sort_by_expert(torch.zeros(t, k, dtype=torch.int32, device=DEVICE), e)


@pytest.mark.parametrize(
    ("x", "change", "message"),
    [
        (torch.zeros(3, 4), {}, r"position\(2, 3\) has T=2, x\(3, 4\) has T=3"),
        (torch.zeros(8), {}, r"x\(8,\).*\[T,D\]"),
        (torch.zeros(2, 4, dtype=torch.int32), {}, "x is torch.int32: a floating-point"),
        (torch.zeros(4, 2).T, {}, r"x\(2, 4\) has strides \(1, 2\)"),
        (torch.zeros(2, 4, device="meta"), {}, "x is on meta"),
        (
            torch.zeros(2, 4),
            {"token": torch.zeros(5, dtype=torch.int32)},
            r"token\(5,\) and position\(2, 3\): M = T \* k",
        ),
        (torch.zeros(2, 4), {"token": torch.zeros(6)}, "token is torch.float32: torch.int32"),
        (
            torch.zeros(2, 4),
            {"position": torch.zeros(3, 2, dtype=torch.int32).T},
            r"position\(2, 3\) has strides \(1, 2\)",
        ),
    ],
)
def test_permute_refuses(x: torch.Tensor, change: dict[str, torch.Tensor], message: str) -> None:
    order = replace(order_of(2, 3), **{name: tensor.to(DEVICE) for name, tensor in change.items()})
    with pytest.raises(ValueError, match=message):
        permute(x if x.is_meta else x.to(DEVICE), order)


@pytest.mark.parametrize(
    ("rows", "weights", "message"),
    [
        (torch.zeros(5, 4), torch.zeros(2, 3), r"token\(6,\) has M=6, rows\(5, 4\) has M=5"),
        (torch.zeros(6, 4), torch.zeros(3, 2), r"position\(2, 3\) has T=2, weights\(3, 2\) has T=3"),
        (torch.zeros(6, 4), torch.zeros(2, 3).half(), "weights is torch.float16: torch.float32"),
        (torch.zeros(6, 4).double(), torch.zeros(2, 3), "rows is torch.float64"),
        (torch.zeros(4, 6).T, torch.zeros(2, 3), r"rows\(6, 4\) has strides \(1, 6\)"),
        (torch.zeros(6, 4), torch.zeros(2, 3, device="meta"), "weights on meta"),
    ],
)
def test_unpermute_refuses(rows: torch.Tensor, weights: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unpermute(rows.to(DEVICE), order_of(2, 3), weights if weights.is_meta else weights.to(DEVICE))


def test_too_many_choices_are_refused() -> None:
    with pytest.raises(ValueError, match="k=65: at most 64"):
        permute(torch.zeros(2, 4, device=DEVICE), order_of(2, 65))


def test_bytes_and_flops() -> None:
    x, rows = torch.empty(10, 64, dtype=torch.bfloat16), torch.empty(30, 64, dtype=torch.bfloat16)
    assert moe_permute.moved_bytes_permute(x, 3) == (10 + 30) * 64 * 2 + 30 * 4
    assert moe_permute.moved_bytes_unpermute(rows, 3) == (10 + 30) * 64 * 2 + 30 * (4 + 4)
    assert moe_permute.flops_unpermute(rows) == 2 * 30 * 64

"""The router against softmax and a stable sort in fp64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab_kernels import moe_route
from shardlab_kernels.moe_route import route
from tests.kernels.support import DEVICE, DTYPES, assert_close, draw

SIZES = ((1, 1, 1), (3, 7, 2), (127, 8, 2), (5, 60, 6), (129, 128, 8), (2, 129, 4), (4, 512, 16))


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("t", "e", "k"), SIZES)
def test_route(t: int, e: int, k: int, dtype: torch.dtype, normalise: bool) -> None:
    logits = draw(t, e, dtype=dtype, seed=0)
    weights, experts = route(logits, k, normalise=normalise)
    wanted_weights, wanted_experts = moe_route.reference(logits.double(), k, normalise=normalise)
    assert weights.dtype == torch.float32 and experts.dtype == torch.int32
    assert_close(weights, wanted_weights, torch.float32)
    assert torch.equal(experts, wanted_experts)


def test_reference_is_the_models_router() -> None:
    """As Mixtral and Qwen3-MoE in transformers: softmax, topk, divided by the sum."""
    logits = draw(50, 64, dtype=torch.float32, seed=1)
    weights, experts = logits.softmax(-1).topk(8, dim=-1)
    found, chosen = moe_route.reference(logits, 8, normalise=False)
    assert torch.equal(chosen.long(), experts)
    assert_close(found, weights, torch.float32)
    assert_close(moe_route.reference(logits, 8)[0], weights / weights.sum(-1, keepdim=True), torch.float32)


def test_ties_go_to_the_lower_expert() -> None:
    logits = torch.zeros(3, 6, device=DEVICE)
    logits[0, ::2] = -0.0  # equal to 0
    logits[1, [1, 4]] = 2.0
    logits[2] = -1.0
    logits[2, 3:] = -0.5
    _, experts = route(logits, 3)
    assert experts.tolist() == [[0, 1, 2], [1, 4, 0], [3, 4, 5]]


@pytest.mark.filterwarnings("ignore:overflow")  # numpy's, in the interpreter
def test_extreme_logits() -> None:
    inf = float("inf")
    logits = torch.tensor([[1e4, -1e4, 9990.0, 0.0], [-inf, 1.0, -inf, -inf], [3e38, -3e38, 0.0, 1e30]], device=DEVICE)
    for normalise in (True, False):
        weights, experts = route(logits, 2, normalise=normalise)
        wanted, chosen = moe_route.reference(logits.double(), 2, normalise=normalise)
        assert torch.equal(experts, chosen)
        assert_close(weights, wanted, torch.float32)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("bad", [[float("nan")], [-float("nan"), float("nan")], [float("inf")], [-float("inf")] * 5])
def test_what_is_not_a_number_stays_in_its_row(bad: list[float], normalise: bool) -> None:
    logits = draw(3, 5, dtype=torch.float32, seed=2)
    logits[1, : len(bad)] = torch.tensor(bad, device=DEVICE)
    weights, experts = route(logits, 3, normalise=normalise)
    assert weights[1].isnan().all() and weights[[0, 2]].isfinite().all()
    assert torch.equal(experts[1, : len(bad)], torch.arange(min(3, len(bad)), dtype=torch.int32, device=DEVICE))
    assert len(set(experts[1].tolist())) == 3 and 0 <= int(experts.min()) and int(experts.max()) < 5


def test_strided_and_empty_logits() -> None:
    wide = draw(6, 20, dtype=torch.bfloat16, seed=3)
    weights, experts = route(wide[::2, 4:17], 4)
    again = route(wide[::2, 4:17].contiguous(), 4)
    assert torch.equal(weights, again[0]) and torch.equal(experts, again[1])
    weights, experts = route(wide[:0], 4)
    assert weights.shape == experts.shape == (0, 4)
    assert weights.dtype == torch.float32 and experts.dtype == torch.int32


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 40), st.integers(1, 70), st.integers(1, 16), st.booleans(), st.integers(0, 99))
def test_weights_of_any_logits(t: int, e: int, k: int, few_values: bool, seed: int) -> None:
    k = min(k, e)
    logits = draw(t, e, dtype=torch.float32, seed=seed) * 4
    logits = logits.round() if few_values else logits  # many ties
    weights, experts = route(logits, k)
    wanted, chosen = moe_route.reference(logits.double(), k)
    assert torch.equal(experts, chosen)
    assert_close(weights, wanted, torch.float32)
    assert_close(weights.sum(-1), torch.ones(t, device=DEVICE), torch.float32)
    assert (weights.diff(dim=-1) <= 0).all()
    assert all(len(set(row)) == k for row in experts.tolist())
    assert torch.equal(route(logits, k)[0], weights)


@pytest.mark.parametrize(
    ("logits", "k", "message"),
    [
        (torch.zeros(4), 1, r"logits\(4,\).*\[T,E\]"),
        (torch.zeros(2, 4, dtype=torch.float64), 1, "logits is torch.float64.*float32, bfloat16, float16"),
        (torch.zeros(4, 2).T, 1, r"logits\(2, 4\) has strides \(1, 2\)"),
        (torch.zeros(2, 4, device="meta"), 1, "logits is on meta"),
        (torch.zeros(2, 0), 1, r"E=0: 1\.\.512"),
        (torch.zeros(2, 513), 1, r"E=513: 1\.\.512"),
        (torch.zeros(2, 4), 0, r"num_chosen=0: 1\.\.4"),
        (torch.zeros(2, 4), 5, r"num_chosen=5: 1\.\.4"),
        (torch.zeros(2, 40), 17, r"num_chosen=17: 1\.\.16"),
    ],
)
def test_route_refuses(logits: torch.Tensor, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        route(logits if logits.is_meta else logits.to(DEVICE), k)


def test_bytes_and_flops() -> None:
    logits = torch.empty(10, 64, dtype=torch.bfloat16)
    assert moe_route.moved_bytes(logits, 8) == 10 * 64 * 2 + 10 * 8 * (4 + 4)
    assert moe_route.flops(logits, 8) == 2 * 640 + 80

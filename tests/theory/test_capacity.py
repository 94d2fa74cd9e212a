"""theory.capacity: tokens beside the weights, by hand, and that more memory never holds fewer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardlab.theory import capacity, per_rank
from shardlab.theory.degrees import Plan
from shardlab.theory.precision import KV_PRECISIONS, PRECISIONS
from shardlab.theory.transformer import MODELS, Shape
from tests.theory.shapes import shapes_and_plans

LLAMA, DEEPSEEK = MODELS["llama-3-70b"], MODELS["deepseek-v3"]
BF16, INT4, KV = PRECISIONS["bf16"], PRECISIONS["int4"], KV_PRECISIONS["bf16"]


def kv_tokens(*args: Any, **more: Any) -> int:
    return capacity.tightest(*args, **more).kv_tokens


def test_llama_70b_on_eight_ranks_by_hand() -> None:
    norms = LLAMA.d_model * (2 * 80 + 1)
    weights = 2 * ((LLAMA.num_parameters - norms) // 8 + norms)
    activations = 2 * 2048 * (2 * 8192 + 2 * 28672 // 8)  # gate and up are wider than q, k, v and out
    per_token = 2 * 80 * 1 * 128 * 2
    room = 80e9 * 0.9 - weights - activations
    assert kv_tokens(LLAMA, Plan(tp=8), 80e9, BF16, KV) == room // per_token
    assert kv_tokens(LLAMA, Plan(tp=8), 80e9, BF16, KV, reserve=0.0) == (room + 8e9) // per_token


def test_tokens_stop_growing_where_the_kv_heads_run_out() -> None:
    tokens = {tp: kv_tokens(LLAMA, Plan(tp=tp), 80e9, BF16, KV) for tp in (4, 8, 16, 64)}
    assert tokens[8] > 2 * tokens[4]
    assert tokens[64] < 1.4 * tokens[8]  # only the weights still shrink
    by_sequence = kv_tokens(LLAMA, Plan(tp=8, cp=8), 80e9, BF16, KV)
    assert by_sequence // 8 == tokens[8]


def test_fewer_bits_hold_more_tokens() -> None:
    plan = Plan(tp=2)
    order = [kv_tokens(LLAMA, plan, 80e9, PRECISIONS[name], KV) for name in ("bf16", "fp8", "int4-g32", "int4")]
    assert order == sorted(order) and order[0] < order[1]
    halved = kv_tokens(LLAMA, plan, 80e9, INT4, KV_PRECISIONS["fp8"])
    assert halved // 2 == order[-1]


def test_weights_that_do_not_fit_leave_less_than_nothing() -> None:
    assert capacity.tightest(LLAMA, Plan(), 80e9, BF16, KV).free_bytes / 1e9 == pytest.approx(-69.41, abs=0.01)
    assert capacity.tightest(LLAMA, Plan(), 80e9, BF16, KV).kv_tokens == 0


def test_the_tightest_stage_decides() -> None:
    # The last stage has the output matrix, the first the embedding and, of 80 layers over 3, one layer more.
    rank = capacity.tightest(LLAMA, Plan(pp=3), 80e9, BF16, KV)
    assert (rank.stage, rank.tp_rank) == (0, 0)
    assert rank.weight_bytes == per_rank.weights(LLAMA, Plan(pp=3))[0][0].num_bytes(BF16)
    # SmolLM2 on 4 ranks: the third has two KV heads, so it fills first though the first has more weights.
    assert capacity.tightest(MODELS["smollm2-135m"], Plan(tp=4), 4e9, BF16, KV).tp_rank == 2


def test_activations_grow_with_the_tokens_and_shrink_with_the_ranks() -> None:
    one = capacity.activation_bytes(LLAMA, Plan(tp=8), 1, 2)
    assert capacity.activation_bytes(LLAMA, Plan(tp=8), 4096, 2) == 4096 * one
    assert (
        capacity.activation_bytes(LLAMA, Plan(tp=8, pp=4), 1, 2) == one < capacity.activation_bytes(LLAMA, Plan(), 1, 2)
    )
    # DeepSeek-V3 expanded: 128 heads, q and k 192 wide, v and out 128: wider than any of its MLPs.
    assert capacity.activation_bytes(DEEPSEEK, Plan(), 1, 2) == 2 * (2 * 7168 + max(128 * 640, 2 * 18432, 8 * 2 * 9216))


@given(
    shapes_and_plans(),
    st.floats(1e3, 1e9),
    st.floats(1, 3),
    st.sampled_from(sorted(PRECISIONS)),
    st.sampled_from(sorted(KV_PRECISIONS)),
)
def test_more_memory_holds_at_least_as_many_tokens(
    one: tuple[Shape, Plan], memory: float, times: float, weights: str, cache: str
) -> None:
    shape, plan = one

    def tokens(memory_bytes: float) -> int:
        return kv_tokens(shape, plan, memory_bytes, PRECISIONS[weights], KV_PRECISIONS[cache], batch_tokens=1)

    found = tokens(memory)
    assert found <= tokens(memory * times)
    # What was promised fits on every rank, and one more token does not fit on some rank.
    held = per_rank.weights(shape, plan)
    cached = per_rank.plan_kv_bytes_per_token(shape, plan, KV_PRECISIONS[cache])
    alive = capacity.activation_bytes(shape, plan, 1, PRECISIONS[weights].activation_bytes)
    room = [
        (memory * (1 - capacity.RESERVE) - alive - rank.num_bytes(PRECISIONS[weights])) / kv
        for ranks, row in zip(held, cached, strict=True)
        for rank, kv in zip(ranks, row, strict=True)
    ]
    most = max(0, min(room))
    assert most * (1 - 1e-9) - 1 <= found <= most * (1 + 1e-9)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"reserve": 1.0}, "reserve=1.0; allowed"),
        ({"reserve": -0.1}, "reserve=-0.1"),
        ({"memory_bytes": 0}, "memory_bytes=0; allowed: above 0"),
        ({"memory_bytes": float("inf")}, "memory_bytes=inf"),
        ({"memory_bytes": float("nan")}, "memory_bytes=nan"),
        ({"batch_tokens": 0}, "tokens=0"),
    ],
)
def test_numbers_that_make_no_sense(wrong: dict[str, float], message: str) -> None:
    given_to = {"memory_bytes": 80e9, "stored": BF16, "kv": KV} | wrong
    with pytest.raises(ValueError, match=message):
        kv_tokens(LLAMA, Plan(tp=8), **given_to)  # type: ignore[arg-type]

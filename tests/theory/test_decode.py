"""theory.decode: one token of a 70 B model on 8 H100, and when one more rank stops paying."""

from __future__ import annotations

import pytest

from shardlab.theory import decode
from shardlab.theory.hardware import accelerator
from shardlab.theory.transformer import MODELS

H100 = accelerator("h100_sxm")
LLAMA = MODELS["llama-3-70b"]
SMALL = MODELS["smollm2-135m"]


def test_the_bill_of_one_token() -> None:
    found = decode.all_reduce_times(LLAMA, 8, H100, measured_s=7.8e-6)
    assert found.num_all_reduces == 160
    assert found.tensor_bytes == 16_384
    assert found.sent_bytes == 28_672
    assert found.bandwidth_only_s == pytest.approx(64e-9, rel=0.01)
    assert found.total_measured_s == pytest.approx(1.248e-3)
    assert found.weight_read_s == pytest.approx(5.27e-3, rel=1e-3)


def test_the_batch_carries_more_bytes_in_as_many_all_reduces() -> None:
    one = decode.all_reduce_times(LLAMA, 8, H100, measured_s=1e-5)
    many = decode.all_reduce_times(LLAMA, 8, H100, measured_s=1e-5, batch=32)
    assert many.sent_bytes == 32 * one.sent_bytes
    assert many.num_all_reduces == one.num_all_reduces


def test_more_ranks_pay_until_the_all_reduces_grow_faster() -> None:
    def seconds(tp: int) -> float:
        return decode.token_s(SMALL, tp, H100, lambda ranks: 2e-6 * ranks)

    times = {tp: seconds(tp) for tp in range(1, 10)}
    assert decode.best_tp(times) == 1  # a small model: weights are read in less time than one sync takes
    big = {tp: decode.token_s(LLAMA, tp, H100, lambda ranks: 2e-6 * ranks) for tp in (1, 2, 4, 8, 16, 32, 64)}
    assert decode.best_tp(big) == 8
    assert big[16] > big[8] < big[4]


def test_one_rank_pays_no_all_reduce() -> None:
    def never(ranks: int) -> float:
        raise AssertionError(f"asked for an all-reduce on {ranks} rank")

    assert decode.token_s(LLAMA, 1, H100, never) > 0


def test_break_even_is_where_two_degrees_take_the_same_time() -> None:
    limit = decode.break_even_all_reduce_s(LLAMA, 16, H100, from_tp=8, from_all_reduce_s=7.8e-6)
    eight = decode.token_s(LLAMA, 8, H100, lambda _: 7.8e-6)
    sixteen = decode.token_s(LLAMA, 16, H100, lambda _: limit)
    assert sixteen == pytest.approx(eight)
    with pytest.raises(ValueError, match="tp=8 must be above from_tp=8"):
        decode.break_even_all_reduce_s(LLAMA, 8, H100, from_tp=8)


def test_the_smaller_degree_wins_a_draw() -> None:
    assert decode.best_tp({4: 1.0, 2: 1.0, 8: 2.0}) == 2
    with pytest.raises(ValueError, match="empty"):
        decode.best_tp({})

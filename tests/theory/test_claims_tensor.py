"""The claims of section 7.3 that arithmetic and published times decide. The lab decides those on bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardlab.measure.record import read_published
from shardlab.theory import decode, ledger, per_rank
from shardlab.theory.collectives import wire_bytes
from shardlab.theory.degrees import Plan
from shardlab.theory.hardware import accelerator, link
from shardlab.theory.transformer import MODELS

PUBLISHED = Path(__file__).resolve().parents[2] / "labs" / "published"
LLAMA = MODELS["llama-3-70b"]
H100 = accelerator("h100_sxm")


def test_t2_two_a_layer_and_two_more() -> None:
    ops = [one.op for one in ledger.forward(LLAMA, Plan(tp=8), batch=1, seq=1)]
    assert ops.count("all_reduce") == 2 * LLAMA.num_layers + 1
    assert ops.count("all_gather") == 1


def test_t3_expert_bytes_are_k_over_t_of_tensor_bytes() -> None:
    tokens, width = 4096, 7168 * 2
    for ranks in (2, 4, 8, 16, 64):
        tensor = wire_bytes("all_reduce", num_bytes=tokens * width, world_size=ranks)
        for experts_a_token in (1, 2, 8):
            # Each rank has tokens / ranks of them and sends every copy to one of `ranks` places; then back.
            copies = experts_a_token * tokens * width / ranks
            expert = 2 * wire_bytes("all_to_all", num_bytes=copies, world_size=ranks)
            assert expert / tensor == pytest.approx(experts_a_token / ranks)


def test_t5_kv_bytes_stop_falling_at_t_equal_k() -> None:
    one_head = LLAMA.kv_bytes_per_token(2) / LLAMA.num_kv_heads
    held = {tp: max(per_rank.kv_bytes_per_token(LLAMA, tp, 2)) for tp in (4, 8, 16, 64)}
    assert held == {4: 2 * one_head, 8: one_head, 16: one_head, 64: one_head}
    total = {tp: sum(per_rank.kv_bytes_per_token(LLAMA, tp, 2)) for tp in (8, 16)}
    assert total[16] == 2 * total[8]  # replicated, not split


def test_t6_tokens_belong_in_the_formula() -> None:
    one = wire_bytes("all_reduce", num_bytes=8192 * 2, world_size=8)
    assert one == 2 * 7 / 8 * 8192 * 2
    assert wire_bytes("all_reduce", num_bytes=4 * 100 * 8192 * 2, world_size=8) == 400 * one
    one_shot = wire_bytes("all_reduce", num_bytes=8192 * 2, world_size=8, algorithm="one_shot")
    assert one_shot == 7 * 8192 * 2


def test_t7_28672_bytes_are_sent() -> None:
    assert wire_bytes("all_reduce", num_bytes=8192 * 2, world_size=8) == 28_672
    limit = wire_bytes("all_reduce", num_bytes=8192 * 2, world_size=1_000_000)
    assert limit == pytest.approx(32_768, rel=1e-5)


def test_t8_a_rank_sends_at_450() -> None:
    assert link("nvlink4").bandwidth_Bps * 2 == 900e9


def test_t9_published_times_against_the_bandwidth_term() -> None:
    rows = [
        row
        for name in ("allreduce_8xh100.csv", "allreduce_8xh200.csv")
        for row in read_published(PUBLISHED / name)
        if row.world_size == 8 and 32_768 <= row.num_bytes <= 34_816
    ]
    fastest, slowest = min(row.seconds for row in rows), max(row.seconds for row in rows)
    assert (fastest, slowest) == (pytest.approx(7.8e-6), pytest.approx(40e-6, rel=0.01))
    small = [row for row in read_published(PUBLISHED / "allreduce_8xh100.csv") if row.num_bytes == 4096]
    assert min(row.seconds for row in small if row.world_size == 8) == pytest.approx(5.7e-6)
    low = decode.all_reduce_times(LLAMA, 8, H100, measured_s=fastest)
    high = decode.all_reduce_times(LLAMA, 8, H100, measured_s=slowest)
    assert low.bandwidth_only_s == pytest.approx(64e-9, rel=0.01)
    assert low.measured_s / low.bandwidth_only_s > 100
    assert low.total_measured_s == pytest.approx(1.2e-3, rel=0.05)
    assert high.total_measured_s == pytest.approx(6.4e-3, rel=0.01)
    assert low.weight_read_s == pytest.approx(5.3e-3, rel=0.01)
    assert low.total_measured_s > 0.2 * low.weight_read_s  # not negligible at its best
    assert high.total_measured_s > high.weight_read_s  # and more than the work at its worst


def test_t10_bytes_grow_with_the_batch() -> None:
    def carried(batch: int) -> int:
        return sum(one.num_bytes for one in ledger.forward(LLAMA, Plan(tp=8), batch=batch, seq=1))

    assert [carried(batch) for batch in (2, 3, 64)] == [carried(1) * batch for batch in (2, 3, 64)]


def test_t11_nine_on_ndr_eighteen_on_hdr() -> None:
    nvlink = link("nvlink4").bandwidth_Bps
    assert nvlink / link("ib_ndr").bandwidth_Bps == 9
    assert nvlink / link("ib_hdr").bandwidth_Bps == 18

"""Claims outside section 7.3 that arithmetic, a data sheet or published times decide."""

from __future__ import annotations

import csv
from math import comb
from pathlib import Path

import pytest

from shardlab.measure.record import read_published
from shardlab.theory import decode, per_rank
from shardlab.theory.collectives import wire_bytes
from shardlab.theory.hardware import accelerator, link
from shardlab.theory.split import even_split
from shardlab.theory.transformer import MODELS

PUBLISHED = Path(__file__).resolve().parents[2] / "labs" / "published"
LLAMA = MODELS["llama-3-70b"]
H100 = accelerator("h100_sxm")
NVLINK, PCIE, NDR, HDR = (link(name).bandwidth_Bps for name in ("nvlink4", "pcie5_x16", "ib_ndr", "ib_hdr"))


def test_i1_eighteen_links_give_450_each_way() -> None:
    assert 18 * 25e9 == NVLINK
    assert 2 * NVLINK == 900e9


def test_i2_nvlink_is_seven_times_pcie5() -> None:
    assert NVLINK / PCIE == pytest.approx(7.1, abs=0.05)


def test_i4_pcie5_is_63_each_way() -> None:
    assert 2 * PCIE == pytest.approx(128e9, rel=0.02)
    assert 16 * 32e9 / 8 * 128 / 130 == pytest.approx(PCIE, rel=0.01)  # 16 lanes, 32 GT/s, 128b/130b


def test_i5_infiniband_ports() -> None:
    assert (HDR, NDR) == (200e9 / 8, 400e9 / 8)


def test_i6_the_table_mixes_directions() -> None:
    printed = {"nvlink4": 900e9, "pcie5_x16": 128e9, "ib_ndr": 50e9, "ib_hdr": 25e9}
    directions = {name: round(value / link(name).bandwidth_Bps) for name, value in printed.items()}
    assert directions == {"nvlink4": 2, "pcie5_x16": 2, "ib_ndr": 1, "ib_hdr": 1}


def test_i7_the_gap_is_nine_on_ndr() -> None:
    assert NVLINK / NDR == 9
    assert 2 * NVLINK / NDR == 18  # the chapter's number: two directions over one


def test_i8_node_against_one_gpu() -> None:
    assert 8 * NDR == 400e9
    assert 8 * NVLINK == 3600e9


def test_d4_seventy_billion_in_fp16() -> None:
    assert LLAMA.weight_bytes(2) == pytest.approx(141.1e9, rel=1e-3)
    assert LLAMA.weight_bytes(2) > H100.memory_bytes


def test_p1_eighty_layers_on_four() -> None:
    assert [len(stage) for stage in even_split(80, 4)] == [20] * 4


def test_p3_boundary_against_all_reduces() -> None:
    boundary = LLAMA.d_model * 2
    one = wire_bytes("all_reduce", num_bytes=boundary, world_size=8)
    assert boundary == 16_384
    assert one / boundary == 1.75
    assert 160 * one == pytest.approx(4.59e6, rel=1e-3)
    assert 160 * one / boundary == 280


def test_e2_sixty_four_experts_on_eight() -> None:
    assert [len(rank) for rank in even_split(64, 8)] == [8] * 8


def leaving(experts: int, ranks: int, k: int) -> tuple[float, float, float]:
    """Copies that leave, ranks that get one, share of tokens that leave: k distinct experts, all alike."""
    local = experts // ranks
    copies = k * (ranks - 1) / ranks
    places = (ranks - 1) * (1 - comb(experts - local, k) / comb(experts, k))
    tokens = 1 - comb(local, k) / comb(experts, k)
    return copies, places, tokens


def test_e4_copies_and_tokens_that_leave() -> None:
    copies, places, tokens = leaving(experts=64, ranks=8, k=2)
    assert copies == 1.75
    assert places == pytest.approx(1.653, abs=1e-3)
    assert tokens == pytest.approx(0.986, abs=1e-3)
    assert tokens > 7 / 8
    copies, places, _ = leaving(experts=256, ranks=8, k=8)
    assert (copies, places) == (7.0, pytest.approx(4.63, abs=0.01))


def test_c1_kv_cache_of_128k_tokens() -> None:
    assert [len(part) for part in even_split(128 * 1024, 4)] == [32 * 1024] * 4
    assert LLAMA.kv_bytes_per_token(2) * 128 * 1024 == 42_949_672_960


def test_c6_chunk_that_hides_the_ring() -> None:
    def chunk(bandwidth_Bps: float, kv_per_query_head: float) -> float:
        # 4 c^2 N H FLOPs against 2 c K H values of 2 bytes: c is (FLOP/s / bandwidth) * K / N.
        return H100.bf16_flops / bandwidth_Bps * kv_per_query_head

    assert chunk(NVLINK, 1) == pytest.approx(2199, abs=1)
    assert chunk(NVLINK, 1 / 8) == pytest.approx(275, abs=1)
    assert chunk(NDR, 1 / 8) == pytest.approx(2474, abs=1)
    tokens, heads, kv, width = 2199, 8, 8, 128
    compute_s = 4 * tokens**2 * heads * width / H100.bf16_flops
    transfer_s = 2 * tokens * kv * width * 2 / NVLINK
    assert compute_s == pytest.approx(transfer_s, rel=1e-3)


def test_a1_bytes_need_tokens_and_element_size() -> None:
    batch, element = 4, 2
    sent = wire_bytes("all_reduce", num_bytes=batch * 8192 * element, world_size=8)
    as_printed = 2 * 7 / 8 * 8192
    assert sent == as_printed * batch * element
    assert sent not in (as_printed * batch, as_printed * element)


def test_a5_latency_dominates_small_all_reduces() -> None:
    rows = [
        row
        for row in read_published(PUBLISHED / "allreduce_8xh100.csv")
        if row.world_size == 8 and row.num_bytes == 32_768
    ]
    assert len(rows) >= 3
    bandwidth_s = wire_bytes("all_reduce", num_bytes=32_768, world_size=8) / NVLINK
    ratios = sorted(row.seconds / bandwidth_s for row in rows)
    assert (ratios[0], ratios[-1]) == (pytest.approx(61, abs=1), pytest.approx(178, abs=1))


def test_a6_more_ranks_can_pay_past_the_rule_of_thumb() -> None:
    def all_reduce_s(ranks: int) -> float:
        return 40e-6

    four, eight = (decode.token_s(LLAMA, tp, H100, all_reduce_s) for tp in (4, 8))
    communication_s = (2 * LLAMA.num_layers + 1) * 40e-6
    assert communication_s > eight - communication_s  # over-parallelised by the rule
    assert eight < 0.75 * four  # and yet a good deal faster than half as many ranks


def test_a7_efficiency_of_gpt_fast() -> None:
    with (PUBLISHED / "decode_gpt_fast_a100.csv").open(newline="") as file:
        rate = {(row["model"], int(row["tp"])): float(row["tokens_per_s"]) for row in csv.DictReader(file)}
    seven = {tp: rate["llama-2-7b", tp] / tp / rate["llama-2-7b", 1] for tp in (2, 4, 8)}
    assert seven == pytest.approx({2: 0.80, 4: 0.61, 8: 0.39}, abs=0.006)
    seventy = rate["llama-2-70b", 8] / 8 / (rate["llama-2-70b", 2] / 2)
    assert seventy == pytest.approx(0.73, abs=0.005)


def test_m4_milliseconds_by_measured_times() -> None:
    number = 2 * LLAMA.num_layers
    assert (number * 2e-6, number * 5e-6) == (pytest.approx(0.32e-3), pytest.approx(0.8e-3))
    (row,) = [
        row
        for row in read_published(PUBLISHED / "allreduce_a100_2_nodes.csv")
        if row.num_bytes == 34_816 and row.num_nodes == 2
    ]
    assert number * row.seconds == pytest.approx(12.8e-3)


def test_m5_room_beside_the_weights() -> None:
    left = H100.memory_bytes - max(per_rank.weight_bytes(LLAMA, 8, 2))
    assert left == pytest.approx(62.4e9, rel=2e-3)


def test_m6_int4_with_scales() -> None:
    bits = 4 + 16 / 128
    assert LLAMA.num_parameters * bits / 8 == pytest.approx(36.4e9, rel=1e-3)
    assert LLAMA.num_parameters * 4 / 8 == pytest.approx(35e9, rel=0.01)


def test_m7_tokens_of_kv_cache_grow_with_t() -> None:
    def tokens(tp: int) -> float:
        room = H100.memory_bytes - max(per_rank.weight_bytes(LLAMA, tp, 2))
        return room / max(per_rank.kv_bytes_per_token(LLAMA, tp, 2))

    assert tokens(8) / 8 > tokens(4) / 4 > tokens(2) / 2  # more a GPU: the weights take less of each
    assert max(per_rank.kv_bytes_per_token(LLAMA, 16, 2)) == max(per_rank.kv_bytes_per_token(LLAMA, 8, 2))
    assert tokens(16) < 1.2 * tokens(8)

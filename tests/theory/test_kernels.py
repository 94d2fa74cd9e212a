"""theory.kernels and theory.blocks: bytes, FLOPs, the roofline, and the blocks that keep a GPU busy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shardlab.measure.record import read_published
from shardlab.theory import blocks, kernels
from shardlab.theory.hardware import accelerator
from shardlab.theory.kernels import Work
from shardlab.theory.transformer import MODELS
from shardlab.theory.work import attention_flops

PUBLISHED = Path(__file__).resolve().parents[2] / "labs" / "published"
H100 = accelerator("h100_sxm")
LLAMA = MODELS["llama-3-8b"]
HEADS = {"heads": 32, "kv_heads": 8, "head_dim": 128}


# ---------------------------------------------------------------------------------------------------------- roofline


def test_the_roof_is_a_slope_and_a_ceiling_that_meet_at_the_ridge() -> None:
    ridge = kernels.ridge(H100)
    assert ridge == pytest.approx(989.4e12 / 3.35e12)
    assert kernels.attainable_flops(H100, ridge) == pytest.approx(H100.bf16_flops)
    assert kernels.attainable_flops(H100, ridge / 2) == pytest.approx(H100.bf16_flops / 2)
    assert kernels.attainable_flops(H100, 10 * ridge) == H100.bf16_flops


@pytest.mark.parametrize("intensity", [0.5, 4.0, 295.0, 3000.0])
def test_least_time_and_attainable_rate_are_one_statement(intensity: float) -> None:
    work = Work(1e9, intensity * 1e9)
    assert work.intensity == intensity
    assert work.flops / work.least_s(H100) == pytest.approx(kernels.attainable_flops(H100, intensity))
    assert work.bound(H100) == ("memory" if intensity < kernels.ridge(H100) else "arithmetic")


# --------------------------------------------------------------------------------------------------------- attention


def test_causal_pairs_by_counting() -> None:
    for seq, cached in ((1, 1), (4, 4), (3, 10), (1, 128)):
        counted = sum(key <= cached - seq + query for query in range(seq) for key in range(cached))
        assert kernels.causal_pairs(seq, cached) == counted
    with pytest.raises(ValueError, match="cached=3: the 4 new tokens"):
        kernels.causal_pairs(4, 3)


def test_flash_attention_agrees_with_the_model_s_count() -> None:
    work = kernels.flash_attention(batch=1, seq=512, cached=640, **HEADS)
    assert work.flops == attention_flops(LLAMA, 32, seq=512, past=128)
    assert work.moved_bytes == 2 * 32 * 512 * 128 * 2 + 32 * 512 * 4 + 2 * 8 * 640 * 128 * 2


def test_written_out_scores_are_four_trips() -> None:
    assert kernels.written_out_scores(batch=1, heads=32, seq=8192) == 4 * 32 * 8192**2 * 2
    flash = kernels.flash_attention(batch=1, seq=8192, **HEADS).moved_bytes
    assert kernels.written_out_scores(batch=1, heads=32, seq=8192) / flash > 100


def test_decode_is_the_reading_of_the_cache() -> None:
    work = kernels.flash_decode(batch=1, cached=131_072, **HEADS)
    assert work.moved_bytes == pytest.approx(LLAMA.kv_bytes_per_token(2) / LLAMA.num_layers * 131_072, rel=1e-4)
    assert work.intensity == pytest.approx(32 / 8, rel=1e-3)  # FLOPs a byte: the query heads of a KV head
    split = kernels.flash_decode(batch=1, cached=131_072, splits=16, **HEADS)
    assert split.moved_bytes - work.moved_bytes == 2 * 32 * 16 * (128 + 1) * 4
    assert split.flops == work.flops


def test_one_query_is_attention_with_one_query() -> None:
    one = kernels.flash_attention(batch=3, seq=1, cached=77, **HEADS)
    assert one == kernels.flash_decode(batch=3, cached=77, **HEADS)


def test_merge_reads_every_part_and_writes_one() -> None:
    assert kernels.merge(parts=3, rows=10, head_dim=64).moved_bytes == 4 * 10 * (64 * 2 + 4)


# ---------------------------------------------------------------------------------------------------- the other ones


@pytest.mark.parametrize(("name", "passes", "fused"), [("add_rms_norm", 10, 4), ("rope_", 10, 2), ("silu_mul", 5, 3)])
def test_passes_over_memory(name: str, passes: float, fused: float) -> None:
    assert kernels.written_out_passes(name) == passes
    assert sum(kernels.FUSED[name]) == fused


def test_one_pass_kernels_move_what_their_passes_say() -> None:
    tensor = 8192 * 4096 * 2
    assert kernels.add_rms_norm(rows=8192, d_model=4096).moved_bytes == 4 * tensor + 4096 * 2
    assert kernels.rms_norm(rows=8192, d_model=4096).moved_bytes == 2 * tensor + 4096 * 2
    assert kernels.silu_mul(rows=8192, d_ff=4096).moved_bytes == 3 * tensor
    turned = kernels.rope(batch=2, seq=100, **HEADS)
    assert turned.moved_bytes == 2 * (2 * 40 * 100 * 128 * 2) + 100 * 128 * 2
    for work in (kernels.add_rms_norm(rows=8192, d_model=4096), turned):
        assert work.intensity < 1 and work.bound(H100) == "memory"


def test_a_few_rows_cost_what_one_costs() -> None:
    sizes = {"width_in": 4096, "width_out": 14336}
    one, sixteen, tall = (kernels.matmul(rows=rows, **sizes) for rows in (1, 16, 8192))
    assert one.intensity == pytest.approx(1, rel=1e-3)
    assert sixteen.least_s(H100) < 1.01 * one.least_s(H100)
    assert tall.bound(H100) == "arithmetic"


def test_q4_1_takes_five_bits_a_weight() -> None:
    int4 = kernels.int4_matmul(rows=1, width_in=4096, width_out=14336)
    assert int4.moved_bytes == 4096 * 14336 * 5 / 8 + (4096 + 14336) * 2
    assert int4.flops == kernels.matmul(rows=1, width_in=4096, width_out=14336).flops
    with pytest.raises(ValueError, match="width_in=100: a multiple of 32"):
        kernels.int4_matmul(rows=1, width_in=100, width_out=4)


def test_experts_that_nobody_chose_are_not_read() -> None:
    sizes = {"chosen": 2, "experts": 8, "width_in": 4096, "width_out": 14336}
    expert = 4096 * 14336 * 2
    assert kernels.grouped_matmul(tokens=1, **sizes).moved_bytes == pytest.approx(2 * expert, rel=1e-3)
    assert kernels.grouped_matmul(tokens=4096, **sizes).moved_bytes >= 8 * expert
    many = kernels.grouped_matmul(tokens=64, **sizes)
    assert many.flops == 2 * 128 * 4096 * 14336


def test_moving_rows_to_experts_and_back() -> None:
    there = kernels.permute(tokens=64, chosen=2, d_model=4096)
    back = kernels.unpermute(tokens=64, chosen=2, d_model=4096)
    assert there.flops == 0
    assert there.moved_bytes == 3 * 64 * 4096 * 2 + 64 * 2 * 4
    assert back.moved_bytes == 3 * 64 * 4096 * 2 + 64 * 2 * 8
    routed = kernels.route(tokens=64, experts=8, chosen=2)
    assert kernels.total([there, back, routed]).moved_bytes == there.moved_bytes + back.moved_bytes + routed.moved_bytes


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kernels.matmul(rows=0, width_in=1, width_out=1), "rows=0: 1 or more"),
        (lambda: kernels.flash_decode(batch=1, cached=0, **HEADS), "cached=0"),
        (lambda: blocks.waves(1, 0), "num_sms=0"),
        (
            lambda: blocks.decode_s(accelerator("tpu_v4"), batch=1, cached=8, **HEADS),
            "tpu_v4: the catalogue has no number",
        ),
        (
            lambda: blocks.break_even_cached(H100, kv_heads=8, head_dim=128, ranks=1, exchange_s=1e-6),
            "ranks=1: 2 or more",
        ),
    ],
)
def test_sizes_that_are_none_are_refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


# ------------------------------------------------------------------------------------------------------------ blocks


def test_blocks_of_prefill_and_of_decode() -> None:
    assert blocks.prefill_blocks(batch=2, heads=32, seq=129, tile=128) == 2 * 32 * 2
    assert blocks.decode_blocks(batch=4, kv_heads=8, splits=3) == 96


def test_busy_share_as_flash_attention_counts_it() -> None:
    # hopper/heuristics.h: 48 blocks on 108 SMs, 2 splits have efficiency 0.89 and 3 have 0.67
    assert blocks.busy_share(48 * 2, 108) == pytest.approx(0.89, abs=0.005)
    assert blocks.busy_share(48 * 3, 108) == pytest.approx(0.67, abs=0.005)
    assert (blocks.waves(132, 132), blocks.waves(133, 132)) == (1, 2)


@pytest.mark.parametrize("num_sms", [1, 7, 108, 132])
def test_busy_share_by_dealing_out_the_blocks(num_sms: int) -> None:
    for count in (1, 2, num_sms - 1 or 1, num_sms, num_sms + 1, 3 * num_sms):
        dealt = [0] * num_sms
        for block in range(count):
            dealt[block % num_sms] += 1
        assert blocks.busy_share(count, num_sms) == pytest.approx(sum(dealt) / (max(dealt) * num_sms))


def decode_s(batch: int, splits: int) -> float:
    return blocks.decode_s(H100, batch=batch, cached=131_072, splits=splits, **HEADS)


def test_time_follows_the_busy_sms() -> None:
    least = kernels.flash_decode(batch=1, cached=131_072, **HEADS).least_s(H100)
    assert decode_s(1, 1) == pytest.approx(least * 132 / 8)
    assert decode_s(1, 16) == pytest.approx(least * 132 / 128, rel=0.01)
    assert decode_s(1, 17) > 1.8 * decode_s(1, 16)  # four blocks too many open a second round


def test_c12_heads_and_batch_may_not_fill_the_sms() -> None:
    assert H100.num_sms == 132
    assert blocks.decode_blocks(batch=1, kv_heads=8) == 8
    assert blocks.decode_blocks(batch=16, kv_heads=8) == 128
    assert blocks.busy_share(8, 132) == pytest.approx(0.061, abs=1e-3)
    gain = {batch: decode_s(batch, 1) / min(decode_s(batch, splits) for splits in range(1, 129)) for batch in (1, 16)}
    assert gain[1] > 16
    assert gain[16] == pytest.approx(1.03, abs=0.005)
    # query length is the axis that a prompt has and a decode step lacks
    assert blocks.busy_share(blocks.prefill_blocks(batch=1, heads=8, seq=8192), 132) > 0.95


def test_c13_a_short_cache_is_read_before_ranks_have_spoken() -> None:
    rows = read_published(PUBLISHED / "allreduce_8xh100.csv")
    fastest = min(row.seconds for row in rows if row.world_size == 2 and row.num_bytes <= 4096)
    assert fastest == pytest.approx(3.7e-6)
    break_even = blocks.break_even_cached(H100, kv_heads=8, head_dim=128, ranks=2, exchange_s=fastest)
    assert break_even == pytest.approx(6052, abs=1)

    def layer_s(cached: int, ranks: int) -> float:
        read = 2 * 8 * 128 * 2 * cached / ranks / H100.hbm_Bps
        return read + (fastest if ranks > 1 else 0)

    assert layer_s(2048, 2) > layer_s(2048, 1)
    assert layer_s(131_072, 2) < 0.6 * layer_s(131_072, 1)
    assert layer_s(round(break_even), 2) == pytest.approx(layer_s(round(break_even), 1), rel=1e-3)

"""theory.roofline: FLOPs and bytes by another count, and the two bounds."""

from __future__ import annotations

import pytest

from shardlab.theory import per_rank, roofline
from shardlab.theory.hardware import accelerator
from shardlab.theory.transformer import MODELS, Shape

H100 = accelerator("h100_sxm")
LLAMA = MODELS["llama-3-70b"]
TINY = Shape(2, 8, 12, 4, 2, 2, 100)


def test_decode_flops_are_two_a_weight_and_token() -> None:
    found = roofline.flops(LLAMA, 1, batch=1, seq=1)
    attention = 4 * LLAMA.num_layers * LLAMA.num_heads * LLAMA.head_dim
    assert found == 2 * LLAMA.matmul_parameters + attention


def test_attention_flops_by_counting_every_pair() -> None:
    past, seq, batch = 5, 7, 3
    pairs = sum(1 for query in range(seq) for key in range(past + seq) if key <= past + query)
    with_attention = roofline.flops(TINY, 1, batch=batch, seq=seq, past=past)
    matrices = 2 * batch * seq * TINY.matmul_parameters
    assert with_attention - matrices == 4 * batch * TINY.num_layers * TINY.num_heads * TINY.head_dim * pairs


def test_flops_split_evenly_where_everything_divides() -> None:
    whole = roofline.flops(LLAMA, 1, batch=2, seq=16)
    assert [roofline.flops(LLAMA, tp, batch=2, seq=16) * tp for tp in (2, 4, 8)] == [whole] * 3
    assert roofline.flops(LLAMA, 16, batch=2, seq=16) * 16 > whole  # k and v are computed twice


def test_only_the_wanted_logits_are_computed() -> None:
    every = roofline.flops(TINY, 1, batch=1, seq=10)
    last = roofline.flops(TINY, 1, batch=1, seq=10, logit_positions=1)
    assert every - last == 9 * 2 * TINY.d_model * TINY.vocab_size


def test_decode_reads_the_weights_and_the_cache_once() -> None:
    found = roofline.hbm_bytes(LLAMA, 1, batch=1, seq=1, past=999)
    lookup = (LLAMA.vocab_size - 1) * LLAMA.d_model * 2
    assert found == LLAMA.weight_bytes(2) - lookup + 1000 * LLAMA.kv_bytes_per_token(2)
    tied = MODELS["smollm2-135m"]
    tied_found = roofline.hbm_bytes(tied, 3, batch=1, seq=1)
    kv = max(per_rank.kv_bytes_per_token(tied, 3, 2))
    assert tied_found == max(per_rank.weight_bytes(tied, 3, 2)) + kv


def test_every_byte_doubles_with_the_width_of_a_number() -> None:
    two, four = (roofline.hbm_bytes(LLAMA, 8, batch=2, seq=3, past=50, dtype_bytes=width) for width in (2, 4))
    assert four == 2 * two


def test_experts_and_latent_attention_under_tensor_parallelism() -> None:
    deepseek = MODELS["deepseek-v3"]
    assert roofline.hbm_bytes(deepseek, 8, batch=1, seq=1) < max(per_rank.weight_bytes(deepseek, 8, 2)) / 4
    split = roofline.flops(deepseek, 8, batch=1, seq=64) * 8
    compressions = 2 * 64 * 61 * deepseek.d_model * (1536 + 576)  # whole on every rank, as the router is
    routers = 2 * 64 * 58 * deepseek.router_parameters
    assert split - roofline.flops(deepseek, 1, batch=1, seq=64) == 7 * (compressions + routers)


def test_bounds() -> None:
    times = roofline.Times(math_s=1.0, hbm_s=2.0, comms_s=5.0)
    assert (times.on_chip_s, times.lower_s, times.upper_s) == (2.0, 5.0, 7.0)
    assert roofline.Times(3.0, 2.0, 1.0).lower_s == 3.0


def test_decode_waits_for_memory_and_prefill_for_arithmetic() -> None:
    decode = roofline.forward_times(LLAMA, 8, H100, batch=1, seq=1, past=1000, logit_positions=1)
    prefill = roofline.forward_times(LLAMA, 8, H100, batch=1, seq=8192, logit_positions=1)
    assert decode.hbm_s > 100 * decode.math_s
    assert prefill.math_s > 20 * prefill.hbm_s
    assert decode.lower_s < decode.upper_s


def test_one_rank_does_not_communicate() -> None:
    assert roofline.forward_times(LLAMA, 1, H100, batch=1, seq=4).comms_s == 0


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"seq": 0}])
def test_sizes_below_one_are_named(wrong: dict[str, int]) -> None:
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=f"{name}=0"):
        roofline.flops(TINY, 1, **{"batch": 1, "seq": 1, **wrong})
    with pytest.raises(ValueError, match=f"{name}=0"):
        roofline.hbm_bytes(TINY, 1, **{"batch": 1, "seq": 1, **wrong})

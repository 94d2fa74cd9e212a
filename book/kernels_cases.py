"""What the page on the kernels talks about: Llama 3 8B on an H100, and for experts Mixtral 8x7B."""

from __future__ import annotations

from pathlib import Path

from shardlab.measure.record import Published, read_published
from shardlab.theory import blocks, collectives, kernels
from shardlab.theory.hardware import accelerator, link
from shardlab.theory.kernels import Work
from shardlab.theory.transformer import MODELS
from shardlab.theory.units import bytes_text

PUBLISHED = Path(__file__).resolve().parent.parent / "labs" / "published"
H100, NVLINK = accelerator("h100_sxm"), link("nvlink4")
SHAPE, MOE = MODELS["llama-3-8b"], MODELS["mixtral-8x7b"]
SEQ, CACHED, SPLITS, FULL_BATCH, FEW_ROWS, MOE_TOKENS, MOE_SMALL = 8192, 131_072, 16, 16, 16, 64, 2
NARROW_TILE = 128
HEADS = {"heads": SHAPE.num_heads, "kv_heads": SHAPE.num_kv_heads, "head_dim": SHAPE.head_dim}
UP = {"width_in": SHAPE.d_model, "width_out": SHAPE.d_ff}


def prefill() -> Work:
    return kernels.flash_attention(batch=1, seq=SEQ, **HEADS)


def decode(batch: int = 1, splits: int = 1) -> Work:
    return kernels.flash_decode(batch=batch, cached=CACHED, splits=splits, **HEADS)


def decode_s(batch: int = 1, splits: int = 1) -> float:
    return blocks.decode_s(H100, batch=batch, cached=CACHED, splits=splits, **HEADS)


def grouped() -> Work:
    assert MOE.moe is not None
    return kernels.grouped_matmul(
        tokens=MOE_TOKENS,
        chosen=MOE.moe.experts_per_token,
        experts=MOE.moe.num_experts,
        width_in=MOE.d_model,
        width_out=MOE.moe.d_ff,
    )


def num_sms() -> int:
    assert H100.num_sms is not None
    return H100.num_sms


def shot_rows(ranks: int, algorithm: str) -> list[Published]:
    rows = read_published(PUBLISHED / "allreduce_h100_2_to_8.csv")
    return [
        row for row in rows if row.world_size == ranks and row.algorithm == algorithm and row.system.startswith("vLLM")
    ]


def crossing_bytes(ranks: int) -> float:
    """Where a one-shot and a two-shot take equally long: one step more against fewer bytes."""
    saved = collectives.wire_bytes("all_reduce", num_bytes=1, world_size=ranks, algorithm="one_shot")
    saved -= collectives.wire_bytes("all_reduce", num_bytes=1, world_size=ranks, algorithm="two_shot")
    return NVLINK.alpha_s * NVLINK.bandwidth_Bps / saved


def crossed(ranks: int) -> str:
    """Where the published points change places, in words."""
    one, two = (
        {row.num_bytes: row.seconds for row in shot_rows(ranks, algorithm)} for algorithm in ("one_shot", "two_shot")
    )
    sizes = sorted(one.keys() & two.keys())
    later = [size for size in sizes if all(two[other] <= one[other] for other in sizes if other >= size)]
    if not later:
        return f"not up to {bytes_text(sizes[-1])}"
    before = [size for size in sizes if size < later[0]]
    after = f"{bytes_text(later[0])}"
    return f"between {bytes_text(before[-1])} and {after}" if before else f"below {after}"


def exchange() -> Published:
    """The fastest published all-reduce of at most 4 KiB between two H100."""
    rows = read_published(PUBLISHED / "allreduce_8xh100.csv")
    return min((row for row in rows if row.world_size == 2 and row.num_bytes <= 4096), key=lambda row: row.seconds)


def unbroken(text: str) -> str:
    """A number and its unit stay on one line of a table."""
    return text.replace(" ", "\u00a0")

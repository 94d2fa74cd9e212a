"""The kernels as a page: the build fills the ${...} of book/kernels.md and draws its figures beside it.

Numbers come from shardlab.theory, from labs/published and, where a GPU has run the bench, from labs/measured.
"""

from __future__ import annotations

from pathlib import Path
from string import Template

import kernels_measured
from hardware_page import table
from kernels_cases import (
    CACHED,
    FEW_ROWS,
    FULL_BATCH,
    H100,
    HEADS,
    MOE,
    MOE_SMALL,
    MOE_TOKENS,
    NARROW_TILE,
    NVLINK,
    SEQ,
    SHAPE,
    SPLITS,
    UP,
    crossed,
    crossing_bytes,
    decode,
    decode_s,
    exchange,
    grouped,
    num_sms,
    prefill,
    unbroken,
)  # fmt: skip
from kernels_figures import Pictures, figures
from shardlab.compare import kernels as compare_kernels
from shardlab.theory import blocks, collectives, kernels
from shardlab.theory.kernels import Work
from shardlab.theory.units import decimal_bytes_text, seconds_text
from shardlab.theory.work import expected_experts


def flops_text(flops: float) -> str:
    for factor, unit in ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")):
        if flops >= factor:
            return f"{flops / factor:.3g} {unit}"
    return f"{flops:,.0f} FLOP" if flops else "–"


def number_text(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.2g}"


def works(*rows: tuple[str, str, Work]) -> str:
    """A table of (file, case, work): bytes, FLOPs, intensity, and the least time on an H100."""
    lines = [["file", "case", "moves", "computes", "FLOPs a byte", "H100, at least"]]
    for file, case, work in rows:
        intensity = number_text(work.intensity) if work.flops else "–"
        least = f"{unbroken(seconds_text(work.least_s(H100)))}, {work.bound(H100)}"
        moved, computed = unbroken(decimal_bytes_text(work.moved_bytes)), unbroken(flops_text(work.flops))
        lines.append([f"`{file}`", case, moved, computed, intensity, least])
    return table("llrrrl", *lines)


def tables() -> dict[str, str]:
    assert MOE.moe is not None
    moe, rows = MOE.moe, {"rows": SEQ}
    chosen, width = moe.experts_per_token, MOE.d_model
    attention = f"{SHAPE.num_heads} heads, {SEQ:,} tokens"
    return {
        "flash_table": works(("flash_attention.py", attention, prefill())),
        "decode_table": works(
            ("flash_decode.py", f"{CACHED:,} cached, {SPLITS} splits", decode(splits=SPLITS)),
            (
                "merge.py",
                f"{SPLITS} parts, {SHAPE.num_heads} rows",
                kernels.merge(parts=SPLITS, rows=SHAPE.num_heads, head_dim=SHAPE.head_dim, item_bytes=4),
            ),
        ),
        "passes_table": works(
            ("rms_norm.py", f"with residual, {SEQ:,} tokens", kernels.add_rms_norm(d_model=SHAPE.d_model, **rows)),
            ("rope.py", attention, kernels.rope(batch=1, seq=SEQ, **HEADS)),
            ("silu_mul.py", f"{SEQ:,} tokens", kernels.silu_mul(d_ff=SHAPE.d_ff, **rows)),
        ),
        "product_table": works(
            ("matmul.py", f"{SEQ:,} rows", kernels.matmul(rows=SEQ, **UP)),
            ("skinny.py", f"{FEW_ROWS} rows", kernels.matmul(rows=FEW_ROWS, **UP)),
            ("skinny.py", "1 row", kernels.matmul(rows=1, **UP)),
        ),
        "int4_table": works(
            ("int4_gemv.py", "1 row", kernels.int4_matmul(rows=1, **UP)),
            ("int4_gemv.py", f"{FEW_ROWS} rows", kernels.int4_matmul(rows=FEW_ROWS, **UP)),
            ("int4_matmul.py", f"{SEQ:,} rows", kernels.int4_matmul(rows=SEQ, **UP)),
        ),
        "moe_table": works(
            (
                "moe_route.py",
                f"{MOE_TOKENS} tokens",
                kernels.route(tokens=MOE_TOKENS, experts=moe.num_experts, chosen=chosen),
            ),
            ("moe_permute.py", "permute", kernels.permute(tokens=MOE_TOKENS, chosen=chosen, d_model=width)),
            ("grouped_matmul.py", f"{MOE_TOKENS * chosen} rows", grouped()),
            ("moe_permute.py", "unpermute", kernels.unpermute(tokens=MOE_TOKENS, chosen=chosen, d_model=width)),
        ),
        "comm_table": talk(),
    }


def talk() -> str:
    """The communicating kernels: what a rank takes over its links, and the alpha-beta time. Norms add nothing to it."""
    assert MOE.moe is not None
    small, routed = FEW_ROWS * SHAPE.d_model * 2, MOE_TOKENS * MOE.moe.experts_per_token * MOE.d_model * 2
    reduced = f"{decimal_bytes_text(small)}, 8 ranks"
    calls = [
        ("all_reduce.py", f"one shot, {reduced}", "all_reduce", "one_shot", small),
        ("all_reduce.py", f"two shots, {reduced}", "all_reduce", "two_shot", small),
        ("all_reduce_rms_norm.py", "one shot, with residual and norm", "all_reduce", "one_shot", small),
        ("all_to_all.py", f"dispatch, {MOE_TOKENS} tokens a rank", "all_to_all", "one_shot", routed),
    ]
    rows = [["file", "what", "over the links, a rank", "alpha-beta, at least"]]
    for file, what, op, algorithm, num_bytes in calls:
        sent = collectives.wire_bytes(op, num_bytes=num_bytes, world_size=8, algorithm=algorithm)
        least_s = collectives.time_s(op, num_bytes=num_bytes, world_size=8, link=NVLINK, algorithm=algorithm)
        rows.append([f"`{file}`", what, unbroken(decimal_bytes_text(sent)), unbroken(seconds_text(least_s))])
    return table("llrr", *rows)


def numbers() -> dict[str, str]:
    """The numbers in the page's sentences."""
    assert MOE.moe is not None
    kv_heads, experts, chosen = SHAPE.num_kv_heads, MOE.moe.num_experts, MOE.moe.experts_per_token
    skinny, product = kernels.matmul(rows=1, **UP), kernels.int4_matmul(rows=1, **UP)
    break_even = blocks.break_even_cached(
        H100, kv_heads=kv_heads, head_dim=SHAPE.head_dim, ranks=2, exchange_s=exchange().seconds
    )
    return {
        "model": "Llama 3 8B",
        "cached": f"{CACHED:,}",
        "cache_bytes": decimal_bytes_text(decode().moved_bytes),
        "cache_s": seconds_text(decode().least_s(H100)),
        "ridge": f"{kernels.ridge(H100):.0f}",
        "skinny_tflops": f"{kernels.attainable_flops(H100, skinny.intensity) / 1e12:.1f}",
        "peak_tflops": f"{H100.bf16_flops / 1e12:.0f}",
        "seq": f"{SEQ:,}",
        "scores_bytes": decimal_bytes_text(kernels.written_out_scores(batch=1, heads=SHAPE.num_heads, seq=SEQ)),
        "prefill_blocks": f"{blocks.prefill_blocks(batch=1, heads=SHAPE.num_heads, seq=SEQ):,}",
        "num_sms": f"{num_sms()}",
        "few_blocks": f"{blocks.decode_blocks(batch=1, kv_heads=kv_heads)}",
        "unsplit_s": seconds_text(decode_s()),
        "unsplit_times": f"{decode_s() / decode().least_s(H100):.1f}",
        "splits": f"{SPLITS}",
        "split_blocks": f"{blocks.decode_blocks(batch=1, kv_heads=kv_heads, splits=SPLITS)}",
        "split_s": seconds_text(decode_s(splits=SPLITS)),
        "full_batch": f"{FULL_BATCH}",
        "full_blocks": f"{blocks.decode_blocks(batch=FULL_BATCH, kv_heads=kv_heads)}",
        "exchange_s": seconds_text(exchange().seconds),
        "break_even": f"{round(break_even, -2):,.0f}",
        "skinny_rows": f"{FEW_ROWS}",
        "narrow": f"{SHAPE.d_model:,}",
        "narrow_tile": f"{NARROW_TILE}",
        "narrow_blocks": f"{-(-SHAPE.d_model // NARROW_TILE)}",
        "block": f"{kernels.Q4_1_BLOCK}",
        "int4_factor": f"{skinny.moved_bytes / product.moved_bytes:.1f}",
        "moe_experts": f"{experts}",
        "moe_chosen": f"{chosen}",
        "moe_small": f"{MOE_SMALL}",
        "moe_awake_small": f"{expected_experts(experts, chosen, MOE_SMALL):.1f}",
        "moe_tokens": f"{MOE_TOKENS}",
        "moe_awake": f"{expected_experts(experts, chosen, MOE_TOKENS):.1f}",
        "crossing_4": decimal_bytes_text(crossing_bytes(4)),
        "crossed_4": crossed(4),
        "crossed_6": crossed(6),
        "head_bytes": decimal_bytes_text(decode().moved_bytes / kv_heads),
        "crossing_6": decimal_bytes_text(crossing_bytes(6)),
    }


def write(page: Path, measurements: Path) -> None:
    """Fill in the page, in place, and draw its figures beside it. measurements: the folder of labs/measured.

    Raises KeyError for a ${name} that nothing fills.
    """
    pictures = Pictures(page.parent / "images" / page.stem)
    status, section = kernels_measured.measured(compare_kernels.pairs(compare_kernels.read(measurements)), pictures)
    filled = {**numbers(), **tables(), **figures(pictures), "status": status, "measured": section}
    page.write_text(Template(page.read_text()).substitute(filled))

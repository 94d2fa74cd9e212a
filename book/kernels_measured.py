"""What the page on the kernels says of measurements: where there are none, and where a GPU has run the bench."""

from __future__ import annotations

from collections.abc import Sequence

from hardware_page import table
from kernels_cases import unbroken
from kernels_figures import Pictures
from ledger_page import escape
from shardlab import viz
from shardlab.compare import kernels as compare_kernels
from shardlab.theory.hardware import Accelerator, accelerator
from shardlab.theory.units import seconds_text

COMMAND = "python -m shardlab_kernels.bench"

# Which kernels share a mark on the measured roofline.
GROUPS = {
    "attention": ("flash_attention", "flash_decode", "merge"),
    "ranks on one GPU": ("barrier", "all_reduce_one_shot", "all_reduce_two_shot", "all_reduce_rms_norm", "all_to_all"),
    "one pass": ("rms_norm", "add_rms_norm", "rope_", "silu_mul"),
    "products": ("matmul", "skinny_matmul"),
    "INT4": ("int4_gemv", "int4_matmul"),
    "whole model": ("decoder_layers", "decode", "decode_int4"),
    "experts": ("route", "sort_by_expert", "moe_permute", "grouped_matmul"),
}
# A device's name as torch says it -> the catalogue's entry.
CARDS = {"H100 PCIe": None, "H200": "h200_sxm", "H100": "h100_sxm", "A100": "a100_sxm_80gb", "B200": "b200_sxm"}


def measured(pairs: Sequence[compare_kernels.Pair], pictures: Pictures) -> tuple[str, str]:
    """-> (the sentence under the first roofline, the section at the end)."""
    if not pairs:
        status = (
            "Hollow marks are predictions, and they lie on the roof because nothing can lie above it. **No GPU has "
            "timed these kernels yet.** They are proven right on a CPU, in Triton's interpreter, and compiled for "
            "an H100. How far below the roof they run, we don't know."
        )
        section = (
            "Nothing yet: no number of a GPU of ours exists. This command makes them, on a machine with one. It checks "
            f"every kernel against its formula before it times it.\n\n```bash\n{COMMAND}\n```\n\nIts rows go to "
            "`labs/measured`. At the next `make book`, filled marks stand below the roof, and a table here has ours, "
            "the best rival, and the share of what that GPU's own copy and matrix product reach."
        )
        return status, section
    names = list(dict.fromkeys(pair.ours.device for pair in pairs))
    status = (
        "Hollow marks are predictions, and they lie on the roof because nothing can lie above it. What was measured, "
        f"on {' and '.join(map(escape, names))}, is [at the end of the page](#what-was-measured)."
    )
    parts = []
    for number, name in enumerate(names):
        own = [pair for pair in pairs if pair.ours.device == name]
        parts += [f"### {escape(name)}", device_figure(name, own, pictures, number), device_table(own)]
    return status, "\n\n".join(parts)


def device_figure(name: str, pairs: Sequence[compare_kernels.Pair], pictures: Pictures, number: int) -> str:
    """The roofline of one GPU with the kernels that do arithmetic. A text instead where none does."""
    rows = [pair.ours for pair in pairs if pair.ours.flops > 0 and pair.ours.moved_bytes > 0]
    if not rows:
        return "None of these kernels does arithmetic, so there is no roofline to draw."
    reached = (rows[-1].copy_Bps, rows[-1].gemm_flops_per_s)
    card = card_of(name)
    roof = (card.hbm_Bps, card.bf16_flops) if card else reached
    marks = [
        viz.Reach(row.case, row.flops / row.moved_bytes, row.flops / row.seconds, group_of(row.kernel), measured=True)
        for row in rows
    ]
    figure = viz.roofline(
        marks,
        hbm_Bps=roof[0],
        bf16_flops=roof[1],
        roof="data sheet" if card else "copy and matrix product",
        reached=reached if card else None,
        reached_roof="its copy and matrix product",
    )
    alt = f"Measured TFLOP/s over FLOPs a byte on {name}: {len(marks)} cases under the roof."
    return pictures.image(f"measured-{number}", figure, alt)


def device_table(pairs: Sequence[compare_kernels.Pair]) -> str:
    rows = [["kernel", "case", "ours", "best rival", "rival / ours", "of the limit"]]
    for pair in pairs:
        rival = pair.rival
        best = f"{unbroken(seconds_text(rival.seconds))}, {escape(rival.implementation)}" if rival else "–"
        ratio = f"{pair.speedup:.2f}" if pair.speedup else "–"
        ours = pair.ours
        time, share = unbroken(seconds_text(ours.seconds)), f"{ours.share:.0%}" if ours.limit_s else "–"
        rows.append([f"`{ours.kernel}`", escape(ours.case), time, best, ratio, share])
    newest = pairs[-1].ours
    limit = (
        f"The limit is what the same GPU reached in the same run: a copy at {newest.copy_Bps / 1e12:.2f} TB/s, and a "
        f"matrix product at {newest.gemm_flops_per_s / 1e12:,.0f} TFLOP/s."
    )
    return f"{table('llrlrr', *rows)}\n\n{limit}"


def card_of(device: str) -> Accelerator | None:
    """The catalogue's entry for a device's name, the first that fits; None where it has none."""
    entry = next((entry for part, entry in CARDS.items() if all(word in device for word in part.split())), None)
    return accelerator(entry) if entry else None


def group_of(kernel: str) -> str:
    return next((group for group, names in GROUPS.items() if kernel in names), "others")

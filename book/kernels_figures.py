"""The figures of the page on the kernels, each with the words that stand in for it."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from kernels_cases import (
    FEW_ROWS,
    FULL_BATCH,
    H100,
    MOE_TOKENS,
    NVLINK,
    SEQ,
    SHAPE,
    SPLITS,
    UP,
    decode,
    decode_s,
    grouped,
    num_sms,
    prefill,
    shot_rows,
)  # fmt: skip
from shardlab import viz
from shardlab.theory import blocks, collectives, kernels
from shardlab.theory.kernels import Work
from shardlab.theory.units import decimal_bytes_text, seconds_text


class Pictures:
    """Saves figures into a folder of the book, and writes the lines that show them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def image(self, name: str, figure: Figure, alt: str) -> str:
        """Draw it into `folder` and return the MyST for it. A figure heavier than 60 kB is refused by viz.show."""
        picture = viz.show(figure, alt)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{name}.png").write_bytes(picture.png)
        where = f"images/{self.folder.name}/{name}.png"
        return f"```{{image}} {where}\n:alt: {' '.join(alt.split())}\n:width: 700px\n:class: sd-mb-3\n```"


def predicted() -> list[viz.Reach]:
    """The hollow marks of the roofline: each kernel on the roof, at this page's sizes."""
    left_up, left_down = (-1, 1), (-1, -1)
    marks: list[tuple[str, Work, tuple[int, int]]] = [
        ("RMSNorm + residual", kernels.add_rms_norm(rows=SEQ, d_model=SHAPE.d_model), (1, -1)),
        ("matmul, 1 row", kernels.matmul(rows=1, **UP), (1, -1)),
        ("INT4, 1 row", kernels.int4_matmul(rows=1, **UP), left_up),
        ("flash decode", decode(), (1, -1)),
        (f"experts, {MOE_TOKENS} tokens", grouped(), left_up),
        (f"matmul, {FEW_ROWS} rows", kernels.matmul(rows=FEW_ROWS, **UP), (1, -1)),
        ("tall matmul", kernels.matmul(rows=SEQ, **UP), left_up),
        ("flash attention", prefill(), left_down),
    ]
    return [
        viz.Reach(label, work.intensity, kernels.attainable_flops(H100, work.intensity), words=words)
        for label, work, words in marks
    ]


def figures(pictures: Pictures) -> dict[str, str]:
    """Every figure that does not depend on measurements of ours, by its name in the page."""
    one, few, many = (blocks.decode_blocks(batch=1, kv_heads=SHAPE.num_kv_heads, splits=n) for n in (1, 1, SPLITS))
    sms = num_sms()
    states = [
        viz.Busy(f"no split: {few} blocks", range(few), f"{few} of {sms} SMs work: {seconds_text(decode_s())}"),
        viz.Busy(
            f"{SPLITS} splits: {many} blocks",
            [block // SPLITS for block in range(many)],
            f"{many} of {sms} SMs work: {seconds_text(decode_s(splits=SPLITS))}",
        ),
    ]
    lines = []
    for batch in (1, FULL_BATCH // 4, FULL_BATCH):
        least = decode(batch).least_s(H100)
        points = [(splits, decode_s(batch, splits) / least) for splits in range(1, 65)]
        lines.append(viz.Splits(f"batch {batch}: {batch * one} blocks without a split", points))
    written_out = kernels.written_out_scores(batch=1, heads=SHAPE.num_heads, seq=SEQ)
    totals = ", ".join(
        f"{name} {kernels.written_out_passes(name):g} and {sum(fused):g}" for name, fused in kernels.FUSED.items()
    )
    drawn = {
        "roofline": (
            viz.roofline(predicted(), hbm_Bps=H100.hbm_Bps, bf16_flops=H100.bf16_flops, roof="H100 SXM, data sheet"),
            f"Attainable TFLOP/s over FLOPs a byte. A slope up to {kernels.ridge(H100):.0f} FLOPs a byte, then flat. "
            "Norms, one-row products, INT4 and flash decode are low on the slope; tall products and flash attention "
            "on the flat part.",
        ),
        "tiles": (
            viz.attention_tiles(8, written_out, prefill().moved_bytes),
            "A triangle of tiles: each row of query tiles walks over the key tiles up to its own. Scores written out "
            f"move {decimal_bytes_text(written_out)}, flash attention {decimal_bytes_text(prefill().moved_bytes)}.",
        ),
        "sms": (
            viz.busy_sms(states, sms),
            f"Two grids of {sms} SMs. Without a split {few} are coloured, one a KV head. With {SPLITS} splits {many} "
            "are, sixteen a KV head.",
        ),
        "split_times": (
            viz.split_times(lines),
            f"Times longer than memory allows over 1 to 64 splits. Batch 1 starts at {lines[0].points[0][1]:.1f} and "
            f"reaches 1 at {SPLITS} splits; batch {FULL_BATCH} is near 1 from the start.",
        ),
        "passes": (
            viz.passes([viz.Passes(name, steps, kernels.FUSED[name]) for name, steps in kernels.PASSES.items()]),
            f"Tensors read and written, written out and in one pass: {totals}.",
        ),
        "int4": (
            viz.q4_1_block(),
            "A block of 20 bytes: scale, minimum, then 16 bytes with two weights each, j in the low and j + 16 in the "
            "high nibble. 5 bits a weight, against 16.",
        ),
        "experts": (
            viz.expert_rows([(0, 3), (1, 3), (0, 1), (0, 3), (1, 3)], 4),
            "Five tokens go to two of four experts each. Their copies are sorted by expert, multiplied with that "
            "expert's weights, and added up again. Nobody chose expert 2, so it is not read.",
        ),
        "shots": (
            viz.shots(4),
            "What rank 0 of four reads. One shot: all slices of three peers. Two shots: first its own slice of each, "
            "then the finished slice of each.",
        ),
        "crossing": (
            crossing(),
            "Time of an all-reduce over its size, on 4 and on 6 ranks: one shot and two shots as lines, vLLM's "
            "published times as points above them. The points cross later than the lines.",
        ),
    }
    return {name: pictures.image(name, figure, alt) for name, (figure, alt) in drawn.items()}


def crossing() -> Figure:
    """One shot against two: the formula with NCCL's step, and vLLM's published times."""
    panels = []
    for ranks in (4, 6):
        drawn = []
        for algorithm, label in (("one_shot", "one shot"), ("two_shot", "two shots")):

            def seconds(num_bytes: float, ranks: int = ranks, algorithm: str = algorithm) -> float:
                return collectives.time_s(
                    "all_reduce", num_bytes=num_bytes, world_size=ranks, link=NVLINK, algorithm=algorithm
                )

            line = [(2.0**power, seconds(2.0**power)) for power in range(14, 24)]
            points = [(row.num_bytes, row.seconds) for row in shot_rows(ranks, algorithm)]
            drawn.append(viz.Curve(label, line, points))
        panels.append(viz.Panel(drawn, f"{ranks} ranks, H100", "size of the tensor", "time"))
    return viz.curves(panels, share_y=True)

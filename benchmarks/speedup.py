"""A prefill on two ranks against one rank, one thread each, in turns on the same two processes."""

from __future__ import annotations

import torch

from benchmarks import Row
from shardlab import Plan, Ranks
from shardlab.comm.mesh import Mesh
from shardlab.measure.timer import interleave, ratio, slowest
from shardlab.model import ModelConfig, Transformer
from shardlab.programs.machine import samples_s
from shardlab.theory.split import even_split
from shardlab.theory.transformer import Shape

SHAPE = Shape(2, 1024, 4096, 16, 16, 64, 1024, name="toy")  # 34 million weights: compute-bound on a CPU
NUM_TOKENS = 512
ROUNDS = 7


def rows() -> list[Row]:
    """The prefill, and beside it the most that this machine gives to two busy cores: a bare matrix product."""
    with Ranks(2, backend="gloo") as ranks:
        times = interleave(
            {
                "prefill 1": lambda: slowest(ranks.run(prefill_s, plan=Plan(), check=False)),
                "prefill 2": lambda: slowest(ranks.run(prefill_s, plan=Plan(tp=2), check=False)),
                "product 1": lambda: slowest(ranks.run(product_s, plan=Plan(), check=False)),
                "product 2": lambda: slowest(ranks.run(product_s, plan=Plan(tp=2), check=False)),
            },
            ROUNDS,
        )
    gain = ratio(times["prefill 1"], times["prefill 2"])
    ceiling = ratio(times["product 1"], times["product 2"])
    size = f"{SHAPE.num_layers} layers, D {SHAPE.d_model}, {NUM_TOKENS} tokens"
    return [
        Row(
            "C12",
            f"prefill, T = 2 against T = 1, one thread each ({size})",
            f"{gain.median_s:.2f}x ({gain.p10_s:.2f}-{gain.p90_s:.2f})",
            "1.5x, aim 1.8x",
            gain.median_s >= 1.5,
        ),
        Row(
            "",
            "  the ceiling: half a matrix product on each of two cores, nothing sent",
            f"{ceiling.median_s:.2f}x ({ceiling.p10_s:.2f}-{ceiling.p90_s:.2f})",
        ),
    ]


def prefill_s(mesh: Mesh) -> float:
    """Seconds of one prefill, one thread a rank, after one that is not counted."""
    torch.set_num_threads(1)
    model = Transformer(ModelConfig(SHAPE), mesh)
    tokens = torch.arange(NUM_TOKENS).unsqueeze(0) % SHAPE.vocab_size
    with torch.inference_mode():
        for parameter in model.parameters():
            parameter.fill_(0.01)  # what the numbers are changes nothing in the time
        return samples_s(mesh, mesh["tp"], lambda: model.next_logits(tokens), rounds=1)[0]


def product_s(mesh: Mesh) -> float:
    """Seconds of x[S,D] . w[D,F_tp], eight times: the MLP's product with nothing around it."""
    torch.set_num_threads(1)
    tp = mesh["tp"]
    x = torch.ones(NUM_TOKENS, SHAPE.d_model)
    w = torch.ones(SHAPE.d_model, len(even_split(SHAPE.d_ff, tp.size)[tp.rank]))
    return samples_s(mesh, tp, lambda: [x @ w for _ in range(8)], rounds=1)[0]

"""What a machine can do for a model of serve.TOY's size: products with few rows and with many, and its collectives."""

from __future__ import annotations

from statistics import median

import torch
import torch.nn.functional as F

from shardlab import comm
from shardlab.comm.mesh import Mesh
from shardlab.programs import machine, serve

SHAPE = serve.TOY


def product_rates(mesh: Mesh, decode_rows: int, prefill_rows: int) -> tuple[float, float]:
    """(FLOP/s of products with prefill_rows rows, bytes of weights a second in products with decode_rows rows)."""
    weights = [torch.full((SHAPE.d_model, SHAPE.d_model), 0.5) for _ in range(32)]  # 128 MiB: larger than the caches

    def seconds(num_rows: int, times: int) -> float:
        x = torch.ones(num_rows, SHAPE.d_model)
        return median(machine.samples_s(mesh, mesh["tp"], lambda: [F.linear(x, w) for w in weights[:times]], 2)) / times

    num_weights = SHAPE.d_model**2
    return 2 * prefill_rows * num_weights / seconds(prefill_rows, 8), 4 * num_weights / seconds(decode_rows, 32)


def collective_s(mesh: Mesh, sizes: tuple[int, ...]) -> dict[str, list[float]]:
    """Median seconds of the model's two collectives at each size, on all tp axes of the mesh at once."""
    tp = mesh["tp"]
    found: dict[str, list[float]] = {"all_reduce": [], "all_gather": []}
    for num_bytes in sizes:
        whole, part = torch.zeros(num_bytes // 4), torch.zeros(num_bytes // 4 // tp.size)
        found["all_reduce"].append(median(machine.samples_s(mesh, tp, lambda t=whole: comm.all_reduce(t, tp), 3)))
        found["all_gather"].append(median(machine.samples_s(mesh, tp, lambda t=part: comm.all_gather(t, tp), 3)))
    return found

"""All-reduce, residual and norm in one kernel, and the norm alone: timed in turns on every rank."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from shardlab import comm
from shardlab.algorithms.over_symmetric_memory import room_for
from shardlab.algorithms.symmetric import symmetric_memory
from shardlab.comm.mesh import Mesh
from shardlab.measure.device_clock import seconds_on
from shardlab_kernels.all_reduce_rms_norm import all_reduce_rms_norm
from shardlab_kernels.rms_norm import add_rms_norm

_EPS = 1e-5


def time_fused_norm(
    mesh: Mesh, d_model: int, rows: Sequence[int], dtype: torch.dtype, rounds: int, calls: int
) -> list[tuple[list[float], list[float]]]:
    """For each number of rows: this rank's seconds of a fused call on [rows, d_model] and of a norm, one a round."""
    axis, device = mesh["tp"], mesh.device
    memory = symmetric_memory(axis, room_for(max(rows) * d_model * dtype.itemsize, axis.size), device)
    weight = torch.ones(d_model, dtype=dtype, device=device)
    inputs = [torch.randn(count, d_model, dtype=dtype, device=device) for count in rows]
    samples: list[tuple[list[float], list[float]]] = [([], []) for _ in rows]
    for number in range(rounds + 1):  # the first compiles, and is not kept
        for x, (fused, norm) in zip(inputs, samples, strict=True):
            comm.barrier(axis)
            fused_s = seconds_on(device, lambda x=x: all_reduce_rms_norm(x, x, weight, _EPS, memory), calls)
            norm_s = seconds_on(device, lambda x=x: add_rms_norm(x, x, weight, _EPS), calls)
            if number:
                fused.append(fused_s)
                norm.append(norm_s)
    return samples

"""What this machine can do while T ranks work at once: arithmetic, memory and all_reduce, as each rank sees them.

Ranks of one machine share its cores and its memory, so each number is taken with every rank busy: it is the rate of
one rank among T, which is what the bounds of a forward on T ranks need.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch
import torch.nn.functional as F

from shardlab import comm
from shardlab.comm.mesh import Axis, Mesh
from shardlab.theory.collectives import steps, wire_bytes
from shardlab.theory.hardware import Accelerator, Link

ROUNDS = 7


@dataclass(frozen=True)
class Rates:
    """One rank's rates among T busy ranks."""

    flops: float  # fp32 FLOP/s in a matrix product of prefill size
    read_Bps: float  # bytes of weights a second in a matrix-vector product, of weights larger than the caches
    small_all_reduce_s: float  # an all_reduce of `small_bytes`: latency and nothing else
    large_all_reduce_s: float  # an all_reduce of `large_bytes`
    small_bytes: int
    large_bytes: int

    def as_accelerator(self, world_size: int) -> Accelerator:
        """This rank as a data sheet, with the alpha-beta link that its two all_reduces give.

        The small one is all latency, 2(T-1) steps of it; what the large one takes longer is its bytes.
        """
        if world_size == 1:
            link = Link(0.0, 1e15, "no link: one rank")  # never used: one rank sends nothing
        else:
            sent = wire_bytes("all_reduce", num_bytes=self.large_bytes, world_size=world_size)
            longer_s = max(self.large_all_reduce_s - self.small_all_reduce_s, 1e-9)
            alpha_s = self.small_all_reduce_s / steps("all_reduce", world_size=world_size)
            link = Link(alpha_s, sent / longer_s, "this machine")
        return Accelerator("this machine", 0.0, self.read_Bps, self.flops, link)


def describe() -> str:
    """This machine in one line: what the outputs of a lab come from."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["no GPU"]
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, {', '.join(gpus)}; "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    )


def calibrate(mesh: Mesh, small_bytes: int = 2304, large_bytes: int = 4 << 20) -> Rates:
    """Medians of ROUNDS rounds, each started together. Takes about a second on two cores."""
    tp = mesh["tp"]
    x, w = torch.randn(128, 1024, device=mesh.device), torch.randn(1024, 1024, device=mesh.device)
    # Four times 64 MiB: a model's weights do not fit into a cache either. Filled, so that the pages are real.
    one = torch.randn(1, 4096, device=mesh.device)
    weights = [torch.full((4096, 4096), 0.5, device=mesh.device) for _ in range(4)]
    small = torch.zeros(small_bytes // 4, device=mesh.device)
    large = torch.zeros(large_bytes // 4, device=mesh.device)

    def many(work: Callable[[], object], times: int) -> float:
        # Long enough that ranks which take turns on a core all have their turns inside one sample.
        return median_s(mesh, tp, lambda: [work() for _ in range(times)]) / times

    return Rates(
        flops=2 * x.shape[0] * w.numel() / many(lambda: x @ w, 24),
        read_Bps=sum(w.nbytes for w in weights) / many(lambda: [F.linear(one, w) for w in weights], 2),
        small_all_reduce_s=many(lambda: comm.all_reduce(small, tp), 16),
        large_all_reduce_s=many(lambda: comm.all_reduce(large, tp), 2),
        small_bytes=small_bytes,
        large_bytes=large_bytes,
    )


def median_s(mesh: Mesh, axis: Axis, work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median seconds of `work` on this rank; all ranks of the axis start each round together."""
    return statistics.median(samples_s(mesh, axis, work, rounds))


def samples_s(mesh: Mesh, axis: Axis, work: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Seconds of each round of `work` on this rank, after one round that is not counted."""
    samples = []
    for _ in range(rounds + 1):
        comm.barrier(axis)
        started = time.perf_counter()
        work()
        if mesh.device.type == "cuda":
            torch.cuda.synchronize(mesh.device)
        samples.append(time.perf_counter() - started)
    return samples[1:]

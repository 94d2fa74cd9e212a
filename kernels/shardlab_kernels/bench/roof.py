"""What this card does at best, measured in the same run: bytes copied and bf16 FLOPs multiplied, a second."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from shardlab_kernels.bench.clock import Prepared, Stats, interleave

COPIED_BYTES = 1 << 30
GEMM_SIZE = 8192
GEMM_FLOPS = 2 * GEMM_SIZE**3


@dataclass(frozen=True)
class Roof:
    copy: Stats
    gemm: Stats

    @property
    def copy_Bps(self) -> float:
        """Read and written bytes are both counted."""
        return 2 * COPIED_BYTES / self.copy.median_s

    @property
    def gemm_flops_per_s(self) -> float:
        return GEMM_FLOPS / self.gemm.median_s

    def of_copy(self, moved_bytes: int, seconds: float) -> float:
        """The fraction of the copy bandwidth at which these bytes moved."""
        return moved_bytes / seconds / self.copy_Bps

    def of_gemm(self, flops: int, seconds: float) -> float:
        """The fraction of the GEMM rate at which these FLOPs were done."""
        return flops / seconds / self.gemm_flops_per_s

    def drift(self, later: Roof) -> str:
        """How far a later measurement is off: 'copy -0.4 %, GEMM +1.2 %'."""
        copied = 100 * (later.copy_Bps / self.copy_Bps - 1)
        multiplied = 100 * (later.gemm_flops_per_s / self.gemm_flops_per_s - 1)
        return f"copy {copied:+.1f} %, GEMM {multiplied:+.1f} %"


def measure(device: torch.device) -> Roof:
    """A device copy of 1 GiB, and cuBLAS bf16 8192^3, in turns. Random data: zeros would draw less power."""
    source = torch.randn(COPIED_BYTES // 2, device=device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    left, right = (torch.randn(GEMM_SIZE, GEMM_SIZE, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = torch.empty_like(left)
    runs = {
        "copy": Prepared(lambda: target.copy_(source), 1),
        "gemm": Prepared(lambda: torch.mm(left, right.T, out=product), 1),
    }
    for one in runs.values():
        one.run()
    stats = interleave(runs)
    return Roof(stats["copy"], stats["gemm"])

"""RMSNorm. Every rank holds all of it: D weights are cheaper to copy than to send."""

from __future__ import annotations

import torch
from torch import nn

from shardlab import ops
from shardlab.layers.parameter import empty
from shardlab.layers.sharding import Part


class RMSNorm(nn.Module):
    """x[...,D] -> x / sqrt(mean(x^2) + eps) * w[D]. No communication. Zhang and Sennrich 2019, arXiv 1910.07467."""

    def __init__(
        self,
        d: int,
        eps: float,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = empty(Part.whole((d,)), dtype, device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ops.rms_norm(x, self.weight, self.eps)

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x[...,D], residual[...,D] -> (the norm of their sum, the sum): one pass over memory where a kernel runs."""
        return ops.add_rms_norm(x, residual, self.weight, self.eps)

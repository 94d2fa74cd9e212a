"""The gated MLP: two column-parallel products, one row-parallel product, one all_reduce."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from shardlab import ops
from shardlab.comm.mesh import Axis
from shardlab.layers.linear import ColumnParallelLinear, RowParallelLinear
from shardlab.layers.parameter import load_full


class MLP(nn.Module):
    """x[B,S,D] -> (silu(x . gate[D,F_tp]) * (x . up[D,F_tp])) . down[F_tp,D] -> all_reduce -> [B,S,D].

    silu and the product are element-wise, so a rank needs no column of another's: the sum waits until `down`.
    Shazeer 2020, arXiv 2002.05202.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        axis: Axis,
        *,
        bias: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.gate = ColumnParallelLinear(d_model, d_ff, axis, bias=bias, dtype=dtype, device=device)
        self.up = ColumnParallelLinear(d_model, d_ff, axis, bias=bias, dtype=dtype, device=device)
        self.down = RowParallelLinear(d_ff, d_model, axis, bias=bias, dtype=dtype, device=device)

    @classmethod
    def from_full(cls, full: Mapping[str, torch.Tensor], axis: Axis) -> MLP:
        """full: gate.weight[F,D], up.weight[F,D], down.weight[D,F], and gate.bias, up.bias, down.bias or none."""
        weight = full["gate.weight"]
        d_ff, d_model = weight.shape
        mlp = cls(d_model, d_ff, axis, bias="down.bias" in full, dtype=weight.dtype, device=weight.device)
        load_full(mlp, full)
        return mlp

    @property
    def bias(self) -> torch.Tensor | None:
        """b[D] or none: to be added to the reduced `partial`."""
        return self.down.bias

    def partial(self, x: torch.Tensor) -> torch.Tensor:
        """x[B,S,D] -> partial[B,S,D]{tp}."""
        return self.down.partial(ops.silu_mul(self.gate(x), self.up(x)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(ops.silu_mul(self.gate(x), self.up(x)))

"""The two ways to split a matrix product over ranks. In pairs (column, then row) they need one all_reduce."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from shardlab import comm, ops
from shardlab.comm.mesh import Axis
from shardlab.layers.parameter import LocalParameter, empty, load_full
from shardlab.layers.sharding import Part
from shardlab.theory.split import even_split
from shardlab_kernels.int4 import Int4Weight


class ColumnParallelLinear(nn.Module):
    """x[B,S,D] . w[D,F_tp] + b[F_tp] -> [B,S,F_tp]. No communication.

    Each rank makes its own columns of the result. The weight is stored the way torch does, [F_tp, D], so a
    column of the product is a row of the tensor. `held` are this rank's columns of F; by default F is split
    as evenly as it goes. Shoeybi et al. 2019, arXiv 1909.08053, section 3.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        axis: Axis,
        *,
        bias: bool = False,
        held: range | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        held = even_split(d_out, axis.size)[axis.rank] if held is None else held
        self.local_weight: LocalParameter | Int4Weight = empty(Part((d_out, d_in), 0, held), dtype, device)
        self.local_bias = empty(Part((d_out,), 0, held), dtype, device) if bias else None

    @classmethod
    def from_full(
        cls, full_weight: torch.Tensor, axis: Axis, full_bias: torch.Tensor | None = None
    ) -> ColumnParallelLinear:
        """full_weight[F,D], full_bias[F] -> this rank's layer."""
        return _from_full(cls, full_weight, axis, full_bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ops.linear(x, self.local_weight, self.local_bias)


class RowParallelLinear(nn.Module):
    """x[B,S,F_tp] . w[F_tp,D] -> partial[B,S,D]{tp} -> all_reduce -> [B,S,D] + b[D].

    Each rank multiplies its own rows of w, and the sum of the partial products is the product. The bias is
    added once, after the reduce: added before it, it would count T times. `held` are this rank's rows of F.
    Shoeybi et al. 2019, arXiv 1909.08053, section 3.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        axis: Axis,
        *,
        bias: bool = False,
        held: range | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.axis = axis
        held = even_split(d_in, axis.size)[axis.rank] if held is None else held
        self.local_weight: LocalParameter | Int4Weight = empty(Part((d_out, d_in), 1, held), dtype, device)
        self.bias: LocalParameter | None = empty(Part((d_out,)), dtype, device) if bias else None

    @classmethod
    def from_full(
        cls, full_weight: torch.Tensor, axis: Axis, full_bias: torch.Tensor | None = None
    ) -> RowParallelLinear:
        """full_weight[D,F], full_bias[D] -> this rank's layer."""
        return _from_full(cls, full_weight, axis, full_bias)

    def forward(self, local_x: torch.Tensor) -> torch.Tensor:
        partial = ops.linear(local_x, self.local_weight)
        out = comm.all_reduce(partial, self.axis)
        return out if self.bias is None else out.add_(self.bias)


def gather_columns(local: torch.Tensor, width: int, axis: Axis) -> torch.Tensor:
    """[B,S,F_tp] -> [B,S,F], F = `width` split as evenly as it goes. One all_gather.

    A gather wants shards of one width, so the narrower ones are padded to ceil(F/T), and the padding is cut out after.
    """
    widths = [len(held) for held in even_split(width, axis.size)]
    padding = widths[0] - local.shape[-1]
    gathered = comm.all_gather(F.pad(local, (0, padding)) if padding else local, axis)
    if widths[0] == widths[-1]:
        return gathered
    shards = gathered.split(widths[0], dim=-1)
    return torch.cat([shard[..., :kept] for shard, kept in zip(shards, widths, strict=True)], dim=-1)


def _from_full(cls: type, full_weight: torch.Tensor, axis: Axis, full_bias: torch.Tensor | None):
    d_out, d_in = full_weight.shape
    layer = cls(d_in, d_out, axis, bias=full_bias is not None, dtype=full_weight.dtype, device=full_weight.device)
    load_full(layer, {"weight": full_weight} | ({} if full_bias is None else {"bias": full_bias}))
    return layer

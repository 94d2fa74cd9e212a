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
        self.local_weight: LocalParameter | Int4Weight = empty(Part.cut((d_out, d_in), {0: held}), dtype, device)
        self.local_bias = empty(Part.cut((d_out,), {0: held}), dtype, device) if bias else None

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
    added once, after the reduce: added before it, it would count T times. `partial` stops before the reduce, for
    who owns the residual and reduces in another way (scattered over the sequence, or with other partial sums).
    `held` are this rank's rows of F.
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
        self.local_weight: LocalParameter | Int4Weight = empty(Part.cut((d_out, d_in), {1: held}), dtype, device)
        self.bias: LocalParameter | None = empty(Part.whole((d_out,)), dtype, device) if bias else None

    @classmethod
    def from_full(
        cls, full_weight: torch.Tensor, axis: Axis, full_bias: torch.Tensor | None = None
    ) -> RowParallelLinear:
        """full_weight[D,F], full_bias[D] -> this rank's layer."""
        return _from_full(cls, full_weight, axis, full_bias)

    def partial(self, local_x: torch.Tensor) -> torch.Tensor:
        """x[B,S,F_tp] . w[F_tp,D] -> partial[B,S,D]{tp}, without the bias: whoever reduces it adds that."""
        return ops.linear(local_x, self.local_weight)

    def forward(self, local_x: torch.Tensor) -> torch.Tensor:
        return reduce_partial(self.partial(local_x), self.axis, self.bias)


def reduce_partial(partial: torch.Tensor, axis: Axis, bias: torch.Tensor | None = None) -> torch.Tensor:
    """partial[B,S,D]{tp} -> all_reduce -> [B,S,D] + b[D]. One all_reduce; the bias once, after it.

    `partial` is consumed. Partial sums of several products may be added first, and reduced as one.
    """
    out = comm.all_reduce(partial, axis)
    return out if bias is None else out.add_(bias)


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

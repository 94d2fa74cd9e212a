"""The two ends of the model, split over the vocabulary: tokens -> hidden, hidden -> logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from shardlab import comm, ops
from shardlab.comm.mesh import Axis
from shardlab.layers.linear import gather_columns
from shardlab.layers.parameter import empty, load_full
from shardlab.layers.sharding import Part
from shardlab.theory.split import even_split


class VocabParallelEmbedding(nn.Module):
    """tokens[B,S], table[V_tp,D] -> partial[B,S,D]{tp} -> all_reduce -> [B,S,D].

    Each rank looks up the tokens in its rows of the table and puts zeros for the others; just one rank has
    each token. Shoeybi et al. 2019, arXiv 1909.08053, section 3.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        axis: Axis,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.axis = axis
        self.held = even_split(vocab_size, axis.size)[axis.rank]
        self.local_weight = empty(Part.cut((vocab_size, d_model), {0: self.held}), dtype, device)

    @classmethod
    def from_full(cls, full_weight: torch.Tensor, axis: Axis) -> VocabParallelEmbedding:
        """full_weight[V,D] -> this rank's layer."""
        return _from_full(cls, full_weight, axis)

    def partial(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens[B,S] -> partial[B,S,D]{tp}."""
        if self.axis.size == 1:
            return F.embedding(tokens, self.local_weight)
        elsewhere = (tokens < self.held.start) | (tokens >= self.held.stop)
        rows = (tokens - self.held.start).masked_fill_(elsewhere, 0)
        return F.embedding(rows, self.local_weight).masked_fill_(elsewhere.unsqueeze(-1), 0)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return comm.all_reduce(self.partial(tokens), self.axis)


class VocabParallelLogits(nn.Module):
    """x[B,P,D] . w[D,V_tp] -> [B,P,V_tp] -> all_gather -> logits[B,P,V], the same on every rank.

    A gather wants shards of one width, so a rank pads its logits to ceil(V/T) columns and the padding is cut
    out of the gathered result. With tied embeddings, `local_weight` is the embedding's own parameter where both are
    on one rank; `source` names the table where they are not.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        axis: Axis,
        *,
        source: str | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.axis = axis
        self.vocab_size = vocab_size
        held = even_split(vocab_size, axis.size)[axis.rank]
        self.local_weight = empty(Part.cut((vocab_size, d_model), {0: held}), dtype, device, source)

    @classmethod
    def from_full(cls, full_weight: torch.Tensor, axis: Axis) -> VocabParallelLogits:
        """full_weight[V,D] -> this rank's layer."""
        return _from_full(cls, full_weight, axis)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return gather_columns(ops.linear(x, self.local_weight), self.vocab_size, self.axis)


def _from_full(cls: type, full_weight: torch.Tensor, axis: Axis):
    layer = cls(*full_weight.shape, axis, dtype=full_weight.dtype, device=full_weight.device)
    load_full(layer, {"weight": full_weight})
    return layer

"""One layer of the decoder: attention and a gated MLP around a residual."""

from __future__ import annotations

import torch
from torch import nn

from shardlab.comm.mesh import Mesh
from shardlab.layers import MLP, Attention, RMSNorm, reduce_partial
from shardlab.layers.kv_cache import LayerSlot
from shardlab.model.config import ModelConfig


class Block(nn.Module):
    """x[B,S,D] -> x + attention(norm(x)) -> x + mlp(norm(x)). Two all_reduces.

    Attention and MLP give partial sums; the block, which owns the residual, reduces them.
    """

    def __init__(
        self,
        config: ModelConfig,
        index: int,
        mesh: Mesh,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        """Layer `index` of the model; which kind of attention or MLP it has may depend on it."""
        super().__init__()
        shape, eps = config.shape, config.norm_eps
        self.tp = mesh["tp"]
        self.attention_norm = RMSNorm(shape.d_model, eps, dtype=dtype, device=device)
        self.attention = Attention(
            shape.d_model,
            shape.num_heads,
            shape.num_kv_heads,
            shape.head_dim,
            self.tp,
            bias=shape.attention_bias,
            qk_norm_eps=eps if shape.qk_norm else None,
            window=config.window,
            dtype=dtype,
            device=device,
        )
        self.mlp_norm = RMSNorm(shape.d_model, eps, dtype=dtype, device=device)
        self.mlp = MLP(shape.d_model, shape.d_ff, self.tp, bias=shape.mlp_bias, dtype=dtype, device=device)

    def forward(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, slot: LayerSlot | None = None
    ) -> torch.Tensor:
        """x[B,S,D], cos, sin[S,H] or [B,S,H] of its positions, this layer's cache -> [B,S,D]."""
        partial = self.attention.partial(self.attention_norm(x), cos, sin, slot)
        normed, x = self.mlp_norm.add(self._reduce(partial, self.attention.bias), x)
        return x + self._reduce(self.mlp.partial(normed), self.mlp.bias)

    def _reduce(self, partial: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return reduce_partial(partial, self.tp, bias)

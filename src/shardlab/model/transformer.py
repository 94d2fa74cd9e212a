"""The decoder: embedding, L blocks of attention and gated MLP, norm, logits. Split over the tp axis of a mesh.

One forward sends what theory.ledger.forward says: an all_reduce for the embedding, two a layer, a gather of
the logits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import torch
from torch import nn

from shardlab.comm.mesh import Axis, Mesh
from shardlab.layers import (
    MLP,
    AnyKVCache,
    AnyLayerCache,
    Attention,
    KVCache,
    RMSNorm,
    VocabParallelEmbedding,
    VocabParallelLogits,
)
from shardlab.layers.rope import cos_sin, frequencies
from shardlab.model.config import ModelConfig
from shardlab.model.generate import Sampling, generate, stream
from shardlab.theory.split import check_tp
from shardlab.theory.transformer import Shape


class Block(nn.Module):
    """x[B,S,D] -> x + attention(norm(x)) -> x + mlp(norm(x)). Two all_reduces."""

    def __init__(
        self, config: ModelConfig, axis: Axis, *, dtype: torch.dtype, device: torch.device | str | None
    ) -> None:
        super().__init__()
        shape, eps = config.shape, config.norm_eps
        self.attention_norm = RMSNorm(shape.d_model, eps, dtype=dtype, device=device)
        self.attention = Attention(
            shape.d_model,
            shape.num_heads,
            shape.num_kv_heads,
            shape.head_dim,
            axis,
            bias=shape.attention_bias,
            qk_norm_eps=eps if shape.qk_norm else None,
            window=config.window,
            dtype=dtype,
            device=device,
        )
        self.mlp_norm = RMSNorm(shape.d_model, eps, dtype=dtype, device=device)
        self.mlp = MLP(shape.d_model, shape.d_ff, axis, bias=shape.mlp_bias, dtype=dtype, device=device)

    def forward(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, cache: AnyLayerCache | None
    ) -> torch.Tensor:
        attended = self.attention(self.attention_norm(x), cos, sin, cache)
        normed, x = self.mlp_norm.add(attended, x)
        return x + self.mlp(normed)


class Transformer(nn.Module):
    """token_ids[B,S] -> logits[B,S,V], the same on every tp rank. Llama, Mistral and Qwen3 (dense).

    `Transformer(config, mesh["tp"])` has unfilled weights: `from_pretrained` or `layers.parameter.load_full`
    fills them. All sequences of a batch have the same length; there is no padding. Raises ValueError for a
    degree that cannot work.
    """

    def __init__(
        self,
        config: ModelConfig,
        axis: Axis,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_tp(config.shape, axis.size)
        self.config = config
        self.axis = axis
        shape = config.shape
        self.embedding = VocabParallelEmbedding(shape.vocab_size, shape.d_model, axis, dtype=dtype, device=device)
        self.layers = nn.ModuleList(Block(config, axis, dtype=dtype, device=device) for _ in range(shape.num_layers))
        self.norm = RMSNorm(shape.d_model, config.norm_eps, dtype=dtype, device=device)
        self.logits = VocabParallelLogits(shape.vocab_size, shape.d_model, axis, dtype=dtype, device=device)
        self._frequencies = frequencies(shape.head_dim, config.rope_theta, config.rope_scaling)
        self.tie()

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        mesh: Mesh | None = None,
        dtype: torch.dtype = torch.float32,
        *,
        int4: bool = False,
    ) -> Transformer:
        """A Hugging Face folder (config.json and safetensors) or a GGUF file -> the model, only this rank's part read.

        mesh=None: one rank, no process group. `int4`: linear layers that a GGUF file holds as Q4_1 stay as they are, 4
        bits a weight; dtype is then that of everything else. Raises ConfigError for a model that cannot run here,
        WeightsError naming file and tensor for weights that are not the model's; both are ValueErrors.
        """
        from shardlab.model.load import load  # weights build a Transformer: imported when needed

        return load(Path(source), Mesh.single() if mesh is None else mesh, dtype, int4=int4)

    @property
    def shape(self) -> Shape:
        """The sizes of the full model."""
        return self.config.shape

    def tie(self) -> None:
        """With tied embeddings, let the logits use the embedding's own rows."""
        if self.shape.tied_embeddings:
            self.logits.local_weight = self.embedding.local_weight

    def forward(self, token_ids: torch.Tensor, cache: AnyKVCache | None = None) -> torch.Tensor:
        """token_ids[B,S] -> logits[B,S,V]. With a cache, the tokens follow those already in it, and are added to it."""
        return self.logits(self.hidden(token_ids, cache))

    def hidden(self, token_ids: torch.Tensor, cache: AnyKVCache | None = None) -> torch.Tensor:
        """token_ids[B,S] -> the last norm's output [B,S,D]. Raises ValueError for ids outside the vocabulary."""
        self._check(token_ids)
        x = self.embedding(token_ids.to(self.embedding.local_weight.device))
        start = 0 if cache is None else cache.start
        cos, sin = cos_sin(self.frequencies(x.device), start, x.shape[1], x.dtype)
        for i, block in enumerate(self.layers):
            x = block(x, cos, sin, None if cache is None else cache.layers[i])
        return self.norm(x)

    def frequencies(self, device: torch.device) -> torch.Tensor:
        """The rotary embedding's [H/2], kept where it was last asked for: a CUDA graph holds no copy from the host."""
        if self._frequencies.device != device:
            self._frequencies = self._frequencies.to(device)
        return self._frequencies

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        """An empty KV cache for this rank's KV heads."""
        weight = self.embedding.local_weight
        block = self.layers[0]
        assert isinstance(block, Block)
        num_kv_heads = len(block.attention.heads.kv)
        return KVCache(
            self.shape.num_layers,
            batch,
            num_kv_heads,
            capacity,
            self.shape.head_dim,
            dtype=weight.dtype,
            device=weight.device,
        )

    def generate(
        self,
        token_ids: torch.Tensor,
        max_new_tokens: int = 32,
        *,
        eos_ids: Collection[int] | None = None,
        sampling: Sampling | None = None,
    ) -> torch.Tensor:
        """token_ids[B,S] -> the new tokens [B,<=max_new_tokens], without the prompt; see model.generate.stream."""
        return generate(self, token_ids, max_new_tokens, eos_ids=eos_ids, sampling=sampling)

    def stream(
        self,
        token_ids: torch.Tensor,
        max_new_tokens: int = 32,
        *,
        eos_ids: Collection[int] | None = None,
        sampling: Sampling | None = None,
    ) -> Iterator[torch.Tensor]:
        """The same, one tokens[B] at a time as they come."""
        return stream(self, token_ids, max_new_tokens, eos_ids=eos_ids, sampling=sampling)

    def _check(self, token_ids: torch.Tensor) -> None:
        if token_ids.dim() != 2 or token_ids.dtype not in (torch.int64, torch.int32) or not token_ids.numel():
            raise ValueError(f"token_ids[B,S] of integers are needed, not {tuple(token_ids.shape)} {token_ids.dtype}")
        if token_ids.device.type == "cpu":  # on a GPU the look would wait for the device
            low, high = (int(edge) for edge in token_ids.aminmax())
            if low < 0 or high >= self.shape.vocab_size:
                raise ValueError(f"token ids {low}..{high} are not within vocab_size={self.shape.vocab_size}")

"""The decoder: embedding, L blocks of attention and gated MLP, norm, logits. Split over the axes of a mesh.

One forward sends what theory.ledger.forward says. tp: an all_reduce for the embedding, two a layer, a gather of the
logits. pp: a send between two stages.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import torch
from torch import nn

from shardlab.comm.mesh import Mesh
from shardlab.layers import KVCache, RMSNorm, VocabParallelEmbedding, VocabParallelLogits
from shardlab.layers.kv_cache import Cache
from shardlab.layers.rope import cos_sin, frequencies
from shardlab.model.block import Block
from shardlab.model.config import ModelConfig
from shardlab.model.generate import Sampling, generate, stream
from shardlab.model.load import check, fill, open_source
from shardlab.parallel.pipeline import relay
from shardlab.theory import per_rank
from shardlab.theory.transformer import Shape


class Transformer(nn.Module):
    """token_ids[B,S] -> logits[B,S,V] on every tp rank of the last stage. Llama, Mistral and Qwen3 (dense).

    `Transformer(config, mesh)` has unfilled weights: `from_pretrained` or `layers.parameter.load_full` fills them.
    A rank holds a range of layers, its stage of the mesh's pp axis (`layers` names another), with the embedding on the
    first stage and norm and logits on the last. Raises ValueError for a plan that cannot work.
    """

    def __init__(
        self,
        config: ModelConfig,
        mesh: Mesh,
        layers: range | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        shape, tp = config.shape, mesh["tp"]
        per_rank.check_plan(shape, mesh.plan)
        if mesh["cp"].size > 1:
            raise ValueError(f"cp={mesh['cp'].size}: sequences are not split yet; cp must be 1")
        layers = per_rank.stages(shape, mesh["pp"].size)[mesh["pp"].rank] if layers is None else layers
        first, last = layers.start == 0, layers.stop == shape.num_layers
        where = {"dtype": dtype, "device": device}
        self.config, self.mesh = config, mesh
        self.embedding = VocabParallelEmbedding(shape.vocab_size, shape.d_model, tp, **where) if first else None
        self.layers = nn.ModuleDict({str(index): Block(config, index, mesh, **where) for index in layers})
        self.norm = RMSNorm(shape.d_model, config.norm_eps, **where) if last else None
        table = "embedding.weight" if shape.tied_embeddings else None
        self.logits = VocabParallelLogits(shape.vocab_size, shape.d_model, tp, source=table, **where) if last else None
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
        mesh = Mesh.single() if mesh is None else mesh
        opened = open_source(Path(source))
        model = cls(opened.config, mesh, dtype=dtype, device="meta")
        whole = model if mesh["pp"].size == 1 else cls(opened.config, Mesh.single(), device="meta")
        check(opened, Path(source), whole)  # the tensors of every stage, on every rank
        fill(model, opened, Path(source), dtype, mesh.device, int4=int4)
        model.tie()
        return model

    @property
    def shape(self) -> Shape:
        """The sizes of the full model."""
        return self.config.shape

    @property
    def device(self) -> torch.device:
        """Where this rank's weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What this rank's weights, activations and cache are kept in."""
        return next(self.parameters()).dtype

    def tie(self) -> None:
        """With tied embeddings, let the logits use the embedding's own rows, where both are on this rank."""
        if self.shape.tied_embeddings and self.embedding is not None and self.logits is not None:
            self.logits.local_weight = self.embedding.local_weight

    def forward(self, token_ids: torch.Tensor, cache: Cache | None = None) -> torch.Tensor | None:
        """token_ids[B,S] -> logits[B,S,V] on the last stage, None elsewhere.

        With a cache, the tokens of a row follow those that are in its row already, and are added to it.
        """
        x = self.hidden(token_ids, cache)
        return None if x is None or self.logits is None else self.logits(x)

    def next_logits(self, token_ids: torch.Tensor, cache: Cache | None = None) -> torch.Tensor | None:
        """The same for the token after the last one alone: token_ids[B,S] -> logits[B,V]."""
        x = self.hidden(token_ids, cache)
        return None if x is None or self.logits is None else self.logits(x[:, -1:])[:, 0]

    def hidden(self, token_ids: torch.Tensor, cache: Cache | None = None) -> torch.Tensor | None:
        """token_ids[B,S] -> the last norm's output [B,S,D], on the last stage; None elsewhere.

        Every stage is given the tokens, and the first one reads them. Raises ValueError for ids outside the vocabulary.
        """
        self._check(token_ids)
        batch, num_new = token_ids.shape
        step = None if cache is None else cache.next(batch, num_new)
        positions = torch.arange(num_new, device=self.device) if step is None else step.positions
        cos, sin = cos_sin(self.frequencies(positions.device), positions, self.dtype)

        def stage(x: torch.Tensor | None) -> torch.Tensor:
            if self.embedding is not None:
                x = self.embedding(token_ids.to(self.device))
            slots = [None] * len(self.layers) if step is None else step.layers
            for block, slot in zip(self.layers.values(), slots, strict=True):
                x = block(x, cos, sin, slot)
            assert x is not None
            return x if self.norm is None else self.norm(x)

        def empty() -> torch.Tensor:
            return torch.empty(batch, num_new, self.shape.d_model, dtype=self.dtype, device=self.device)

        out = relay(stage, empty, self.mesh["pp"])
        if cache is not None:
            cache.advance(num_new)
        return out

    def frequencies(self, device: torch.device) -> torch.Tensor:
        """The rotary embedding's [H/2], kept where it was last asked for: a CUDA graph holds no copy from the host."""
        if self._frequencies.device != device:
            self._frequencies = self._frequencies.to(device)
        return self._frequencies

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        """An empty KV cache: each of this rank's layers makes its own."""
        blocks = [block for block in self.layers.values() if isinstance(block, Block)]
        return KVCache([block.attention.new_cache(batch, capacity, self.dtype, self.device) for block in blocks])

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
        integers = token_ids.dtype in (torch.int64, torch.int32)
        if token_ids.dim() != 2 or not integers or not token_ids.shape[1]:
            raise ValueError(f"token_ids[B,S] of integers are needed, not {tuple(token_ids.shape)} {token_ids.dtype}")
        if token_ids.device.type == "cpu" and token_ids.numel():  # on a GPU the look would wait for the device
            low, high = (int(edge) for edge in token_ids.aminmax())
            if low < 0 or high >= self.shape.vocab_size:
                raise ValueError(f"token ids {low}..{high} are not within vocab_size={self.shape.vocab_size}")

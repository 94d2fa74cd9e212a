"""Tokens from logits: the prompt once, then one token at a time through the KV cache, the same under every plan.

dp: each replica answers its own rows. pp: the last stage has the logits and chooses, and the tokens travel back. tp:
every rank holds the same logits, so each chooses the same token and nothing more is sent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from shardlab import comm
from shardlab.comm.mesh import Mesh
from shardlab.layers.kv_cache import Cache, KVCache
from shardlab.model.config import ModelConfig
from shardlab.model.decoder import Decoder, is_whole
from shardlab.parallel.pipeline import from_last
from shardlab.theory.split import even_split


class LanguageModel(Protocol):
    """What generation needs of a model."""

    config: ModelConfig
    mesh: Mesh

    @property
    def device(self) -> torch.device: ...
    def new_cache(self, batch: int, capacity: int) -> KVCache: ...
    def next_logits(self, token_ids: torch.Tensor, cache: Cache | None = None) -> torch.Tensor | None: ...


@dataclass(frozen=True)
class Sampling:
    """How to draw a token: divide the logits by `temperature`, keep the `top_k` likeliest (None: all), draw by `seed`.

    Raises ValueError for a temperature that is not positive or a top_k below 1.
    """

    temperature: float = 1.0
    top_k: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature}: a positive number is needed; greedy is the default")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k}: 1 or more is needed")


class Choice:
    """Greedy, or drawn as `sampling` says: logits[B,V] -> tokens[B], of the rows `rows` of the batch.

    A row draws from a generator of its own, seeded alike on all ranks: what it gets depends neither on the rows beside
    it nor on the replica that answers it.
    """

    def __init__(self, sampling: Sampling | None, rows: range) -> None:
        self.sampling = sampling
        seeds = [] if sampling is None else [sampling.seed + row for row in rows]
        self._draws = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        logits = logits.float().cpu()
        if self.sampling is None:
            return logits.argmax(-1)
        logits, top_k = logits / self.sampling.temperature, self.sampling.top_k
        if top_k is not None and top_k < logits.shape[-1]:
            smallest = logits.topk(top_k).values[:, -1:]
            logits = logits.masked_fill(logits < smallest, float("-inf"))
        chances = logits.softmax(-1)
        drawn = [torch.multinomial(row, 1, generator=draw) for row, draw in zip(chances, self._draws, strict=True)]
        return torch.cat(drawn) if drawn else torch.empty(0, dtype=torch.int64)


def choose(logits: torch.Tensor | None, rows: range, choice: Choice, model: LanguageModel) -> torch.Tensor:
    """logits[B,V], where this stage has them -> tokens[B] of these rows, on every stage and on the host.

    Who has the logits chooses, and over pp the tokens travel back: one broadcast of B int64.
    """
    tokens = None if logits is None else choice(logits).to(model.device)
    return from_last(
        tokens, lambda: torch.empty(len(rows), dtype=torch.int64, device=model.device), model.mesh["pp"]
    ).cpu()


def stream(
    model: LanguageModel,
    token_ids: torch.Tensor,
    max_new_tokens: int = 32,
    *,
    eos_ids: Collection[int] | None = None,
    sampling: Sampling | None = None,
) -> Iterator[torch.Tensor]:
    """token_ids[B,S] -> tokens[B] of this replica's rows, one at a time: greedy, or drawn as `sampling` says.

    Rows are dealt to the dp replicas as evenly as they go, in order; a replica without rows yields nothing. A sequence
    that has ended repeats its end token until all of its replica have. eos_ids=None: the model's own; (): never end.
    Raises ValueError for more positions than the model has.
    """
    batch, prompt = token_ids.shape
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}: 1 or more is needed")
    if prompt + max_new_tokens > model.config.max_positions:
        raise ValueError(
            f"{prompt} prompt tokens and max_new_tokens={max_new_tokens} exceed the model's "
            f"{model.config.max_positions} positions"
        )
    dp = model.mesh["dp"]
    rows = even_split(batch, dp.size)[dp.rank]
    ends = torch.tensor(sorted(model.config.eos_ids if eos_ids is None else eos_ids), dtype=torch.int64)
    tokens = token_ids[rows.start : rows.stop]
    ended = torch.zeros(len(rows), dtype=torch.bool)
    choice = Choice(sampling, rows)
    cache = model.new_cache(len(rows), prompt + max_new_tokens)
    decoder: Decoder | None = None
    new = tokens[:, -1].cpu()
    for number in range(max_new_tokens):
        if finished(ended, model.mesh):
            return
        if number and is_whole(model) and model.device.type == "cuda":
            decoder = decoder or Decoder(model, cache)
            logits = decoder.step(new)
        else:
            with torch.no_grad():  # not inference_mode: its tensors may not go through every collective
                logits = model.next_logits(tokens, cache)
        new = torch.where(ended, new, choose(logits, rows, choice, model))
        if len(rows):
            yield new
        ended |= torch.isin(new, ends)
        tokens = new.unsqueeze(1)


def finished(ended: torch.Tensor, mesh: Mesh) -> bool:
    """ended[B] of this replica's rows -> whether it may stop.

    Replicas that share experts (an ep group of several replicas) need each other in every layer: none stops before
    all rows of all of them have ended, and one without rows takes part to the end. One all_reduce over ep, there.
    """
    mine = bool(ended.all())
    if not mesh.plan.experts_span_replicas:
        return mine
    going_on = torch.tensor([0 if mine else 1], device=mesh.device)
    return not int(comm.all_reduce(going_on, mesh["ep"]))


def generate(
    model: LanguageModel,
    token_ids: torch.Tensor,
    max_new_tokens: int = 32,
    *,
    eos_ids: Collection[int] | None = None,
    sampling: Sampling | None = None,
) -> torch.Tensor:
    """token_ids[B,S] -> the new tokens of this replica's rows [B,<=max_new_tokens], without the prompt; see stream.

    [0,max_new_tokens] where the replica has none.
    """
    steps = list(stream(model, token_ids, max_new_tokens, eos_ids=eos_ids, sampling=sampling))
    return torch.stack(steps, dim=1) if steps else torch.empty(0, max_new_tokens, dtype=torch.int64)

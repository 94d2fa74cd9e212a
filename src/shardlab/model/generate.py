"""Tokens from logits: the prompt once, then one token at a time through the KV cache.

Every tp rank holds the same logits, so every rank chooses the same token and nothing more is sent. Sampling
draws from a generator seeded alike on all ranks for the same reason.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from shardlab.model.decoder import Decoder

if TYPE_CHECKING:
    from shardlab.model.transformer import Transformer


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


def stream(
    model: Transformer,
    token_ids: torch.Tensor,
    max_new_tokens: int = 32,
    *,
    eos_ids: Collection[int] | None = None,
    sampling: Sampling | None = None,
) -> Iterator[torch.Tensor]:
    """token_ids[B,S] -> tokens[B], one at a time: greedy, or drawn as `sampling` says.

    A sequence that has ended repeats its end token until all have ended. eos_ids=None: the model's own; ():
    never end. Raises ValueError for more positions than the model has.
    """
    batch, prompt = token_ids.shape
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}: 1 or more is needed")
    if prompt + max_new_tokens > model.config.max_positions:
        raise ValueError(
            f"{prompt} prompt tokens and max_new_tokens={max_new_tokens} exceed the model's "
            f"{model.config.max_positions} positions"
        )
    ends = torch.tensor(sorted(model.config.eos_ids if eos_ids is None else eos_ids), dtype=torch.int64)
    draw = None if sampling is None else torch.Generator().manual_seed(sampling.seed)
    cache = model.new_cache(batch, prompt + max_new_tokens)
    ended = torch.zeros(batch, dtype=torch.bool)
    decoder: Decoder | None = None
    tokens, new = token_ids, token_ids[:, -1].cpu()
    for _ in range(max_new_tokens):
        if tokens is not token_ids and Decoder.pays(model):
            decoder = decoder or Decoder(model, cache)
            last = decoder.step(new)
        else:
            with torch.inference_mode():
                last = model.logits(model.hidden(tokens, cache)[:, -1:])[:, 0]
        last = last.float().cpu()
        chosen = last.argmax(-1) if sampling is None else _draw(last, sampling, draw)
        new = torch.where(ended, new, chosen)
        yield new
        ended |= torch.isin(new, ends)
        if bool(ended.all()):
            return
        tokens = new.unsqueeze(1)


def generate(
    model: Transformer,
    token_ids: torch.Tensor,
    max_new_tokens: int = 32,
    *,
    eos_ids: Collection[int] | None = None,
    sampling: Sampling | None = None,
) -> torch.Tensor:
    """token_ids[B,S] -> the new tokens [B,<=max_new_tokens], without the prompt; see stream."""
    steps = stream(model, token_ids, max_new_tokens, eos_ids=eos_ids, sampling=sampling)
    return torch.stack(list(steps), dim=1)


def _draw(logits: torch.Tensor, sampling: Sampling, draw: torch.Generator | None) -> torch.Tensor:
    """logits[B,V] -> tokens[B]."""
    logits = logits / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        smallest = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, float("-inf"))
    return torch.multinomial(logits.softmax(-1), 1, generator=draw)[:, 0]

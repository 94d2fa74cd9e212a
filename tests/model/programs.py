"""What each rank runs in the parity tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from shardlab import Transformer
from shardlab.comm.mesh import Mesh


@dataclass(frozen=True)
class Outcome:
    """logits of one forward, the same logits made through the cache, and greedy tokens, on one rank."""

    logits: torch.Tensor
    stepwise: torch.Tensor
    greedy: torch.Tensor


def outcome(mesh: Mesh, source: Path, token_ids: torch.Tensor, new_tokens: int = 32) -> Outcome:
    """Load this rank's part and run it in every way there is."""
    model = Transformer.from_pretrained(source, mesh)
    greedy = model.generate(token_ids, new_tokens, eos_ids=()) if new_tokens else token_ids[:, :0]
    return Outcome(model(token_ids), stepwise(model, token_ids), greedy)


def stepwise(model: Transformer, token_ids: torch.Tensor) -> torch.Tensor:
    """token_ids[B,S] -> logits[B,S,V] through the cache: a prompt, a second piece of prompt, then single tokens."""
    cache = model.new_cache(*token_ids.shape)
    pieces = token_ids.split([9, 4] + [1] * (token_ids.shape[1] - 13), dim=1)
    return torch.cat([model(piece, cache) for piece in pieces], dim=1)


def answer(mesh: Mesh, source: Path, token_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """-> logits[B,S,V] and 32 greedy tokens."""
    model = Transformer.from_pretrained(source, mesh)
    return model(token_ids), model.generate(token_ids, 32, eos_ids=())

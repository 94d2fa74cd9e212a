"""What every rank runs at a point of the lattice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from shardlab import Transformer
from shardlab.comm.mesh import Mesh
from shardlab.theory.split import even_split


@dataclass(frozen=True)
class Answer:
    """One rank's: logits[B_dp,S,V] of a forward (None where this rank has none), and greedy tokens[B_dp,n]."""

    logits: torch.Tensor | None
    tokens: torch.Tensor


def answer(mesh: Mesh, folder: Path, token_ids: torch.Tensor, new_tokens: int) -> Answer:
    """A forward of the replica's own rows, then a generation from the whole batch: dp takes its rows by itself."""
    model = Transformer.from_pretrained(folder, mesh=mesh)
    rows = even_split(len(token_ids), mesh["dp"].size)[mesh["dp"].rank]
    own = token_ids[rows.start : rows.stop]
    logits = model(own) if len(own) else None
    return Answer(logits, model.generate(token_ids, new_tokens, eos_ids=()))

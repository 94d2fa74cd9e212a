"""How a tensor is cut over the ranks, and how the pieces are added up: shared by every algorithm here."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from shardlab.theory.split import even_split


def parts(tensor: torch.Tensor, count: int) -> Sequence[torch.Tensor]:
    """tensor[I, J] -> `count` views along dim 0, by theory.split.even_split: part j is rank j's."""
    return tensor.split_with_sizes([len(part) for part in even_split(tensor.shape[0], count)])


def in_order(terms: Sequence[torch.Tensor], out: torch.Tensor | None = None) -> torch.Tensor:
    """The sum of two or more tensors of one shape, from first to last, each partial sum rounded to their dtype.

    Every rank that adds the same terms this way gets the same bits, in floating point too.
    """
    total = torch.add(terms[0], terms[1], out=out)
    for term in terms[2:]:
        total += term
    return total

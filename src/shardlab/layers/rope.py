"""Rotary position embedding: which angle each pair of a head turns by. ops.rope turns it.

Su et al. 2021, arXiv 2104.09864.

The halves of a head are the pairs (element i with i + H/2), as Hugging Face stores the weights; llama.cpp's
files pair neighbours, and the GGUF reader reorders their rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch


class Scaling(Protocol):
    """A change of the frequencies that lets a model read further than it was trained."""

    def scale(self, frequencies: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True)
class LinearScaling:
    """Every angle divided by one factor: position p is read as p / factor. Chen et al. 2023, arXiv 2306.15595."""

    factor: float

    def scale(self, frequencies: torch.Tensor) -> torch.Tensor:
        return frequencies / self.factor


@dataclass(frozen=True)
class Llama3Scaling:
    """Slow pairs divided by `factor`, fast ones kept, those between blended (rope_type "llama3" of Llama
    3.1).

    A pair is fast if it turns more than high_freq_factor times within original_max_positions, slow if fewer
    than low_freq_factor times.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int

    def scale(self, frequencies: torch.Tensor) -> torch.Tensor:
        turns = self.original_max_positions * frequencies / (2 * math.pi)
        kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = kept.clamp(0, 1)
        return (1 - kept) * frequencies / self.factor + kept * frequencies


@dataclass(frozen=True)
class DividedBy:
    """Each pair's frequency divided by its own number: how GGUF files store the Llama 3 scaling (rope_freqs)."""

    divisors: tuple[float, ...]

    def scale(self, frequencies: torch.Tensor) -> torch.Tensor:
        return frequencies / torch.tensor(self.divisors, dtype=frequencies.dtype)


def frequencies(head_dim: int, theta: float, scaling: Scaling | None = None) -> torch.Tensor:
    """-> [H/2] fp32: radians per position of each pair, theta ** (-2i/H), scaled. Raises ValueError for odd H."""
    if head_dim % 2:
        raise ValueError(f"head_dim={head_dim}: rotary embedding turns pairs, so an even number is needed")
    unscaled = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)
    return unscaled if scaling is None else scaling.scale(unscaled)


def cos_sin(
    per_position: torch.Tensor, positions: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """frequencies[H/2], positions[S] or [B,S] (integers) -> cos, sin of each, [S,H] or [B,S,H]. Angles are fp32."""
    angles = positions.to(torch.float32).unsqueeze(-1) * per_position
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)

"""What a case is: a problem with ours, its rivals, and a reference that both are checked against before any clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from shardlab_kernels.bench.goal import Goal

Call = Callable[..., Any]  # of one set of inputs -> a tensor, or a tuple of tensors

# Absolute and relative, against fp64 (fp32 where a case says so) on the same rounded inputs.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}

EAGER, COMPILED = "eager", "torch.compile"  # rivals made of the reference


class Missing(Exception):
    """This rival cannot run here; the message says why."""


@dataclass(frozen=True)
class Place:
    """Where cases run and how large: full on a GPU, tiny for --smoke."""

    device: torch.device
    smoke: bool

    def size(self, full: int, tiny: int) -> int:
        return tiny if self.smoke else full

    def ranks(self, full: int) -> int:
        """How many virtual ranks: one in the interpreter, whose blocks run in sequence and would wait for ever."""
        return full if self.device.type == "cuda" else 1

    def randn(self, *shape: int, seed: int, fan_in: int = 1, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        """randn * fan_in ** -0.5, the same numbers for the same seed: sums over fan_in terms stay near 1."""
        generator = torch.Generator(self.device).manual_seed(seed)
        return torch.randn(*shape, generator=generator, device=self.device, dtype=dtype).mul_(fan_in**-0.5)


@dataclass(frozen=True)
class Problem:
    """One thing to do, in several ways.

    `draw(number)` makes a set of inputs, the same for the same number. A result is a tensor or a tuple of tensors;
    `part` picks what of it is compared (all, unless a reference of all would not fit). A rival may return the first few
    tensors only. `moved_bytes` and `flops` are what the problem needs; `rival_bytes` holds rivals that must move more.
    """

    draw: Callable[[int], tuple[Any, ...]]
    ours: Call
    reference: Call
    rivals: Mapping[str, Call]
    moved_bytes: int
    flops: int = 0
    tolerance: float = TOLERANCE[torch.bfloat16]
    part: Callable[[torch.Tensor], torch.Tensor] = lambda result: result
    rival_bytes: Mapping[str, int] = field(default_factory=dict)
    in_place: bool = False  # a second call changes what the first one returned, so it is not looked at again


@dataclass(frozen=True)
class Case:
    kernel: str
    name: str
    make: Callable[[Place], Problem]
    goal: Goal | None = None
    ranks: int = 1  # virtual ones

    @property
    def label(self) -> str:
        return f"{self.kernel}/{self.name}"


def error_of(found: Any, wanted: Any, part: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """The largest |found - wanted| / (rms of wanted + |wanted|); inf for another shape, or where that is not finite.

    Against the rms, not against 1: attention over many keys gives small numbers, and zeros must not pass for them.
    `found` may have fewer tensors than `wanted`: those are compared.
    """
    pairs = list(zip(_tensors(found), _tensors(wanted), strict=False))
    worst = 0.0 if pairs else float("inf")
    for one, other in ((part(one), other) for one, other in pairs):
        if one.shape != other.shape:
            return float("inf")
        if one.numel():
            other = other.to(torch.promote_types(other.dtype, torch.float32))
            size = other.abs()
            rms = other.square().mean().sqrt().clamp_(min=torch.finfo(other.dtype).tiny)
            off = (one.to(other.dtype) - other).abs_().div_(size.add_(rms)).max().item()
            worst = max(worst, off) if math.isfinite(off) else float("inf")
    return worst


def compiled(call: Call, place: Place) -> Call:
    """torch.compile of a reference, as a rival. Not tried in smoke: it takes longer than all else."""
    if place.smoke:
        return missing("not tried in --smoke")
    return torch.compile(call, dynamic=False)


def shape(*sizes: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """A tensor without data, for the functions that count a kernel's bytes."""
    return torch.empty(*sizes, dtype=dtype, device="meta")


def missing(reason: str) -> Call:
    """A rival that is not there."""

    def absent(*_: Any) -> Any:
        raise Missing(reason)

    return absent


def _tensors(result: Any) -> tuple[torch.Tensor, ...]:
    return (result,) if isinstance(result, torch.Tensor) else tuple(result)

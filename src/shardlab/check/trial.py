"""What every check does with an attempt: run it on real ranks, compare, and say in words what is off."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from shardlab.check.verdict import Verdict
from shardlab.launch import RankError, Ranks
from shardlab.theory.degrees import Plan
from shardlab.theory.ledger import Transfer, sent_bytes

DEGREES = (2, 3)
ATOL, RTOL = 1e-5, 1e-4


def run(ranks: Ranks, degree: int, program: Callable[..., Any], *args: Any) -> list[Any] | Verdict:
    """Each rank's result, or the verdict where a rank raised."""
    try:
        return ranks.run(program, *args, plan=Plan(tp=degree))
    except RankError as error:
        return Verdict(False, f"at T={degree}, {str(error).splitlines()[0]}")


def number(attempt: Callable[..., float], *args: Any) -> float | Verdict:
    """What the learner's function makes of `args`, or the verdict where it raises or returns no number."""
    try:
        answer = attempt(*args)
    except Exception as error:  # the learner's own code: whatever it raises is the answer
        return Verdict(False, f"your function raised {type(error).__name__}: {error}")
    try:
        guess = float(answer)
    except (TypeError, ValueError):
        return Verdict(False, f"your function returned {answer!r}, not a number.")
    return Verdict(False, "your function returned nan, not a number.") if math.isnan(guess) else guess


def compare(out: object, wanted: torch.Tensor, rank: int, degree: int) -> Verdict | None:
    """None where `out` is the wanted tensor, else a verdict without a hint."""
    where = f"rank {rank} of T={degree}"
    if not isinstance(out, torch.Tensor):
        return Verdict(False, f"{where} returned {type(out).__name__}, not a tensor.", "return the layer's output.")
    if out.shape != wanted.shape:
        return Verdict(
            False,
            f"{where} returned shape {tuple(out.shape)}, wanted {tuple(wanted.shape)}.",
            "the whole output, please.",
        )
    if torch.allclose(out, wanted, atol=ATOL, rtol=RTOL):
        return None
    return Verdict(False, f"{where} is off by up to {(out - wanted).abs().max().item():.2g}.")


def same(out: object, other: torch.Tensor) -> bool:
    return (
        isinstance(out, torch.Tensor) and out.shape == other.shape and torch.allclose(out, other, atol=ATOL, rtol=RTOL)
    )


def hinted(verdict: Verdict, hint: str) -> Verdict:
    return Verdict(verdict.ok, verdict.message, verdict.hint or hint)


def busiest(transfers: list[list[Transfer]], degree: int) -> list[Transfer]:
    """What the rank that sent most has recorded; the lowest of them where several sent as much."""
    return max(transfers, key=lambda of_rank: (sent_bytes(of_rank, world_size=degree), len(of_rank)))


def listed(transfers: list[Transfer]) -> str:
    return ", ".join(f"{t.op} of {t.num_bytes} B" for t in transfers) or "none"

"""Every implementation against the reference, before any clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from shardlab_kernels.bench.case import Call, Case, Missing, Place, Problem, error_of

OURS = "ours"


@dataclass
class Checked:
    """A case whose implementations have run once. `calls` holds those that were right."""

    problem: Problem
    wanted: Any
    calls: dict[str, Call] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)  # "ours: error 0.4 > 0.02"
    absent: list[tuple[str, str]] = field(default_factory=list)  # rival, why it is missing

    def judge(self, name: str, found: Any, when: str = "") -> bool:
        """Note the error of a result of `name`; -> whether it is within the tolerance."""
        error = error_of(found, self.wanted, self.problem.part)
        self.errors[name] = max(error, self.errors.get(name, 0.0))
        if error <= self.problem.tolerance:
            return True
        self.wrong.append(f"{name}: error {error:.2g} > {self.problem.tolerance:g}{when}")
        return False


def check(case: Case, place: Place, without: Sequence[str] = ()) -> Checked:
    """Run ours and each rival but `without` once, on inputs made anew for each, and compare with the reference.

    What raises is never a crash: a rival is absent with the reason, ours is wrong. Running out of memory before
    anything ran is left to the caller.
    """
    problem = case.make(place)
    checked = Checked(problem, problem.reference(*problem.draw(0)))
    for name, call in {OURS: problem.ours, **problem.rivals}.items():
        if name in without:
            continue
        try:
            good = checked.judge(name, call(*problem.draw(0)))
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError) and name == OURS:
                raise
            if name == OURS:
                checked.wrong.append(f"{name}: {reason(error)}")
            else:
                checked.absent.append((name, reason(error)))
            good = False
        if good:
            checked.calls[name] = call
    return checked


def reason(error: Exception) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    short = text if len(text) <= 160 else f"{text[:157]}..."
    return short if isinstance(error, Missing) else f"{type(error).__name__}: {short}"

"""All mutants, and the few of them that CI draws."""

from __future__ import annotations

import random

from tests.mutants import in_comm, in_layers, in_model, in_theory
from tests.mutants.mutant import Mutant

MUTANTS: list[Mutant] = [*in_theory.MUTANTS, *in_comm.MUTANTS, *in_layers.MUTANTS, *in_model.MUTANTS]
FEW = 5


def sample(seed: int) -> list[Mutant]:
    """FEW mutants, each in another file, one of them at least visible only beyond rank 0."""
    order = random.Random(seed).sample(MUTANTS, len(MUTANTS))
    drawn = [next(mutant for mutant in order if mutant.elsewhere)]
    for mutant in order:
        if len(drawn) < FEW and mutant.file not in {one.file for one in drawn}:
            drawn.append(mutant)
    return drawn

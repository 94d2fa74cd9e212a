"""The parity check can fail: each seeded mistake is caught by it, and the check passes without one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from shardlab import Plan, Ranks
from tests.model.mutants import MUTANTS, mutated
from tests.model.tiny import Reference


def test_there_are_enough() -> None:
    assert len(MUTANTS) >= 10 + 1


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mistake_is_caught(name: str, ranks: Ranks, reference: Callable[[str], Reference]) -> None:
    """9 heads and 3 KV heads on 4 ranks, biases everywhere: nothing divides.

    1003 columns on 4 ranks leave the padding at the very end, where a careless cut is right; on 3 ranks it is
    not.
    """
    wanted = reference("llama-gqa-bias")
    degree = 3 if name == "padding_left_in_the_logits" else 4
    outs = ranks.run(mutated, name, wanted.folder, wanted.token_ids, plan=Plan(tp=degree), check=False)
    holds = all(
        torch.allclose(out.logits, wanted.logits, atol=1e-5, rtol=1e-4)
        and torch.allclose(out.stepwise, out.logits, atol=2e-5, rtol=0)
        for out in outs
    )
    assert holds == (name == "none")

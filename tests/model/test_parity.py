"""The sharded model against transformers, fp32: logits, greedy tokens, and the cache, for T = 1, 2, 3, 4."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from shardlab import Plan, Ranks
from tests.model.programs import Outcome, outcome
from tests.model.tiny import CASES, Reference

DEGREES = (1, 2, 3, 4)


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("name", CASES)
def test_a_tiny_model_says_what_transformers_says(
    name: str,
    degree: int,
    ranks: Ranks,
    reference: Callable[[str], Reference],
    record_property: Callable[[str, object], None],
) -> None:
    wanted = reference(name)
    outcomes: list[Outcome] = ranks.run(outcome, wanted.folder, wanted.token_ids, plan=Plan(tp=degree), timeout_s=100)
    first = outcomes[0]
    record_property("max_logit_drift", float((first.logits - wanted.logits).abs().max()))
    torch.testing.assert_close(first.logits, wanted.logits, atol=1e-5, rtol=1e-4)
    assert torch.equal(first.greedy, wanted.greedy)
    torch.testing.assert_close(first.stepwise, first.logits, atol=2e-5, rtol=0)
    for other in outcomes[1:]:  # one answer, bit for bit, on every rank
        assert torch.equal(other.logits, first.logits)
        assert torch.equal(other.greedy, first.greedy)

"""programs.serve: a dp x tp plan answers its batch, sends what the ledger says, and clocks every replica."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from shardlab import Plan, Ranks
from shardlab.comm.mesh import Mesh
from shardlab.launch.errors import RankError
from shardlab.programs import serve
from shardlab.theory import ledger
from shardlab.theory.split import even_split
from shardlab.theory.transformer import Shape

TINY = Shape(2, 12, 20, 4, 2, 4, 30, name="tiny")


def clock_tiny(mesh: Mesh, **sizes: Any) -> serve.Served:
    """serve.clock of a model that takes no time."""
    serve.TOY = TINY
    return serve.clock(mesh, **sizes)


@pytest.mark.parametrize(
    ("plan", "shares"), [(Plan(tp=4), [5]), (Plan(dp=2, tp=2), [3, 2]), (Plan(dp=4), [2, 1, 1, 1])]
)
def test_each_replica_answers_its_share_and_sends_what_the_ledger_says(
    ranks: Ranks, plan: Plan, shares: list[int]
) -> None:
    served = ranks.run(clock_tiny, plan=plan, batch=5, input_tokens=3, output_tokens=4)
    assert [one.sequences for one in served] == [share for share in shares for _ in range(plan.tp)]
    for one, transfers in zip(served, ranks.transfers, strict=True):
        warm = forwards(plan, batch=1, prompt=3, steps=1)
        assert transfers == warm + forwards(plan, batch=one.sequences, prompt=3, steps=3)
        assert 0 < one.ttft_s < one.total_s
        assert one.total_s == pytest.approx(one.ttft_s + 3 * one.tpot_s)


def forwards(plan: Plan, *, batch: int, prompt: int, steps: int) -> list[ledger.Transfer]:
    first = ledger.forward(TINY, plan, batch=batch, seq=prompt, logit_positions=1)
    return first + steps * ledger.forward(TINY, plan, batch=batch, seq=1)


def test_prompts_one_at_a_time(ranks: Ranks) -> None:
    plan = Plan(tp=2)
    ranks.run(clock_tiny, plan=plan, batch=3, input_tokens=3, output_tokens=2, prompts_at_once=2)
    prefills = [
        ledger.forward(TINY, plan, batch=rows, seq=3, logit_positions=1) for rows in (1, 2, 1)
    ]  # the warm-up's, then two prompts and one
    step = [ledger.forward(TINY, plan, batch=rows, seq=1) for rows in (1, 3)]
    assert ranks.transfers[0] == prefills[0] + step[0] + prefills[1] + prefills[2] + step[1]


def tokens(mesh: Mesh, at_once: int) -> tuple[list[int], list[int]]:
    """The last prompt's keys and the first tokens after a prefill, `at_once` prompts in a forward."""
    model = serve.random_model(TINY, mesh)
    ids = (torch.arange(12) % 30).reshape(4, 3)
    with torch.inference_mode():
        whole = model.new_cache(4, 5)
        firsts = [serve._chosen(model, ids[i : i + at_once], whole.rows(i, i + at_once)) for i in range(0, 4, at_once)]
        first = torch.cat(firsts)
        return first.tolist(), serve._chosen(model, first.unsqueeze(1), whole).tolist()


def test_prompts_in_groups_give_the_same_tokens(ranks: Ranks) -> None:
    results = [ranks.run(tokens, at_once, plan=Plan(tp=2)) for at_once in (1, 2, 4)]
    assert results[0] == results[1] == results[2]
    assert results[0][0] == results[0][1]


def test_a_replica_without_a_sequence_waits(ranks: Ranks) -> None:
    served = ranks.run(clock_tiny, plan=Plan(dp=4), batch=2, input_tokens=3, output_tokens=4)
    assert [one.sequences for one in served] == [1, 1, 0, 0]
    assert str(served[3]) == "no sequence for this replica"
    assert str(served[0]).startswith("1 sequence: TTFT ")


def test_tokens_a_second_end_with_the_slowest_replica() -> None:
    served = [serve.Served(3, 10, 0.5, 2.0)] * 2 + [serve.Served(2, 10, 0.5, 4.0)] * 2
    assert serve.tokens_per_s(served, dp=2) == 5 * 10 / 4.0


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"batch": 0}, "batch=0: 1 or more"),
        ({"input_tokens": 0}, "input_tokens=0"),
        ({"output_tokens": 1}, "output_tokens=1: 2 or more"),
    ],
)
def test_what_cannot_be_clocked_is_named(sizes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        serve.clock(Mesh.single(), **sizes)


def test_models_by_name() -> None:
    assert serve.shape_of("toy") == serve.TOY
    assert serve.shape_of("llama-3-8b").num_layers == 32
    with pytest.raises(ValueError, match="model='gpt-9': no such file; allowed: toy, a config.json, or one of"):
        serve.shape_of("gpt-9")
    with pytest.raises(ValueError, match="mixtral-8x7b has experts"):
        serve.random_model(serve.shape_of("mixtral-8x7b"), Mesh.single())


def test_stages_are_refused_by_name(ranks: Ranks) -> None:
    with pytest.raises(RankError, match="pp=2: replicas"):
        ranks.run(clock_tiny, plan=Plan(pp=2, tp=2), batch=2, input_tokens=3, output_tokens=4)


def rows_of_forwards(mesh: Mesh, batch: int, at_once: int) -> tuple[int, list[int]]:
    """Rows that this replica answered, and the rows of each forward that it made."""
    model, seen = serve.random_model(TINY, mesh), []
    honest = model.next_logits

    def watched(token_ids: torch.Tensor, cache: object = None) -> torch.Tensor | None:
        seen.append(len(token_ids))
        return honest(token_ids, cache)  # type: ignore[arg-type]

    model.next_logits = watched  # type: ignore[method-assign]
    dealt = even_split(batch, 2)
    shared = copy(mesh)
    shared.plan = replace(mesh.plan, ep=2)  # as if the two replicas held experts together
    served = serve._answer(model, len(dealt[mesh["dp"].rank]), len(dealt[0]), 3, 3, at_once, shared)
    return served.sequences, seen


def test_replicas_that_share_experts_make_as_many_forwards_as_the_fullest(ranks: Ranks) -> None:
    assert ranks.run(rows_of_forwards, 3, 1, plan=Plan(dp=2)) == [(2, [1, 1, 2, 2]), (1, [1, 0, 1, 1])]
    assert ranks.run(rows_of_forwards, 1, 1, plan=Plan(dp=2)) == [(1, [1, 1, 1]), (0, [0, 0, 0])]

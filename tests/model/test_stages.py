"""A stage holds its layers and its end of the model, and tokens travel back; replicas answer their own rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from shardlab import Plan, Ranks, Transformer
from shardlab.comm.mesh import Mesh
from shardlab.model.generate import finished
from shardlab.theory import ledger, per_rank
from shardlab.theory.split import even_split
from tests.model.tiny import Reference


def stage_of(mesh: Mesh, folder: Path) -> tuple[list[str], int]:
    """Names of this rank's parameters, and their bytes."""
    model = Transformer.from_pretrained(folder, mesh)
    return [name for name, _ in model.named_parameters()], sum(one.nbytes for one in model.parameters())


@pytest.mark.parametrize("name", ["llama-gqa", "qwen3-bias"])  # tied, and not
def test_a_stage_holds_its_layers_and_its_end_of_the_model(
    name: str, ranks: Ranks, reference: Callable[[str], Reference]
) -> None:
    plan, folder = Plan(pp=2, tp=2), reference(name).folder
    held = ranks.run(stage_of, folder, plan=plan)
    shape = Transformer.from_pretrained(folder).shape
    predicted = per_rank.weights(shape, plan)
    for rank, (names, num_bytes) in enumerate(held):
        stage, tp_rank = divmod(rank, 2)
        layers = {part.split(".")[1] for part in names if part.startswith("layers.")}
        assert layers == ({"0", "1"} if stage == 0 else {"2"})
        assert ("embedding.local_weight" in names) == (stage == 0)
        assert ("logits.local_weight" in names and "norm.weight" in names) == (stage == 1)
        assert num_bytes == 4 * predicted[stage][tp_rank].total


def answers(mesh: Mesh, folder: Path, token_ids: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
    model = Transformer.from_pretrained(folder, mesh)
    return model(token_ids), model.generate(token_ids, 6, eos_ids=())


@pytest.mark.parametrize(
    "plan", [Plan(pp=2), Plan(pp=3), Plan(pp=2, tp=2), Plan(dp=2, pp=2), Plan(dp=2, tp=2)], ids=str
)
def test_stages_and_replicas_give_the_reference_tokens(
    plan: Plan, ranks: Ranks, reference: Callable[[str], Reference]
) -> None:
    wanted = reference("llama-gqa")
    for rank, (logits, tokens) in enumerate(ranks.run(answers, wanted.folder, wanted.token_ids, plan=plan)):
        if logits is not None:
            torch.testing.assert_close(logits, wanted.logits, atol=1e-5, rtol=1e-4)
        stage, replica = rank // plan.tp % plan.pp, rank // (plan.tp * plan.pp)
        assert (logits is None) == (stage < plan.pp - 1)
        rows = even_split(len(wanted.greedy), plan.dp)[replica]
        assert torch.equal(tokens, wanted.greedy[rows.start : rows.stop, :6])


def test_a_rank_may_be_given_other_layers(reference: Callable[[str], Reference]) -> None:
    wanted = reference("llama-gqa")
    whole = Transformer.from_pretrained(wanted.folder)
    part = Transformer(whole.config, Mesh.single(), range(1, 3))
    assert (list(part.layers), part.embedding, part.logits is None) == (["1", "2"], None, False)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(pp=4), r"pp=4 cannot split num_layers=3: .*degrees that work: 1\.\.3"),
        (Plan(tp=2, ep=2), "ep=2: .*has no experts; allowed: 1"),
        (Plan(cp=2), "cp=2: sequences are not split yet"),
    ],
    ids=["pp", "ep", "cp"],
)
def test_what_cannot_work_is_refused_before_anything_is_sent(
    plan: Plan, message: str, ranks: Ranks, reference: Callable[[str], Reference]
) -> None:
    with pytest.raises(RuntimeError, match=message):
        ranks.run(stage_of, reference("llama-gqa").folder, plan=plan)


def test_the_ledger_knows_what_a_stage_sends(ranks: Ranks, reference: Callable[[str], Reference]) -> None:
    wanted, plan = reference("llama-gqa"), Plan(pp=2, tp=2)
    shape = Transformer.from_pretrained(wanted.folder).shape
    ranks.run(answers, wanted.folder, wanted.token_ids, plan=plan)
    forwards = [ledger.forward(shape, plan, batch=2, seq=21, stage=stage) for stage in (0, 0, 1, 1)]
    for rank, transfers in enumerate(ranks.transfers):
        assert transfers[: len(forwards[rank])] == forwards[rank]


def ends_of(mesh: Mesh, ended: list[list[bool]]) -> list[bool]:
    """What `finished` says, step by step, for this rank's rows in ended[step]."""
    return [finished(torch.tensor(step[mesh.rank : mesh.rank + 1]), mesh) for step in ended]


def test_replicas_that_share_experts_end_together(ranks: Ranks) -> None:
    steps = [[False, True], [True, False], [True, True]]
    assert ranks.run(ends_of, steps, plan=Plan(dp=2, ep=2)) == [[False, False, True]] * 2
    assert ranks.run(ends_of, steps, plan=Plan(dp=2)) == [[False, True, True], [True, False, True]]


def forward_without_rows(mesh: Mesh, folder: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    model = Transformer.from_pretrained(folder, mesh)
    nothing = torch.empty(0, 3, dtype=torch.int64)
    logits = model(nothing, model.new_cache(0, 5))
    return () if logits is None else tuple(logits.shape), tuple(model.generate(nothing, 3).shape)


def test_a_forward_without_rows_is_no_mistake(ranks: Ranks, reference: Callable[[str], Reference]) -> None:
    for shape, generated in ranks.run(forward_without_rows, reference("llama-gqa").folder, plan=Plan(tp=2)):
        assert (shape, generated) == ((0, 3, 1003), (0, 3))

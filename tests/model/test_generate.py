"""Generation on one rank: streaming, ends of text, sampling, limits. Parity with transformers is in test_parity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from shardlab import Plan, Ranks, Transformer
from shardlab.comm.mesh import Mesh
from shardlab.model import Sampling
from tests.model.tiny import Reference


@pytest.fixture(scope="module")
def model(reference: Callable[[str], Reference]) -> Transformer:
    return Transformer.from_pretrained(reference("llama-gqa").folder)


@pytest.fixture(scope="module")
def wanted(reference: Callable[[str], Reference]) -> Reference:
    return reference("llama-gqa")


def test_the_stream_is_the_answer(model: Transformer, wanted: Reference) -> None:
    pieces = list(model.stream(wanted.token_ids, 5, eos_ids=()))
    assert all(piece.shape == (2,) for piece in pieces)
    assert torch.equal(torch.stack(pieces, dim=1), wanted.greedy[:, :5])


def test_an_ended_sequence_repeats_its_end_until_all_have_ended(model: Transformer, wanted: Reference) -> None:
    first, second = wanted.greedy[0].tolist(), wanted.greedy[1].tolist()
    end, other = first[2], second[6]
    ends = {end, other}
    stop = [next(i for i, token in enumerate(row) if token in ends) for row in (first, second)]
    out = model.generate(wanted.token_ids, 32, eos_ids=ends)
    assert out.shape[1] == max(stop) + 1
    for row, tokens, at in zip(out.tolist(), (first, second), stop, strict=True):
        assert row[: at + 1] == tokens[: at + 1]
        assert set(row[at:]) == {tokens[at]}


def test_the_models_own_ends_are_the_default(model: Transformer, wanted: Reference) -> None:
    one, tokens = wanted.token_ids[:1], wanted.greedy[0].tolist()
    end = tokens[3]
    honest = model.config
    try:
        model.config = replace(honest, eos_ids=(end,))
        assert model.generate(one, 32).tolist() == [tokens[: tokens.index(end) + 1]]
    finally:
        model.config = honest


def test_sampling_follows_its_seed(model: Transformer, wanted: Reference) -> None:
    def draw(**how: float | int) -> list[list[int]]:
        return model.generate(wanted.token_ids, 8, eos_ids=(), sampling=Sampling(**how)).tolist()  # pyright: ignore[reportArgumentType]

    assert draw(seed=1) == draw(seed=1) != draw(seed=2)
    assert draw(seed=1, top_k=1) == wanted.greedy[:, :8].tolist()
    assert draw(seed=1, temperature=1e-4) == wanted.greedy[:, :8].tolist()


def sampled(mesh: Mesh, folder: Path, token_ids: torch.Tensor) -> torch.Tensor:
    model = Transformer.from_pretrained(folder, mesh)
    return model.generate(token_ids, 8, eos_ids=(), sampling=Sampling(temperature=0.9, top_k=50, seed=3))


def test_every_rank_draws_the_same(ranks: Ranks, wanted: Reference) -> None:
    outs = ranks.run(sampled, wanted.folder, wanted.token_ids, plan=Plan(tp=3))
    assert all(torch.equal(out, outs[0]) for out in outs)


@pytest.mark.parametrize(
    ("token_ids", "message"),
    [
        (torch.zeros(3, dtype=torch.int64), r"token_ids\[B,S\]"),
        (torch.zeros(2, 3), "float32"),
        (torch.zeros(2, 0, dtype=torch.int64), r"\(2, 0\)"),
        (torch.tensor([[5, 1003]]), r"5\.\.1003 are not within vocab_size=1003"),
        (torch.tensor([[-1, 5]]), r"-1\.\.5"),
    ],
)
def test_odd_tokens_are_refused(token_ids: torch.Tensor, message: str, model: Transformer) -> None:
    with pytest.raises(ValueError, match=message):
        model(token_ids)


def test_limits_are_said(model: Transformer) -> None:
    one = torch.zeros(1, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        model.generate(one, 0)
    with pytest.raises(ValueError, match="exceed the model's 512 positions"):
        model.generate(one, 512)
    with pytest.raises(ValueError, match="temperature=0"):
        Sampling(temperature=0)
    with pytest.raises(ValueError, match="top_k=0"):
        Sampling(top_k=0)


def test_pieces_of_a_prompt_and_rows_of_a_batch_do_not_disturb_each_other(
    model: Transformer, wanted: Reference
) -> None:
    """FAULTS.md P11: the order of the batch, and where the prefill is cut."""
    logits = model(wanted.token_ids)
    torch.testing.assert_close(model(wanted.token_ids.flip(0)), logits.flip(0), atol=1e-5, rtol=1e-4)
    for cut in (1, 7, 20):
        cache = model.new_cache(2, 21)
        pieces = [model(piece, cache) for piece in wanted.token_ids.split([cut, 21 - cut], dim=1)]
        torch.testing.assert_close(torch.cat(pieces, 1), logits, atol=2e-5, rtol=0)


def test_half_precision_stays_near(wanted: Reference) -> None:
    model = Transformer.from_pretrained(wanted.folder, dtype=torch.bfloat16)
    logits = model(wanted.token_ids).float()
    assert model.new_cache(1, 4).layers[0].k.dtype == torch.bfloat16
    top = logits.topk(5, dim=-1).indices
    hit = (wanted.logits.argmax(-1, keepdim=True) == top).any(-1)
    assert float(hit.float().mean()) > 0.95

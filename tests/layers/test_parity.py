"""Each layer on T ranks against the same layer on one: T = 1..4, bias on and off, sizes that T does not divide."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from shardlab import Plan, Ranks
from shardlab.theory.ledger import Transfer
from tests.layers import programs

DEGREES = (1, 2, 3, 4)
D = 24


def hold(ranks: Ranks, program: Any, degree: int, *args: Any) -> list[torch.Tensor]:
    """Every rank's output equals the whole layer's. -> the outputs."""
    pairs = ranks.run(program, *args, plan=Plan(tp=degree))
    for local, whole in pairs:
        torch.testing.assert_close(local, whole, atol=1e-5, rtol=1e-4)
    return [local for local, _ in pairs]


def expect(ranks: Ranks, degree: int, *transfers: Transfer) -> None:
    """Just these transfers on every rank; none on one rank."""
    assert ranks.transfers == [list(transfers) if degree > 1 else []] * degree


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("f", [12, 13, 31])
@pytest.mark.parametrize("degree", DEGREES)
def test_column(degree: int, f: int, bias: bool, ranks: Ranks) -> None:
    hold(ranks, programs.column, degree, D, f, bias)
    expect(ranks, degree)


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("f", [12, 13, 31])
@pytest.mark.parametrize("degree", DEGREES)
def test_row(degree: int, f: int, bias: bool, ranks: Ranks) -> None:
    hold(ranks, programs.row, degree, D, f, bias)
    expect(ranks, degree, Transfer("all_reduce", "tp", programs.B * programs.S * D * 4))


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("f", [12, 37])
@pytest.mark.parametrize("degree", DEGREES)
def test_mlp(degree: int, f: int, bias: bool, ranks: Ranks) -> None:
    hold(ranks, programs.mlp, degree, D, f, bias)
    expect(ranks, degree, Transfer("all_reduce", "tp", programs.B * programs.S * D * 4))


@pytest.mark.parametrize("vocab", [12, 101])
@pytest.mark.parametrize("degree", DEGREES)
def test_embedding(degree: int, vocab: int, ranks: Ranks) -> None:
    hold(ranks, programs.embedding, degree, vocab, D)
    expect(ranks, degree, Transfer("all_reduce", "tp", programs.B * programs.S * D * 4))


@pytest.mark.parametrize("vocab", [12, 101])
@pytest.mark.parametrize("degree", DEGREES)
def test_logits(degree: int, vocab: int, ranks: Ranks) -> None:
    outs = hold(ranks, programs.logits, degree, vocab, D)
    assert all(torch.equal(out, outs[0]) for out in outs)
    columns = degree * -(-vocab // degree)
    expect(ranks, degree, Transfer("all_gather", "tp", programs.B * programs.S * columns * 4))


@pytest.mark.parametrize("window", [None, 3], ids=["", "window"])
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (9, 3), (6, 2), (5, 1)])
@pytest.mark.parametrize("degree", DEGREES)
def test_attention(degree: int, heads: int, kv_heads: int, bias: bool, window: int | None, ranks: Ranks) -> None:
    hold(ranks, programs.attention, degree, heads, kv_heads, 8, bias, window)
    d = heads * 8 + 2
    expect(ranks, degree, Transfer("all_reduce", "tp", programs.B * programs.S * d * 4))

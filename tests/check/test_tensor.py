"""Lab 03's checks: a right answer passes, and every usual mistake is told apart from the others."""

from __future__ import annotations

import pytest
import torch

from shardlab import Ranks, check, comm
from shardlab.comm.mesh import Mesh


def bias_after(mesh: Mesh, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return comm.all_reduce(x @ w.T, mesh["tp"]) + bias


def no_reduce(mesh: Mesh, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return x @ w.T + bias


def bias_on_every_rank(mesh: Mesh, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return comm.all_reduce(x @ w.T + bias, mesh["tp"])


def no_bias(mesh: Mesh, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return comm.all_reduce(x @ w.T, mesh["tp"])


def reduced_twice(mesh: Mesh, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    tp = mesh["tp"]
    return comm.all_reduce(comm.all_reduce(x @ w.T, tp), tp) / tp.size + bias


def nothing(mesh: Mesh, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor) -> None:
    return None


def wrong_shape(mesh: Mesh, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return x


@pytest.mark.parametrize(
    ("attempt", "says"),
    [
        (no_reduce, "partial sum"),
        (bias_on_every_rank, "every rank added the bias"),
        (no_bias, "bias is missing"),
        (reduced_twice, "one all_reduce of"),
        (nothing, "NoneType"),
        (wrong_shape, "wanted (2, 3, 6)"),
    ],
)
def test_row_parallel_names_the_mistake(ranks: Ranks, attempt, says: str) -> None:
    verdict = check.row_parallel(attempt, ranks)
    assert not verdict
    assert says in repr(verdict)


def test_row_parallel_right(ranks: Ranks) -> None:
    assert check.row_parallel(bias_after, ranks)


def masked_and_reduced(mesh: Mesh, token_ids: torch.Tensor, table: torch.Tensor, first_row: int) -> torch.Tensor:
    return comm.all_reduce(only_mine(mesh, token_ids, table, first_row), mesh["tp"])


def only_mine(mesh: Mesh, token_ids: torch.Tensor, table: torch.Tensor, first_row: int) -> torch.Tensor:
    rows = token_ids - first_row
    here = (rows >= 0) & (rows < len(table))
    return table[rows.clamp(0, len(table) - 1)] * here.unsqueeze(-1)


def not_masked(mesh: Mesh, token_ids: torch.Tensor, table: torch.Tensor, first_row: int) -> torch.Tensor:
    return comm.all_reduce(table[(token_ids - first_row).clamp(0, len(table) - 1)], mesh["tp"])


def out_of_range(mesh: Mesh, token_ids: torch.Tensor, table: torch.Tensor, first_row: int) -> torch.Tensor:
    return table[token_ids]


@pytest.mark.parametrize(
    ("attempt", "says"),
    [
        (only_mine, "Which collective brings in the rest"),
        (not_masked, "must add zero"),
        (out_of_range, "IndexError"),
    ],
)
def test_vocab_embedding_names_the_mistake(ranks: Ranks, attempt, says: str) -> None:
    verdict = check.vocab_embedding(attempt, ranks)
    assert not verdict
    assert says in repr(verdict)


def test_vocab_embedding_right(ranks: Ranks) -> None:
    assert check.vocab_embedding(masked_and_reduced, ranks)


def all_reduces(number: int, T: int, size: float) -> float:
    return number * 2 * (T - 1) / T * size


def layers_only(shape, T, batch, seq, dtype_bytes):
    return all_reduces(2 * shape.num_layers, T, batch * seq * shape.d_model * dtype_bytes)


def no_logits(shape, T, batch, seq, dtype_bytes):
    return all_reduces(2 * shape.num_layers + 1, T, batch * seq * shape.d_model * dtype_bytes)


def whole(shape, T, batch, seq, dtype_bytes):
    logits = (T - 1) * batch * seq * -(-shape.vocab_size // T) * dtype_bytes
    return no_logits(shape, T, batch, seq, dtype_bytes) + logits


def no_embedding(shape, T, batch, seq, dtype_bytes):
    return whole(shape, T, batch, seq, dtype_bytes) - all_reduces(1, T, batch * seq * shape.d_model * dtype_bytes)


def no_padding(shape, T, batch, seq, dtype_bytes):
    logits = (T - 1) / T * batch * seq * shape.vocab_size * dtype_bytes
    return no_logits(shape, T, batch, seq, dtype_bytes) + logits


def no_ring_factor(shape, T, batch, seq, dtype_bytes):
    hidden = batch * seq * shape.d_model * dtype_bytes
    return (2 * shape.num_layers + 1) * hidden + T * batch * seq * -(-shape.vocab_size // T) * dtype_bytes


def raises(shape, T, batch, seq, dtype_bytes):
    return shape.num_experts


@pytest.mark.parametrize(
    ("attempt", "says"),
    [
        (layers_only, "both ends of the model"),
        (no_logits, "somebody must gather them"),
        (no_embedding, "one more all_reduce"),
        (no_padding, "padded to ceil"),
        (no_ring_factor, "sizes of the tensors"),
        (raises, "AttributeError"),
    ],
)
def test_forward_bytes_names_the_mistake(ranks: Ranks, attempt, says: str) -> None:
    verdict = check.forward_bytes(attempt, ranks)
    assert not verdict
    assert says in repr(verdict)


def test_forward_bytes_right(ranks: Ranks) -> None:
    assert check.forward_bytes(whole, ranks)


def test_the_words_are_in_the_html_and_are_escaped() -> None:
    html = check.Verdict(False, "a < b", "c & d")._repr_html_()
    assert "a &lt; b" in html and "c &amp; d" in html and "not yet" in html

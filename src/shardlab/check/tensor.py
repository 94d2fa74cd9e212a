"""Lab 03's three exercises: row-parallel with bias, vocab-parallel embedding, the bytes of a whole forward.

Each check runs the attempt at T = 2 and 3 on sizes that 3 does not divide: a solution that only works for even
splits is not a solution.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from shardlab.check.trial import DEGREES, busiest, compare, hinted, listed, number, run, same
from shardlab.check.verdict import Verdict
from shardlab.comm.mesh import Mesh
from shardlab.launch import Ranks
from shardlab.programs import forward, tensor
from shardlab.theory.ledger import Transfer, sent_bytes
from shardlab.theory.split import even_split
from shardlab.theory.transformer import Shape

B, S, F, D, V = 2, 3, 10, 6, 11


def row_parallel(attempt: Callable[..., torch.Tensor], ranks: Ranks) -> Verdict:
    """Check `attempt(mesh, x[B,S,F_tp], w[D,F_tp], bias[D]) -> [B,S,D]`, whole on every rank."""
    x, w, bias = _row_parallel_data()
    wanted = x @ w.T + bias
    for degree in DEGREES:
        outputs = run(ranks, degree, _row_parallel_trial, attempt)
        if isinstance(outputs, Verdict):
            return outputs
        for rank, (out, cut) in enumerate(zip(outputs, even_split(F, degree), strict=True)):
            verdict = compare(out, wanted, rank, degree)
            if verdict is None:
                continue
            partial = x[..., cut.start : cut.stop] @ w[:, cut.start : cut.stop].T
            if same(out, partial + bias) or same(out, partial):
                return hinted(verdict, "this is one rank's partial sum. Which collective adds the partial sums up?")
            if same(out, wanted + (degree - 1) * bias):
                return hinted(verdict, f"it is off by {degree - 1} x bias: every rank added the bias before the sum.")
            if same(out, wanted - bias):
                return hinted(verdict, "the sum is right; the bias is missing.")
            return verdict
        most = busiest(ranks.transfers, degree)
        if [t.num_bytes for t in most] != [B * S * D * 4]:
            message = f"the output is right at T={degree}, but the transfers were {listed(most)}."
            return Verdict(
                False, message, f"one all_reduce of B*S*D*4 = {B * S * D * 4} bytes, through comm, is enough."
            )
    return Verdict(
        True,
        f"equal to the whole layer on every rank at T=2 and T=3, with one all_reduce of {B * S * D * 4} B.",
    )


def vocab_embedding(attempt: Callable[..., torch.Tensor], ranks: Ranks) -> Verdict:
    """Check `attempt(mesh, token_ids[B,S], table[V_tp,D], first_row) -> [B,S,D]`, whole on every rank."""
    token_ids, table = _embedding_data()
    wanted = table[token_ids]
    for degree in DEGREES:
        outputs = run(ranks, degree, _embedding_trial, attempt)
        if isinstance(outputs, Verdict):
            return hinted(
                outputs,
                "an id that this rank does not hold must not be used as an index: shift by first_row, and mask.",
            )
        for rank, (out, rows) in enumerate(zip(outputs, even_split(V, degree), strict=True)):
            verdict = compare(out, wanted, rank, degree)
            if verdict is None:
                continue
            held = (token_ids >= rows.start) & (token_ids < rows.stop)
            if same(out, wanted * held.unsqueeze(-1)):
                return hinted(
                    verdict, "only this rank's own tokens are filled in. Which collective brings in the rest?"
                )
            return hinted(verdict, "a token that another rank holds must add zero here, not somebody else's row.")
        most = busiest(ranks.transfers, degree)
        if [t.op for t in most] != ["all_reduce"]:
            message = f"the output is right at T={degree}, but the transfers were {listed(most)}."
            return Verdict(False, message, "one all_reduce of the [B,S,D] output is enough.")
    return Verdict(True, "equal to a lookup in the whole table on every rank at T=2 and T=3, with one all_reduce.")


def forward_bytes(attempt: Callable[..., float], ranks: Ranks) -> Verdict:
    """Check `attempt(shape, T, batch, seq, dtype_bytes) -> bytes that each rank sends in one forward (ring)`.

    The attempt is held to what a small random model really recorded at T = 2 and 3, vocabulary 11 included.
    """
    shape = tensor.toy_shape(vocab_size=V)
    for degree in DEGREES:
        transfers = run(ranks, degree, forward.forward_transfers, shape, B, S)
        if isinstance(transfers, Verdict):
            return transfers
        measured = sent_bytes(busiest(transfers, degree), world_size=degree)
        guess = number(attempt, shape, degree, B, S, 4)
        if isinstance(guess, Verdict):
            return guess
        if abs(guess - measured) <= 0.5:
            continue
        message = f"at T={degree}, B={B}, S={S} a rank sent {measured:,.0f} B; you predicted {guess:,.0f} B."
        return Verdict(False, message, _missing_term(guess, busiest(transfers, degree), shape, degree))
    return Verdict(True, "your formula equals the recorded bytes at T=2 and T=3, to the byte.")


def _missing_term(guess: float, transfers: list[Transfer], shape: Shape, degree: int) -> str:
    """Name what the guess left out, where leaving it out gives exactly the guess."""
    embedding, *layers, logits = transfers
    halves = layers[: shape.num_layers]
    suspects = {
        "the embedding is split by vocabulary too: it costs one more all_reduce.": [*layers, logits],
        "the logits are split by vocabulary: somebody must gather them.": [embedding, *layers],
        "there is more than the layers: look at both ends of the model.": layers,
        "a layer has two row-parallel matrices, so two all_reduces.": [embedding, *halves, logits],
    }
    for hint, counted in suspects.items():
        if abs(guess - sent_bytes(counted, world_size=degree)) <= 0.5:
            return hint
    if abs(guess - sum(t.num_bytes for t in transfers)) <= 0.5:
        return (
            "these are the sizes of the tensors; a ring sends 2(T-1)/T of an all_reduce and (T-1)/T of an all_gather."
        )
    exact_vocab = logits.num_bytes * V // (-(-V // degree) * degree)
    if (
        abs(guess - sent_bytes([embedding, *layers, Transfer("all_gather", "tp", exact_vocab)], world_size=degree))
        <= 0.5
    ):
        return f"T does not divide V = {V}: every shard of the logits is padded to ceil(V/T) before the all_gather."
    return "count the all_reduces and the all_gather, each with its ring factor, and the bytes of an element."


def _row_parallel_data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    seeded = torch.Generator().manual_seed(3)
    x = torch.randn(B, S, F, generator=seeded)
    w = torch.randn(D, F, generator=seeded) * F**-0.5
    return x, w, torch.randn(D, generator=seeded)


def _embedding_data() -> tuple[torch.Tensor, torch.Tensor]:
    seeded = torch.Generator().manual_seed(4)
    # Every row of the table is asked for, the last one too, whatever T is.
    token_ids = torch.tensor([[0, 10, 5], [7, 3, 4]])
    return token_ids, torch.randn(V, D, generator=seeded)


def _row_parallel_trial(mesh: Mesh, attempt: Callable[..., torch.Tensor]) -> torch.Tensor:
    x, w, bias = _row_parallel_data()
    tp = mesh["tp"]
    cut = even_split(F, tp.size)[tp.rank]
    return attempt(mesh, x[..., cut.start : cut.stop].clone(), w[:, cut.start : cut.stop].clone(), bias)


def _embedding_trial(mesh: Mesh, attempt: Callable[..., torch.Tensor]) -> torch.Tensor:
    token_ids, table = _embedding_data()
    tp = mesh["tp"]
    rows = even_split(V, tp.size)[tp.rank]
    return attempt(mesh, token_ids, table[rows.start : rows.stop].clone(), rows.start)

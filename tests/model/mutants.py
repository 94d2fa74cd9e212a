"""Mistakes that sharded code is prone to, each as a patch that one rank program applies to itself.

A mutant is a context manager: inside it the model is loaded and run. Every one must make the parity check
fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F

from shardlab import comm, ops
from shardlab.comm.mesh import Axis, Mesh
from shardlab.layers import attention, embedding, kv_cache, linear, rope
from shardlab.layers.embedding import VocabParallelEmbedding, VocabParallelLogits
from shardlab.layers.linear import RowParallelLinear
from shardlab.layers.sharding import split_heads
from shardlab.model import block, transformer
from shardlab.ops import reference as torch_ops
from shardlab.theory.split import even_split
from tests.model.programs import Outcome, outcome

Mutant = Callable[[], AbstractContextManager[Any]]
MUTANTS: dict[str, Mutant] = {"none": lambda: mock.patch.object(comm, "all_reduce", comm.all_reduce)}


def mutant(make: Mutant) -> Mutant:
    MUTANTS[make.__name__] = make
    return make


@contextmanager
def _without_reduce(which: int) -> Iterator[None]:
    """The all_reduce number `which` of every forward is left out on every rank (a forward of 3 layers has 7)."""
    calls, honest = 0, comm.all_reduce

    def all_reduce(partial: torch.Tensor, axis: Axis) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return partial if (calls - 1) % 7 == which else honest(partial, axis)

    with mock.patch.object(comm, "all_reduce", all_reduce):
        yield


MUTANTS["no_reduce_of_the_embedding"] = lambda: _without_reduce(0)
MUTANTS["no_reduce_of_an_attention"] = lambda: _without_reduce(3)
MUTANTS["no_reduce_of_the_last_mlp"] = lambda: _without_reduce(6)


@mutant
def mean_for_sum() -> AbstractContextManager[Any]:
    honest = comm.all_reduce
    return mock.patch.object(comm, "all_reduce", lambda partial, axis: honest(partial, axis) / axis.size)


@mutant
def two_shards_swapped() -> AbstractContextManager[Any]:
    """Ranks 0 and 1 read each other's columns of gate and up, but their own rows of down."""
    honest = linear.ColumnParallelLinear.__init__

    def init(self: Any, d_in: int, d_out: int, axis: Axis, **more: Any) -> None:
        other = replace(axis, rank={0: 1, 1: 0}.get(axis.rank, axis.rank))
        honest(self, d_in, d_out, axis if "held" in more else other, **more)

    return mock.patch.object(linear.ColumnParallelLinear, "__init__", init)


@mutant
def bias_on_every_rank() -> AbstractContextManager[Any]:
    def partial(self: RowParallelLinear, local_x: torch.Tensor) -> torch.Tensor:
        return ops.linear(local_x, self.local_weight, self.bias)

    return mock.patch.object(RowParallelLinear, "partial", partial)


@mutant
def bias_forgotten() -> AbstractContextManager[Any]:
    def reduce(partial: torch.Tensor, axis: Axis, bias: torch.Tensor | None = None) -> torch.Tensor:
        return comm.all_reduce(partial, axis)

    return mock.patch.object(block, "reduce_partial", reduce)


@mutant
def wrong_kv_index() -> AbstractContextManager[Any]:
    """Every query head reads the rank's first KV head."""

    def split(num_heads: int, num_kv_heads: int, num_ranks: int):
        heads = split_heads(num_heads, num_kv_heads, num_ranks)
        return tuple(replace(h, kv_index=(0,) * len(h.kv_index)) for h in heads)

    return mock.patch.object(attention, "split_heads", split)


@mutant
def kv_heads_of_the_neighbour() -> AbstractContextManager[Any]:
    """A rank loads as many KV heads as it needs, but the first ones of the model."""

    def split(num_heads: int, num_kv_heads: int, num_ranks: int):
        heads = split_heads(num_heads, num_kv_heads, num_ranks)
        return tuple(replace(h, kv=range(len(h.kv))) for h in heads)

    return mock.patch.object(attention, "split_heads", split)


@mutant
def no_offset_in_decode() -> AbstractContextManager[Any]:
    def cos_sin(per_position: torch.Tensor, positions: torch.Tensor, dtype: torch.dtype):
        return rope.cos_sin(per_position, positions - positions.min(), dtype)

    return mock.patch.object(transformer, "cos_sin", cos_sin)


@mutant
def cache_one_position_late() -> AbstractContextManager[Any]:
    honest = kv_cache._Alike.append

    def append(self: Any, k: torch.Tensor, v: torch.Tensor):
        seen = honest(self, k, v)
        return (seen[0][:, :, :-1], seen[1][:, :, :-1], None) if k.shape[2] == 1 else seen

    return mock.patch.object(kv_cache._Alike, "append", append)


@mutant
def chunks_see_the_future() -> AbstractContextManager[Any]:
    def no_mask(num_new: int, num_all: int, window: int | None, device: object = None) -> torch.Tensor | None:
        return None if num_new in (1, num_all) else torch.ones(num_new, num_all, dtype=torch.bool)

    return mock.patch.object(torch_ops, "causal_mask", no_mask)


@mutant
def tokens_of_others_not_masked() -> AbstractContextManager[Any]:
    def partial(self: VocabParallelEmbedding, tokens: torch.Tensor) -> torch.Tensor:
        return F.embedding((tokens - self.held.start).clamp(0, len(self.held) - 1), self.local_weight)

    return mock.patch.object(VocabParallelEmbedding, "partial", partial)


@mutant
def padding_left_in_the_logits() -> AbstractContextManager[Any]:
    """Cut at the end only, though every short shard has its padding inside."""

    def forward(self: VocabParallelLogits, x: torch.Tensor) -> torch.Tensor:
        local = F.linear(x, self.local_weight)
        most = -(-self.vocab_size // self.axis.size)
        padded = F.pad(local, (0, most - local.shape[-1]))
        return comm.all_gather(padded, self.axis)[..., : self.vocab_size]

    return mock.patch.object(VocabParallelLogits, "forward", forward)


@mutant
def vocabulary_off_by_one() -> AbstractContextManager[Any]:
    def split(total: int, parts: int) -> tuple[range, ...]:
        return tuple(range(max(r.start - 1, 0), max(r.stop - 1, len(r))) for r in even_split(total, parts))

    return mock.patch.object(embedding, "even_split", split)


@mutant
def output_rows_of_other_heads() -> AbstractContextManager[Any]:
    """o's rows begin one row too early."""
    honest = RowParallelLinear.__init__

    def init(self: Any, d_in: int, d_out: int, axis: Axis, *, held: range | None = None, **more: Any) -> None:
        if held is not None:
            size = len(held)
            held = range(max(held.start - 1, 0), max(held.start - 1, 0) + size)
        honest(self, d_in, d_out, axis, held=held, **more)

    return mock.patch.object(RowParallelLinear, "__init__", init)


def mutated(mesh: Mesh, name: str, source: Path, token_ids: torch.Tensor) -> Outcome:
    """The parity program inside one mutant."""
    with MUTANTS[name]():
        return outcome(mesh, source, token_ids, new_tokens=4)

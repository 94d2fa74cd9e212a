"""Which part of a full tensor a rank holds, and the two pure functions that cut and join: no process group needed.

Every part here is a box: a run of neighbouring elements along each dim. One cut is enough for rows, columns, vocabulary
and heads; experts w[E,F,D] are cut along E over ep and along F over tp. A box is what lets a checkpoint reader fetch a
part with one slice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from shardlab.theory.split import even_split, kv_heads_of


@dataclass(frozen=True)
class Part:
    """full_[held[0], held[1], ...]: what one rank holds of a tensor of `full_shape`. One range a dim.

    `Part.whole(shape)` is all of it, `Part.cut(shape, {dim: range})` a run along some dims. Raises ValueError where
    the ranges do not lie in the shape.
    """

    full_shape: tuple[int, ...]
    held: tuple[range, ...]

    def __post_init__(self) -> None:
        if len(self.held) != len(self.full_shape):
            raise ValueError(f"{len(self.held)} ranges for the {len(self.full_shape)} dims of shape {self.full_shape}")
        for dim, (held, size) in enumerate(zip(self.held, self.full_shape, strict=True)):
            if held.step != 1 or not 0 <= held.start <= held.stop <= size:
                raise ValueError(f"{held} does not lie in dim {dim} of shape {self.full_shape}")

    @classmethod
    def whole(cls, full_shape: Sequence[int]) -> Part:
        """All of a tensor."""
        return cls.cut(full_shape, {})

    @classmethod
    def cut(cls, full_shape: Sequence[int], held: Mapping[int, range]) -> Part:
        """`held[dim]` of each dim that is cut, all of the others. Raises ValueError for a dim that is not there."""
        shape = tuple(full_shape)
        for dim in held:
            if not 0 <= dim < len(shape):
                raise ValueError(f"dim={dim} is not a dim of shape {shape}")
        return cls(shape, tuple(held.get(dim, range(size)) for dim, size in enumerate(shape)))

    @property
    def local_shape(self) -> tuple[int, ...]:
        """Shape of this rank's shard."""
        return tuple(len(held) for held in self.held)

    @property
    def index(self) -> tuple[slice, ...]:
        """full_[index] is the shard. Safetensors slices and numpy arrays take it as well."""
        return tuple(slice(held.start, held.stop) for held in self.held)

    @property
    def inner(self) -> Part:
        """The part of each full_[i] for i in held[0]: where a checkpoint stores dim 0 as that many tensors."""
        return Part(self.full_shape[1:], self.held[1:])


def even_parts(full_shape: Sequence[int], dim: int, num_ranks: int) -> tuple[Part, ...]:
    """The part of each rank where `dim` is split as evenly as it goes, larger parts first."""
    return tuple(Part.cut(full_shape, {dim: held}) for held in even_split(full_shape[dim], num_ranks))


@dataclass(frozen=True)
class Heads:
    """The heads of one rank: its query heads, the KV heads that they read, and which of those each one reads.

    kv_index[i] is the position in `kv` of the KV head that local query head i reads. With 9 query heads on 4
    ranks and 3 KV heads, rank 1 holds query heads 3, 4 and KV head 1; rank 2 holds 5, 6 and KV heads 1, 2:
    not one group size fits all, so the index says it.
    """

    query: range
    kv: range
    kv_index: tuple[int, ...]


def split_heads(num_heads: int, num_kv_heads: int, num_ranks: int) -> tuple[Heads, ...]:
    """Query heads as evenly as they go; each rank with the KV heads that its query heads read (copies if need be).

    Raises ValueError where there are more ranks than query heads, or KV heads that do not divide the query
    heads.
    """
    if not 1 <= num_ranks <= num_heads:
        raise ValueError(
            f"tp={num_ranks} cannot split num_heads={num_heads}: a rank needs at least one; "
            f"degrees that work: 1..{num_heads}"
        )
    split = []
    for query in even_split(num_heads, num_ranks):
        kv = kv_heads_of(query, num_heads, num_kv_heads)
        group = num_heads // num_kv_heads
        split.append(Heads(query, kv, tuple(head // group - kv.start for head in query)))
    return tuple(split)


def widen(heads: range, head_dim: int) -> range:
    """Heads -> the rows of a projection that make them."""
    return range(heads.start * head_dim, heads.stop * head_dim)


def shard(full: torch.Tensor, part: Part) -> torch.Tensor:
    """full_ -> local_: a contiguous copy of this rank's part. Raises ValueError where the shape is not the plan's."""
    if tuple(full.shape) != part.full_shape:
        raise ValueError(f"a tensor of shape {part.full_shape} is needed, this one is {tuple(full.shape)}")
    return full[part.index].clone(memory_format=torch.contiguous_format)


def unshard(shards: Sequence[torch.Tensor], parts: Sequence[Part]) -> torch.Tensor:
    """local_ of every rank -> full_. Copies of one element must be equal; no element may be missing.

    Raises ValueError for shapes that are not the parts', an element that no rank holds, or copies that
    differ.
    """
    if len(shards) != len(parts) or not parts:
        raise ValueError(f"{len(shards)} shards for {len(parts)} parts")
    full = shards[0].new_empty(parts[0].full_shape)
    seen = torch.zeros(parts[0].full_shape, dtype=torch.bool)
    for rank, (local, part) in enumerate(zip(shards, parts, strict=True)):
        if part.full_shape != parts[0].full_shape or tuple(local.shape) != part.local_shape:
            raise ValueError(f"shard {rank} is {tuple(local.shape)}; its part is {part}")
        known = seen[part.index]
        if not torch.equal(full[part.index][known], local[known]):
            raise ValueError(f"shard {rank} differs from an earlier rank's copy of the same elements")
        full[part.index] = local
        seen[part.index] = True
    if not bool(seen.all()):
        raise ValueError(f"no rank holds {int((~seen).sum())} of the {seen.numel()} elements")
    return full

"""How a dimension is divided over the ranks of an axis: the one place that says so."""

from __future__ import annotations

from typing import Protocol


class TensorParallelShape(Protocol):
    """What `check_tp` needs to know of a model. `theory.transformer.Shape` has it."""

    @property
    def num_heads(self) -> int: ...
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def d_ff(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...


def even_split(total: int, parts: int) -> tuple[range, ...]:
    """total -> `parts` neighbouring ranges, as even as they go, the larger ones first.

    9 over 4 is 3, 2, 2, 2. A part is empty where total < parts. No two parts differ by more than one.
    Raises ValueError for parts < 1 or total < 0.
    """
    if parts < 1:
        raise ValueError(f"parts={parts}: a dimension is split into 1 or more parts")
    if total < 0:
        raise ValueError(f"total={total}: a dimension has 0 or more elements")
    size, larger = divmod(total, parts)
    starts = [part * size + min(part, larger) for part in range(parts + 1)]
    return tuple(range(start, stop) for start, stop in zip(starts, starts[1:], strict=False))


def kv_heads_of(query_heads: range, num_heads: int, num_kv_heads: int) -> range:
    """The KV heads that these query heads read; a rank holds exactly those.

    num_heads / num_kv_heads neighbouring query heads share one KV head (MHA: 1; MQA: all of them), so ranks
    whose query heads share a KV head each hold a copy of it. Ainslie et al. 2023 (GQA), arXiv 2305.13245.
    Raises ValueError where num_kv_heads does not divide num_heads, or a query head is out of range.
    """
    if num_kv_heads < 1 or num_heads < 1 or num_heads % num_kv_heads:
        raise ValueError(f"num_kv_heads={num_kv_heads} does not divide num_heads={num_heads}")
    if query_heads.step != 1:
        raise ValueError(f"query_heads={query_heads}: neighbouring heads are needed (step 1)")
    if not 0 <= query_heads.start <= query_heads.stop <= num_heads:
        raise ValueError(f"query_heads={query_heads} are not within range(0, {num_heads})")
    group = num_heads // num_kv_heads
    first = query_heads.start // group
    if not query_heads:
        return range(first, first)
    return range(first, (query_heads.stop - 1) // group + 1)


def largest_tp(shape: TensorParallelShape) -> int:
    """The largest degree that leaves every rank a query head, a column of F and a row of V."""
    return min(shape.num_heads, shape.d_ff, shape.vocab_size)


def check_tp(shape: TensorParallelShape, tp: int) -> None:
    """Raises ValueError, naming the degrees that work, where `tp` ranks cannot share this model's layers."""
    most = largest_tp(shape)
    limit = "num_heads" if most == shape.num_heads else "d_ff" if most == shape.d_ff else "vocab_size"
    if isinstance(tp, bool) or not isinstance(tp, int) or not 1 <= tp <= most:
        raise ValueError(
            f"tp={tp} cannot split {limit}={most}: a rank needs at least one; degrees that work: 1..{most}"
        )
    if shape.num_heads % shape.num_kv_heads:
        raise ValueError(f"num_kv_heads={shape.num_kv_heads} does not divide num_heads={shape.num_heads}")

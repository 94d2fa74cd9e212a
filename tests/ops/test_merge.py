"""Attention over parts of the keys, merged, is attention over all of them: however they were cut."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab import ops
from tests.ops import plain
from tests.ops.inputs import GROUPS, draw

Pair = tuple[torch.Tensor, torch.Tensor]


def contiguous(num_keys: int, num_parts: int) -> list[torch.Tensor]:
    return list(torch.arange(num_keys).tensor_split(num_parts))


def interleaved(num_keys: int, num_parts: int) -> list[torch.Tensor]:
    return [torch.arange(part, num_keys, num_parts) for part in range(num_parts)]


def zigzag(num_keys: int, num_parts: int) -> list[torch.Tensor]:
    """Part i holds chunks i and 2 * num_parts - 1 - i: the first, of which little is seen, with the last."""
    chunks = torch.arange(num_keys).tensor_split(2 * num_parts)
    return [torch.cat((chunks[part], chunks[-1 - part])) for part in range(num_parts)]


def one_is_empty(num_keys: int, num_parts: int) -> list[torch.Tensor]:
    return [*contiguous(num_keys, max(num_parts - 1, 1)), torch.arange(0)][:num_parts]


CUTS = (contiguous, interleaved, zigzag, one_is_empty)


def by_parts(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, held: list[torch.Tensor], **more) -> list[Pair]:
    """Each part's keys alone."""
    return [ops.attention_lse(q, k[:, :, keys], v[:, :, keys], k_positions=keys, **more) for keys in held]


def merged(pairs: list[Pair]) -> Pair:
    outs, lses = zip(*pairs, strict=True)
    return ops.merge(outs, lses)


def close(found: Pair, wanted: Pair) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other.double(), atol=1e-5, rtol=1e-4)


WAYS = {"torch": nullcontext} | ({} if torch.cuda.is_available() else {"kernels": ops.interpreted})


@pytest.mark.parametrize(("way", "num_parts"), [(way, n) for way in WAYS for n in range(1, 5 if way == "torch" else 4)])
@pytest.mark.parametrize("cut", CUTS)
def test_parts_make_the_whole(cut, num_parts: int, way: str) -> None:
    """13 keys; each rank's queries are the positions of its keys, as in ring attention. A window too."""
    kv_index = (0, 0, 1)
    q, k, v = draw(2, kv_index, 13, 13)
    held = cut(13, num_parts)
    for window, queries in [(None, held[-1]), (5, held[0])]:
        wanted = plain.attention(q[:, :, queries], k, v, kv_index, queries, torch.arange(13), window)
        with WAYS[way]():
            pairs = by_parts(q[:, :, queries], k, v, held, kv_index=kv_index, q_positions=queries, window=window)
            close(merged(pairs), wanted)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), num_keys=st.integers(1, 23), num_parts=st.integers(1, 4), batch=st.integers(1, 3))
def test_any_cut_makes_the_whole(data: st.DataObject, num_keys: int, num_parts: int, batch: int) -> None:
    kv_index, window = data.draw(st.sampled_from(GROUPS)), data.draw(st.none() | st.integers(1, 24))
    rank_of = data.draw(st.lists(st.integers(0, num_parts - 1), min_size=num_keys, max_size=num_keys))
    held = [
        torch.tensor([key for key in range(num_keys) if rank_of[key] == r], dtype=torch.int64) for r in range(num_parts)
    ]
    queries = torch.tensor(data.draw(st.lists(st.integers(0, num_keys), min_size=1, max_size=9)))
    q, k, v = draw(batch, kv_index, len(queries), num_keys, h=8)
    wanted = plain.attention(q, k, v, kv_index, queries, torch.arange(num_keys), window)
    pairs = by_parts(q, k, v, held, kv_index=kv_index, q_positions=queries, window=window)
    close(merged(pairs), wanted)
    running = pairs[0]  # one after another, as a ring brings them, in any order
    for pair in pairs[1:]:
        running = merged([pair, running])
    close(running, wanted)


def test_the_whole_is_what_attention_gives() -> None:
    kv_index = (0, 0, 1, 1)
    q, k, v = draw(2, kv_index, 7, 12)
    pairs = by_parts(q, k, v, zigzag(12, 2), kv_index=kv_index, q_positions=torch.arange(5, 12))
    torch.testing.assert_close(merged(pairs)[0], ops.attention(q, k, v, kv_index), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_an_empty_part_counts_nothing_whatever_its_out_holds(way: str) -> None:
    out, lse, nothing = torch.randn(2, 3, 5, 16), torch.randn(2, 3, 5), torch.full((2, 3, 5), float("-inf"))
    bad = torch.full_like(out, float("nan"))
    with WAYS[way]():
        close(ops.merge((bad, out, bad), (nothing, lse, nothing)), (out, lse))
        close(ops.merge((bad, bad), (nothing, nothing)), (torch.zeros_like(out), nothing))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([], "0 outs, 0 lses"),
        ([((2, 3, 4), (2, 3)), ((2, 3, 5), (2, 3))], r"2 outs, 2 lses, of shapes .*\(2, 3, 5\)"),
        ([((2, 3, 4), (2, 4))], r"\(2, 3, 4\), \(2, 4\)"),
    ],
)
def test_refuses(shapes: list, message: str) -> None:
    outs, lses = [torch.zeros(out) for out, _ in shapes], [torch.zeros(lse) for _, lse in shapes]
    with pytest.raises(ValueError, match=message):
        ops.merge(outs, lses)
    with pytest.raises(ValueError, match="1 outs, 2 lses"):
        ops.merge([torch.zeros(2, 4)], [torch.zeros(2)] * 2)

"""Attention over some of the keys against the formula in fp64: in torch, block by block, and on interpreted kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from shardlab import ops
from shardlab.ops import blockwise, parts
from tests.ops import plain
from tests.ops.inputs import GROUPS, draw

Way = Callable[[], AbstractContextManager[Any]]
NAN = float("nan")


@contextmanager
def small_tiles() -> Iterator[None]:
    """2 queries by 3 keys, so that small inputs have many tiles, the last ones not full."""
    with mock.patch.multiple(blockwise, SCORES=1, QUERIES=(2, 2), KEYS=3):
        yield


@contextmanager
def unknown() -> Iterator[None]:
    """Small tiles, and positions as they are on a GPU: nothing is known of them."""
    with small_tiles(), mock.patch.object(blockwise, "span", lambda positions: None):
        yield


WAYS: dict[str, Way] = {"torch": nullcontext, "small tiles": small_tiles, "unknown": unknown}
if not torch.cuda.is_available():
    WAYS["kernels"] = ops.interpreted


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found.double(), wanted, atol=tolerance, rtol=10 * tolerance)


def spoil(x: torch.Tensor, k_positions: torch.Tensor) -> None:
    """NaN and Inf where no position is filled."""
    empty = (k_positions < 0).expand(x.shape[0], -1)
    x.transpose(1, 2)[empty] = NAN
    x[:, :, -1:].transpose(1, 2)[empty[:, -1:]] = float("inf")


POSITIONS = {
    "all of a prompt": (torch.arange(7), torch.arange(7)),
    "the last of more": (torch.arange(4, 7), torch.arange(7)),
    "one": (torch.tensor([6]), torch.arange(7)),
    "a part that is past": (torch.arange(20, 25), torch.arange(8)),
    "a part that is to come": (torch.arange(5), torch.arange(5, 9)),
    "zigzag": (torch.tensor([0, 1, 2, 9, 10, 11]), torch.tensor([3, 4, 5, 6, 7, 8])),
    "zigzag, its own keys": (torch.tensor([2, 3, 8, 9]), torch.tensor([2, 3, 8, 9])),
    "interleaved": (torch.arange(0, 12, 3), torch.arange(1, 12, 3)),
    "in no order": (torch.tensor([5, 0, 7, 3]), torch.tensor([6, 2, 9, 0, 1, 4, 3])),
    "not all filled": (torch.arange(3, 6), torch.tensor([0, 1, 2, 3, -1, -1, -1])),
    "not filled between": (torch.arange(3, 6), torch.tensor([-1, 0, 1, -1, -1, 4, 5, -1])),
    "nothing filled": (torch.arange(3), torch.full((4,), -1)),
    "queries before all": (torch.tensor([-3, -1, 0]), torch.arange(4)),
    "rows of their own": (
        torch.tensor([[4, 5, 6], [0, 1, 2], [9, 3, 5]]),
        torch.tensor([[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, -1, -1, -1, -1], [-1, -1, -1, -1, -1, -1, -1]]),
    ),
    "rows of their own, alike": (torch.arange(4, 7).repeat(3, 1), torch.arange(7).repeat(3, 1)),
    "no query": (torch.arange(0), torch.arange(4)),
    "no key": (torch.arange(3), torch.arange(0)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.parametrize("positions", POSITIONS)
def test_any_positions(positions: str, window: int | None, way: str) -> None:
    q_positions, k_positions = POSITIONS[positions]
    kv_index = (0, 0, 1)
    q, k, v = draw(3, kv_index, q_positions.shape[-1], k_positions.shape[-1])
    for x in (k, v):
        spoil(x, k_positions)
    wanted = plain.attention(q, k, v, kv_index, q_positions, k_positions, window)
    with WAYS[way]():
        out, lse = ops.attention_lse(q, k, v, kv_index, q_positions=q_positions, k_positions=k_positions, window=window)
    assert (out.dtype, lse.dtype) == (torch.float32, torch.float32)
    close(out, wanted[0])
    close(lse, wanted[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kv_index", GROUPS, ids=str)
def test_any_heads_and_precision(kv_index: tuple[int, ...], way: str, dtype: torch.dtype) -> None:
    if way == "kernels" and dtype == torch.float64:
        dtype = torch.float16  # which the kernels know, instead
    q, k, v = draw(2, kv_index, 5, 7, dtype=dtype)
    wanted = plain.attention(q, k, v, kv_index, torch.arange(2, 7), torch.arange(7))
    with WAYS[way]():
        out, lse = ops.attention_lse(
            q, k, v, kv_index, q_positions=torch.arange(2, 7), k_positions=torch.arange(7, dtype=torch.int32)
        )
    assert out.dtype == dtype and lse.dtype == torch.promote_types(dtype, torch.float32)
    close(out, wanted[0], 1e-5 if dtype.itemsize > 2 else 2e-2)
    close(lse, wanted[1], 1e-5 if way != "kernels" else 2e-2)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data(), num_queries=st.integers(0, 9), num_keys=st.integers(0, 12), batch=st.integers(1, 3))
def test_any_size_and_positions(data: st.DataObject, num_queries: int, num_keys: int, batch: int) -> None:
    def positions(number: int) -> torch.Tensor:
        row = st.lists(st.integers(-1, 12), min_size=number, max_size=number)
        return torch.tensor(data.draw(row | st.lists(row, min_size=batch, max_size=batch)), dtype=torch.int64)

    kv_index, window = data.draw(st.sampled_from(GROUPS)), data.draw(st.none() | st.integers(1, 13))
    way = data.draw(st.sampled_from([nullcontext, small_tiles, unknown]))
    at_q, at_k = positions(num_queries), positions(num_keys)
    q, k, v = draw(batch, kv_index, num_queries, num_keys, h=8)
    for x in (k, v):
        spoil(x, at_k)
    wanted = plain.attention(q, k, v, kv_index, at_q, at_k, window)
    with way():
        found = ops.attention_lse(q, k, v, kv_index, q_positions=at_q, k_positions=at_k, window=window)
    for one, other in zip(found, wanted, strict=True):
        close(one, other)


class Made(TorchDispatchMode):
    """The sizes of all tensors that operations make, views apart."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        for one in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(one, torch.Tensor) and one.untyped_storage().data_ptr() not in given:
                self.made.append((str(func), one.untyped_storage().nbytes()))
        return out

    def largest(self) -> tuple[str, int]:
        return max(self.made, key=lambda one: one[1])


@pytest.mark.parametrize("window", [None, 700])
def test_no_score_for_every_pair_is_ever_in_memory(window: int | None) -> None:
    """S = C = 2500: the scores of a head would take 25 MB, a mask 6. In no order, so that no tile can be left out."""
    at = torch.randperm(2500, generator=torch.Generator().manual_seed(1))
    at[::7] = -1
    q, k, v = draw(1, (0, 0, 1), 2500, 2500, h=8)
    with Made() as seen:
        ops.attention_lse(q, k, v, (0, 0, 1), q_positions=at.flip(0), k_positions=at, window=window)
    assert 1_000_000 < seen.largest()[1] <= 4 * blockwise.SCORES < 2500 * 2500, seen.largest()


@pytest.mark.parametrize(("kv_index", "copies"), [((0, 0, 1, 1), False), ((0, 1, 1), True)], ids=str)
def test_even_groups_read_k_and_v_in_place(kv_index: tuple[int, ...], copies: bool) -> None:
    """From a cache that is longer than what is filled, as from the projections."""
    q, *cache = draw(2, kv_index, 3, 40)
    projected = [torch.randn(2, 40, 2, 16).transpose(1, 2) for _ in range(2)]
    at = torch.arange(20)
    for k, v, copies_too in ((*cache, copies), (*projected, True)):
        with Made() as seen:
            ops.attention_lse(q, k[:, :, :20], v[:, :, :20], kv_index, q_positions=at[-3:], k_positions=at)
        block = k[:, :, :20].nbytes
        assert any(size >= block for _, size in seen.made) == copies_too, (seen.largest(), block)


@pytest.mark.parametrize("rows_and_heads", [1, 9, 64, 4096])
@pytest.mark.parametrize("num_queries", [1, 7, 5000])
def test_tiles_are_bounded(rows_and_heads: int, num_queries: int) -> None:
    queries, keys = blockwise.tile_size(rows_and_heads, num_queries)
    assert keys >= 128 and 1 <= queries <= 256
    assert rows_and_heads * queries * keys <= max(blockwise.SCORES, rows_and_heads * 16 * 128)


def test_where_the_kernel_is_used() -> None:
    """A launch for each pair of runs, but those that see nothing of each other."""
    rows_differ = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7]])
    launches = {
        (0, 1, 2, 3): {(0, 1, 2, 3): 1, (4, 5, 6, 7): 0, (0, 1, 6, 7): 1, (2, 0, 3, 1): 4, (0, 1, -1, -1): 1},
        (0, 1, 6, 7): {(2, 3, 4, 5): 1, (0, 1, 6, 7): 3, (-1, -1, -1, -1): 0},
    }
    q, k, v = draw(2, (0, 0), 4, 4)
    for at_q, with_keys in launches.items():
        for at_k, number in with_keys.items():
            with ops.interpreted(), mock.patch.object(parts, "flash_attention", wraps=parts.flash_attention) as kernel:
                given = torch.tensor(at_q), torch.tensor(at_k)
                ops.attention_lse(q, k, v, (0, 0), q_positions=given[0], k_positions=given[1])
                assert kernel.call_count == number, (at_q, at_k)
    for at in (rows_differ, torch.tensor([0, 2, 4, 6]), torch.tensor([7, 6, 5, 4])):
        with ops.interpreted(), mock.patch.object(parts, "MAX_RUNS", 3):
            kernel = mock.Mock()
            with mock.patch.object(parts, "flash_attention", kernel):
                ops.attention_lse(q, k, v, (0, 0), q_positions=at, k_positions=torch.arange(4))
            assert not kernel.called


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"q_positions": torch.arange(4)}, r"q_positions\(4,\): \[3\] or \[2,3\] is needed"),
        ({"k_positions": torch.arange(5).repeat(3, 1)}, r"k_positions\(3, 5\): \[5\] or \[2,5\] is needed"),
        ({"k_positions": torch.arange(5.0)}, "k_positions is torch.float32"),
        ({"window": 0}, "window=0: at least 1"),
        ({"kv_index": (0,)}, r"kv_index=\(0,\): a KV head of k\(2, 2, 5, 16\) for each head of q\(2, 2, 3, 16\)"),
        ({"kv_index": (0, 2)}, r"kv_index=\(0, 2\)"),
        ({"v": torch.zeros(2, 2, 6, 16)}, r"k\(2, 2, 5, 16\), v\(2, 2, 6, 16\)"),
    ],
)
def test_refuses(changed: dict[str, Any], message: str) -> None:
    q, k, v = draw(2, (0, 1), 3, 5)
    given = {"q": q, "k": k, "v": v, "kv_index": (0, 1), "q_positions": torch.arange(3), "k_positions": torch.arange(5)}
    with pytest.raises(ValueError, match=message):
        ops.attention_lse(**(given | changed))

"""ops.attention with rows of different lengths and queries at any positions, in torch and on interpreted kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab import ops
from shardlab.ops import dispatch
from shardlab.ops.reference import even_groups
from tests.ops import plain
from tests.ops.inputs import GROUPS, draw

BAD = (float("nan"), float("inf"))
Way = Callable[[], AbstractContextManager[Any]]


@contextmanager
def masked() -> Iterator[None]:
    """As if the lengths were on a GPU, which may be asked for no number."""
    asked = AssertionError("asked the device for a number")
    with (
        mock.patch.object(dispatch.torch_ops, "attend", device_attend),
        mock.patch.object(torch.Tensor, "tolist", side_effect=asked),
        mock.patch.object(torch.Tensor, "item", side_effect=asked),
    ):
        yield


def device_attend(q: Any, k: Any, v: Any, kv_index: Any, window: Any, lengths: Any, q_positions: Any) -> torch.Tensor:
    lengths = torch.full((q.shape[0],), k.shape[2]) if lengths is None else lengths
    return dispatch.torch_ops._attend_masked(q, k, v, kv_index, window, lengths, q_positions)


WAYS: dict[str, Way] = {"torch": nullcontext, "masked": masked, "kernels": ops.interpreted}
if torch.cuda.is_available():
    del WAYS["kernels"]  # they were defined for the GPU; tests/model/test_on_gpu.py runs them


def fill_beyond(k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor) -> None:
    """The first lengths[b] positions of a cache stay; behind them lies what may lie in memory."""
    beyond = torch.arange(k.shape[2]) >= lengths[:, None]
    for x, bad in ((k, BAD[0]), (v, BAD[1])):
        x.transpose(1, 2)[beyond] = bad
        x[:, :, -1:][beyond[:, None, -1:].expand(x.shape[0], x.shape[1], 1)] = float("nan")


def last(lengths: torch.Tensor, num_queries: int) -> torch.Tensor:
    return lengths[:, None] - num_queries + torch.arange(num_queries)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("num_queries", [1, 4])
@pytest.mark.parametrize("kv_index", GROUPS, ids=str)
def test_rows_of_different_lengths(kv_index: tuple[int, ...], num_queries: int, window: int | None, way: str) -> None:
    """Row 0 is full, row 1 is not, row 2 has fewer positions than queries, row 3 is empty."""
    lengths = torch.tensor([9, 5, 2, 0])
    q, k, v = draw(4, kv_index, num_queries, 9)
    fill_beyond(k, v, lengths)
    wanted, _ = plain.attention(q, k, v, kv_index, last(lengths, num_queries), torch.arange(9), window)
    with WAYS[way]():
        found = ops.attention(q, k, v, kv_index, window, lengths)
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shared", [True, False], ids=["[S]", "[B,S]"])
@pytest.mark.parametrize("with_lengths", [True, False], ids=["lengths", "full"])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("positions", [[0], [6], [3, 4, 5], [0, 1, 8, 9], [7, 2, 11]], ids=str)
def test_queries_at_any_positions(
    positions: list[int], window: int | None, with_lengths: bool, shared: bool, way: str
) -> None:
    kv_index, capacity = (0, 0, 1), 10
    q, k, v = draw(3, kv_index, len(positions), capacity)
    q_positions = torch.tensor(positions)
    if not shared:
        q_positions = torch.stack([q_positions, (q_positions + 2) % 10, q_positions.flip(0)])
    lengths = torch.tensor([10, 4, 1]) if with_lengths else None
    k_positions = torch.arange(capacity).repeat(3, 1)
    if lengths is not None:
        fill_beyond(k, v, lengths)
        k_positions[k_positions >= lengths[:, None]] = 99
    wanted, _ = plain.attention(q, k, v, kv_index, q_positions, k_positions, window)
    with WAYS[way]():
        found = ops.attention(q, k, v, kv_index, window, lengths, q_positions)
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-4)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data(), num_queries=st.integers(0, 7), capacity=st.integers(1, 12), batch=st.integers(1, 4))
def test_any_lengths_and_positions(data: st.DataObject, num_queries: int, capacity: int, batch: int) -> None:
    kv_index = data.draw(st.sampled_from(GROUPS))
    window = data.draw(st.none() | st.integers(1, 13))
    lengths = torch.tensor(data.draw(st.lists(st.integers(0, capacity), min_size=batch, max_size=batch)))
    q, k, v = draw(batch, kv_index, num_queries, capacity, h=8)
    fill_beyond(k, v, lengths)
    q_positions = None
    if data.draw(st.booleans()):
        numbers = st.lists(st.integers(-1, capacity + 2), min_size=num_queries, max_size=num_queries)
        rows = data.draw(numbers | st.lists(numbers, min_size=batch, max_size=batch)) if num_queries else []
        q_positions = torch.tensor(rows, dtype=torch.int64)
    k_positions = torch.arange(capacity).repeat(batch, 1)
    k_positions[k_positions >= lengths[:, None]] = -1
    where = last(lengths, num_queries) if q_positions is None else q_positions
    wanted, _ = plain.attention(q, k, v, kv_index, where, k_positions, window)
    for way in (nullcontext, masked):
        with way():
            found = ops.attention(q, k, v, kv_index, window, lengths, q_positions)
        torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-4)


def test_a_ragged_batch_is_each_row_alone_to_the_last_bit() -> None:
    lengths, kv_index = torch.tensor([7, 12, 12, 3]), (0, 0, 0, 1, 1, 1)
    for num_queries in (1, 3):
        q, k, v = draw(4, kv_index, num_queries, 12)
        found = ops.attention(q, k, v, kv_index, None, lengths)
        for row, length in enumerate(lengths.tolist()):
            one = slice(row, row + 1)
            alone = ops.attention(q[one], k[one, :, :length], v[one, :, :length], kv_index)
            assert torch.equal(found[one], alone)


def test_without_the_new_arguments_it_is_torchs_own_attention() -> None:
    q, k, v = draw(2, (0, 0, 1, 1), 5, 5)
    torchs = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    assert torch.equal(ops.attention(q, k, v, (0, 0, 1, 1)), torchs)


def test_where_the_kernels_are_used() -> None:
    """One query a row: always, but beside a window at a position of its own. More: at one run the host knows."""
    kv_index, lengths, run, runs = (0, 0), torch.tensor([9, 5]), torch.arange(3, 6), torch.tensor([0, 1, 8])
    cases = [
        (1, None, lengths, None, "flash_decode"),
        (1, 3, lengths, None, "flash_decode"),
        (1, None, lengths, run[:1], "flash_decode"),
        (1, 3, lengths, lengths[:, None] - 1, "torch"),
        (3, None, None, None, "flash_attention"),
        (3, 2, lengths, run, "flash_attention"),
        (3, 2, None, run, "flash_attention"),
        (3, 2, lengths, None, "torch"),
        (3, None, None, runs, "torch"),
        (3, None, None, run.repeat(2, 1), "torch"),
    ]
    for num_queries, window, filled, q_positions, wanted in cases:
        q, k, v = draw(2, kv_index, num_queries, 9)
        with (
            ops.interpreted(),
            mock.patch.object(dispatch, "flash_attention", wraps=dispatch.flash_attention) as flash,
            mock.patch.object(dispatch, "flash_decode", wraps=dispatch.flash_decode) as decode,
        ):
            ops.attention(q, k, v, kv_index, window, filled, q_positions)
        found = {(1, 0): "flash_attention", (0, 1): "flash_decode", (0, 0): "torch"}
        assert found[flash.call_count, decode.call_count] == wanted


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"lengths": torch.tensor([3])}, r"lengths\(1,\): \[2\] is needed, one for each row of q\(2, 1, 3, 16\)"),
        ({"lengths": torch.tensor([3.0, 3.0])}, "lengths is torch.float32: torch.int64 is needed"),
        ({"lengths": torch.tensor([3, 10])}, r"lengths\[1\]=10: the cache k\(2, 1, 9, 16\) has 0..9"),
        ({"lengths": torch.tensor([-1, 3])}, r"lengths\[0\]=-1"),
        ({"lengths": torch.zeros(2, dtype=torch.int64, device="meta")}, "lengths is on meta, k on cpu"),
        ({"q_positions": torch.arange(4)}, r"q_positions\(4,\): \[3\] or \[2,3\] is needed"),
        ({"q_positions": torch.arange(3).repeat(3, 1)}, r"q_positions\(3, 3\)"),
        ({"q_positions": torch.arange(3).float()}, "q_positions is torch.float32"),
        ({"window": 0, "lengths": torch.tensor([3, 3])}, "window=0: at least 1"),
        ({"window": 0}, "window=0: at least 1"),
    ],
)
def test_refuses(more: dict[str, Any], message: str) -> None:
    q, k, v = draw(2, (0,), 3, 9)
    with pytest.raises(ValueError, match=message):
        ops.attention(q, k, v, (0,), **more)


def test_even_groups() -> None:
    assert even_groups((0, 0, 1, 1), 2) and even_groups((0, 1), 2) and even_groups((0, 0), 1) and even_groups((), 0)
    assert not any(even_groups(kv, 2) for kv in ((0, 1, 1), (1, 0), (0, 0), (0,), (0, 1, 0, 1)))

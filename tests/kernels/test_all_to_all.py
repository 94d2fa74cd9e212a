"""Dispatch and combine on virtual ranks: one in the interpreter, 2, 4 and 8 where there is a GPU; and what they refuse.

Real ranks are in test_communicating_ranks.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab_kernels import all_to_all
from shardlab_kernels.all_to_all import Exchange, combine, dispatch, needed_bytes, received_order
from shardlab_kernels.moe_permute import permute, sort_by_expert
from shardlab_kernels.symmetric_memory import SymmetricMemory
from tests.kernels.support import DEVICE, DTYPES, draw, poison

GPU_SIZES = [pytest.param(size, marks=pytest.mark.gpu) for size in (2, 4, 8)]


def make(size: int, num_experts: int, capacity: int, d: int, dtype: torch.dtype = torch.float32) -> Exchange:
    memory = SymmetricMemory.virtual(size, needed_bytes(size, num_experts, capacity, d, dtype), DEVICE)
    return Exchange(memory, num_experts, capacity, d, dtype)


def choose(*shape: int, num_experts: int, seed: int) -> torch.Tensor:
    return torch.randint(0, num_experts, shape, generator=torch.Generator().manual_seed(seed)).int().to(DEVICE)


def there_and_back(size: int, experts: torch.Tensor, x: torch.Tensor, exchange: Exchange) -> None:
    """experts[n,T,k], x[n,T,D]: what arrives is what was sent, doubled it comes back."""
    num_experts, local = exchange.num_experts, exchange.num_experts // size
    orders = [sort_by_expert(one, num_experts) for one in experts]
    rows = [permute(*both) for both in zip(x, orders, strict=True)]
    offsets, token = (torch.stack([getattr(one, name) for one in orders]) for name in ("offsets", "token"))
    received = dispatch(x, offsets, token, exchange)
    doubled = received.rows * 2
    for rank in range(size):
        wanted = all_to_all.reference_dispatch(rows, list(offsets), rank)
        assert torch.equal(received.counts[rank], offsets.diff()[:, rank * local : (rank + 1) * local])
        assert all(torch.equal(received.rows[rank, s, : len(one)], one) for s, one in enumerate(wanted))
    places = [received_order(counts, exchange.capacity) for counts in received.counts]
    back = combine(doubled, exchange)
    assert all(torch.equal(back[rank], 2 * rows[rank]) for rank in range(size))
    received = dispatch(torch.stack(rows), offsets, None, exchange)
    sorted_rows = torch.stack([permute(received.rows[rank].flatten(0, 1), places[rank]) for rank in range(size)])
    back = combine(sorted_rows, exchange, torch.stack([place.position for place in places]))
    assert all(torch.equal(back[rank], rows[rank]) for rank in range(size))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("t", "k", "d"), [(1, 1, 1), (7, 2, 127), (5, 4, 129), (2, 8, 1000)])
@pytest.mark.parametrize("size", [1, *GPU_SIZES])
def test_there_and_back(size: int, t: int, k: int, d: int, dtype: torch.dtype) -> None:
    exchange = make(size, 8, t * k, d, dtype)
    for seed in range(1 if size == 1 else 10):
        experts = choose(size, t, k, num_experts=8, seed=seed)
        there_and_back(size, experts, draw(size, t, d, dtype=dtype, seed=seed), exchange)


@pytest.mark.parametrize("size", [1, *GPU_SIZES])
def test_one_expert_takes_all(size: int) -> None:
    exchange = make(size, 8, 12, 9000)  # a row of more than one part
    for expert in (0, 7):
        experts = torch.full((size, 2, 3), expert, dtype=torch.int32, device=DEVICE)
        there_and_back(size, experts, draw(size, 2, 9000, dtype=torch.float32, seed=expert), exchange)


def test_fewer_rows_than_capacity_none_and_dropped() -> None:
    exchange = make(1, 4, 20, 8)
    for tokens in (3, 0, 5):
        experts = choose(1, tokens, 2, num_experts=4, seed=tokens)
        there_and_back(1, experts, draw(1, tokens, 8, dtype=torch.float32, seed=tokens), exchange)
    order = sort_by_expert(torch.tensor([[3], [-1], [1]], dtype=torch.int32, device=DEVICE), 4)
    x = draw(1, 3, 8, dtype=torch.float32, seed=0)
    received = dispatch(x, order.offsets[None], order.token[None], exchange)
    assert received.counts.tolist() == [[[0, 1, 0, 1]]]
    back = combine(received.rows, exchange)
    assert back.shape == (1, 3, 8) and torch.equal(back[0, :2], x[0, [2, 0]])


def test_strided_rows() -> None:
    exchange = make(1, 2, 6, 5)
    wide = draw(1, 6, 11, dtype=torch.float32, seed=0)
    offsets = torch.tensor([[0, 2, 6]], dtype=torch.int32, device=DEVICE)
    received = dispatch(wide[..., 3:8], offsets, None, exchange)
    assert torch.equal(received.rows[0, 0], wide[0, :, 3:8])
    outputs = torch.cat([received.rows, received.rows], -1)
    assert torch.equal(combine(outputs[..., :5], exchange)[0], wide[0, :, 3:8])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data(), n=st.integers(1, 5), local=st.integers(1, 5), capacity=st.integers(1, 300))
def test_received_order_sorts_by_expert_then_source(data: st.DataObject, n: int, local: int, capacity: int) -> None:
    most = st.integers(0, capacity // local)
    counts = torch.tensor([[data.draw(most) for _ in range(local)] for _ in range(n)], dtype=torch.int32, device=DEVICE)
    with poison():
        order = received_order(counts, capacity)
    begins = counts.cumsum(1) - counts
    token = [
        source * capacity + int(begins[source, e]) + i
        for e in range(local)
        for source in range(n)
        for i in range(int(counts[source, e]))
    ]
    assert order.offsets.tolist() == [0, *counts.sum(0).cumsum(0).tolist()]
    assert order.token.tolist() == token + [-1] * (n * capacity - len(token))
    places = {place: row for row, place in enumerate(token)}
    assert order.position.flatten().tolist() == [places.get(place, -1) for place in range(n * capacity)]


@pytest.mark.gpu
@pytest.mark.parametrize("size", [2, 4, 8])
def test_a_graph_replays_it(size: int) -> None:
    exchange = make(size, 8, 64, 256)
    experts, x = choose(size, 32, 2, num_experts=8, seed=0), draw(size, 32, 256, dtype=torch.float32, seed=0)

    def layer() -> tuple[torch.Tensor, torch.Tensor]:
        orders = [sort_by_expert(one, 8) for one in experts]
        rows = torch.stack([permute(*both) for both in zip(x, orders, strict=True)])
        offsets, token = (torch.stack([getattr(one, name) for one in orders]) for name in ("offsets", "token"))
        received = dispatch(x, offsets, token, exchange)
        return rows, combine(received.rows * 2, exchange).clone()

    layer()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        rows, back = layer()
    for seed in range(1, 20):
        experts.copy_(choose(size, 32, 2, num_experts=8, seed=seed))
        x.copy_(draw(size, 32, 256, dtype=torch.float32, seed=seed))
        graph.replay()
        assert torch.equal(back, 2 * rows)


def test_bytes() -> None:
    assert all_to_all.moved_bytes(10, 7, torch.bfloat16) == 2 * 10 * 7 * 2
    # header 4 * (3 counts + begin) * 2 sources, rows 2 * 10 * 7, combined 10 * 7: each up to whole lines of 128 bytes
    assert needed_bytes(2, 6, 10, 7, torch.bfloat16) == (128 + 384 + 256) // 2


OFFSETS, TOKEN = torch.tensor([[0, 1, 2]], dtype=torch.int32), torch.tensor([[1, 0]], dtype=torch.int32)
X = torch.zeros(1, 2, 3)


@pytest.mark.parametrize(
    ("x", "offsets", "token", "message"),
    [
        (X.half(), OFFSETS, TOKEN, "x is torch.float16, the exchange was made for torch.float32"),
        (X[..., :2], OFFSETS, TOKEN, r"x\(1, 2, 2\): rows of D=3"),
        (X[0], OFFSETS, TOKEN, r"x\(2, 3\)"),
        (X, OFFSETS.long(), TOKEN, "offsets is torch.int64"),
        (X, OFFSETS[:, 1:], TOKEN, r"offsets\(1, 2\): offsets\(1, 3\) is needed"),
        (X, OFFSETS, TOKEN[0], r"token\(2,\)"),
        (X, OFFSETS, torch.zeros(1, 5, dtype=torch.int32), "5 rows to send, the exchange's capacity is 4"),
        (torch.zeros(1, 3, 2).transpose(1, 2), OFFSETS, TOKEN, "last dim must be contiguous"),
    ],
)
def test_dispatch_refuses(x: torch.Tensor, offsets: torch.Tensor, token: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dispatch(x.to(DEVICE), offsets.to(DEVICE), token.to(DEVICE), make(1, 2, 4, 3))


def test_combine_and_turns_refuse() -> None:
    exchange = make(1, 2, 4, 3)
    x, offsets, token = X.to(DEVICE), OFFSETS.to(DEVICE), TOKEN.to(DEVICE)
    with pytest.raises(ValueError, match="combine before dispatch"):
        combine(torch.zeros(1, 1, 4, 3, device=DEVICE), exchange)
    rows = dispatch(x, offsets, token, exchange).rows
    with pytest.raises(ValueError, match="dispatch after dispatch"):
        dispatch(x, offsets, token, exchange)
    with pytest.raises(ValueError, match=r"y\(1, 1, 3, 3\): y\(1, 1, 4, 3\) is needed"):
        combine(rows[:, :, :3], exchange)
    with pytest.raises(ValueError, match=r"position\(1, 3\): position\(1, 4\) is needed"):
        combine(rows[0], exchange, torch.zeros(1, 3, dtype=torch.int32, device=DEVICE))
    with pytest.raises(ValueError, match="y is torch.float64"):
        combine(rows.double(), exchange)
    assert combine(rows, exchange).shape == (1, 2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make(1, 0, 4, 3), "num_experts=0 must be a multiple of the 1 ranks"),
        (lambda: make(1, 2, 0, 3), "capacity=0"),
        (lambda: make(1, 2, 4, 3, torch.int32), "dtype=torch.int32"),
        (lambda: Exchange(SymmetricMemory.virtual(1, 1, DEVICE), 2, 99999, 99, torch.float32), "bytes, .* are needed"),
        (lambda: received_order(torch.zeros(2, 0, dtype=torch.int32, device=DEVICE), 4), r"counts\(2, 0\)"),
        (lambda: received_order(torch.zeros(2, 1, device=DEVICE), 4), "counts is torch.float32"),
    ],
)
def test_making_refuses(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()

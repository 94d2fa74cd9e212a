"""The all-reduces and the fused norm on virtual ranks: one in the interpreter, 2, 4 and 8 where there is a GPU.

Real ranks are in test_communicating_ranks.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab_kernels import all_reduce, all_reduce_rms_norm, barrier
from shardlab_kernels.symmetric_memory import SLOT_UNIT, SymmetricMemory
from tests.kernels.support import DEVICE, DTYPES, assert_close, draw, poison

SHOTS = [all_reduce.one_shot, all_reduce.two_shot]
GPU_SIZES = [pytest.param(size, marks=pytest.mark.gpu) for size in (2, 4, 8)]


@pytest.mark.parametrize("shot", SHOTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, *GPU_SIZES])
def test_all_reduce(size: int, dtype: torch.dtype, shot: Callable[..., torch.Tensor]) -> None:
    """Changing sizes in a row: the halves take turns, and blocks take part in different calls."""
    memory = SymmetricMemory.virtual(size, 1 << 20, DEVICE)  # two_shot needs a unit a rank in each block's slot
    for number, length in enumerate((1, 4099, 127, 30000, 129, 1000, 0)):
        x = draw(size, length, dtype=dtype, seed=number, fan_in=size)
        before = x.clone()
        out = shot(x, memory)
        assert out.dtype == dtype and out.shape == x.shape and torch.equal(x, before)
        assert_close(out[0], all_reduce.reference(x.double()), dtype)
        assert all(torch.equal(out[0], other) for other in out), "every rank has the same bits"


@settings(max_examples=20, deadline=None, derandomize=True)
@given(shape=st.lists(st.integers(0, 40), min_size=0, max_size=3), dtype=st.sampled_from(DTYPES), two=st.booleans())
def test_any_shape(shape: list[int], dtype: torch.dtype, two: bool) -> None:
    memory = SymmetricMemory.virtual(1, 1 << 18, DEVICE)
    x = draw(1, *shape, dtype=dtype, seed=len(shape))
    with poison():
        assert torch.equal(SHOTS[two](x, memory), x)


def test_strided_input() -> None:
    memory = SymmetricMemory.virtual(1, 1 << 12, DEVICE)
    x = draw(1, 7, 5, dtype=torch.float32, seed=0).transpose(1, 2)
    assert torch.equal(all_reduce.one_shot(x, memory), x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "d"), [(1, 1), (2, 127), (7, 128), (3, 129), (5, 1000), (0, 8)])
@pytest.mark.parametrize("size", [1, *GPU_SIZES])
def test_all_reduce_rms_norm(size: int, rows: int, d: int, dtype: torch.dtype) -> None:
    memory = SymmetricMemory.virtual(size, 1 << 18, DEVICE)
    x = draw(size, rows, d, dtype=dtype, seed=0, fan_in=size)
    residual = draw(1, rows, d, dtype=dtype, seed=1).expand(size, -1, -1)
    weight = draw(d, dtype=dtype, seed=2)
    for _ in range(2):
        normed, total = all_reduce_rms_norm.all_reduce_rms_norm(x, residual, weight, 1e-5, memory)
        wanted = all_reduce_rms_norm.reference(x.double(), residual[0].double(), weight.double(), 1e-5)
        assert normed.dtype == total.dtype == dtype and normed.shape == x.shape
        for rank in range(size):
            assert_close(total[rank], wanted[1], dtype)
            # The norm of what was rounded: a row of one element near zero would else be off by its rounding.
            rounded = all_reduce_rms_norm.rms_norm.reference(total[rank].double(), weight.double(), 1e-5)
            assert_close(normed[rank], rounded, dtype)
        unfused = all_reduce_rms_norm.unfused(x, residual, weight, 1e-5, memory)
        assert torch.equal(total, unfused[1])
        assert_close(normed, unfused[0], dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [2, 4, 8])
def test_a_graph_replays_it(size: int) -> None:
    """An odd number of exchanges a replay, so that the halves of one replay are not those of the next."""
    memory = SymmetricMemory.virtual(size, 1 << 20, DEVICE)
    x = draw(size, 30000, dtype=torch.float32, seed=0)
    for shot in SHOTS:
        shot(x, memory)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        one, two = all_reduce.one_shot(x, memory), all_reduce.two_shot(x, memory)
    for seed in range(1, 30):
        x.copy_(draw(size, 30000, dtype=torch.float32, seed=seed))
        graph.replay()
        wanted = all_reduce.reference(x.double()).expand_as(x)
        assert_close(one, wanted, torch.float32)
        assert torch.equal(one, two)
    barrier.barrier(memory)
    torch.cuda.synchronize()


def test_bytes() -> None:
    assert all_reduce.moved_bytes(80, 4, "one_shot") == 80 * 2 + 4 * 80 + 80
    assert all_reduce.moved_bytes(80, 4, "two_shot") == 80 * 2 + 80 + 20 + 80 + 80
    assert all_reduce.wire_bytes(80, 4, "one_shot") == 240
    assert all_reduce.wire_bytes(80, 4, "two_shot") == 120
    x, weight = torch.empty(3, 8), torch.empty(8)
    assert all_reduce_rms_norm.moved_bytes(x, weight, 4) == 9 * 96 + 32
    for count in (all_reduce.moved_bytes, all_reduce.wire_bytes):
        with pytest.raises(ValueError, match="algorithm='ring'; allowed: one_shot, two_shot"):
            count(1, 2, "ring")


def test_what_does_not_fit_is_an_error_that_says_what_fits() -> None:
    memory = SymmetricMemory.virtual(1, 1, DEVICE, num_blocks=2)
    assert (
        all_reduce.capacity_bytes(memory, "one_shot") == all_reduce.capacity_bytes(memory, "two_shot") == 2 * SLOT_UNIT
    )
    largest = draw(1, 2 * SLOT_UNIT // 4, dtype=torch.float32, seed=0)
    assert torch.equal(all_reduce.one_shot(largest, memory), largest)
    with pytest.raises(
        ValueError, match="message of 16388 bytes is too large for this symmetric memory: 16384 bytes fit"
    ):
        all_reduce.one_shot(torch.zeros(1, 4097, device=DEVICE), memory)
    row = torch.zeros(1, 9, 1000, device=DEVICE)
    with pytest.raises(ValueError, match="9 rows of D=1000 are too large for this symmetric memory: 4 such rows fit"):
        all_reduce_rms_norm.all_reduce_rms_norm(row, row, row[0, 0], 1e-5, memory)


def test_all_reduce_refuses() -> None:
    memory = SymmetricMemory.virtual(1, 1, DEVICE)
    with pytest.raises(ValueError, match="int64"):
        all_reduce.one_shot(torch.zeros(1, 2, dtype=torch.int64, device=DEVICE), memory)
    with pytest.raises(ValueError, match="meta"):
        all_reduce.two_shot(torch.zeros(1, 2, device="meta"), memory)
    with pytest.raises(ValueError, match="dim 0 must be the 1 virtual ranks"):
        all_reduce.two_shot(torch.zeros(2, 2, device=DEVICE), memory)
    taken = SymmetricMemory.virtual(1, 1, DEVICE)
    taken.claim("another")
    with pytest.raises(ValueError, match="all-reduce needs one of its own"):
        all_reduce.one_shot(torch.zeros(1, 2, device=DEVICE), taken)


@pytest.mark.parametrize(
    ("x", "residual", "weight", "message"),
    [
        (torch.zeros(1, 2, 3), torch.zeros(1, 2, 4), torch.zeros(3), r"\(1, 2, 3\) and residual\(1, 2, 4\)"),
        (torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), torch.zeros(4), r"\(1, 2, 3\).*\(4,\)|\(4,\).*\(1, 2, 3\)"),
        (torch.zeros(1, 2, 3), torch.zeros(1, 2, 3).half(), torch.zeros(3), "float16"),
        (torch.zeros(2, 2, 3), torch.zeros(2, 2, 3), torch.zeros(3), "1 virtual ranks"),
        (torch.zeros(1, 1, 9000), torch.zeros(1, 1, 9000), torch.zeros(9000), "D=9000: a row of 1..8192"),
        (torch.zeros(1, 1, 0), torch.zeros(1, 1, 0), torch.zeros(0), "D=0"),
    ],
)
def test_all_reduce_rms_norm_refuses(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, message: str
) -> None:
    memory = SymmetricMemory.virtual(1, 1, DEVICE)
    with pytest.raises(ValueError, match=message):
        all_reduce_rms_norm.all_reduce_rms_norm(x.to(DEVICE), residual.to(DEVICE), weight.to(DEVICE), 1e-5, memory)

"""The grouped product against a loop over experts in fp64; then a whole layer of experts."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
import triton
from hypothesis import given, settings
from hypothesis import strategies as st
from triton.runtime.errors import OutOfResources
from triton.tools.tensor_descriptor import TensorDescriptor

from shardlab_kernels import grouped_matmul as module
from shardlab_kernels.grouped_matmul import CONFIGS, grouped_matmul
from shardlab_kernels.launch import launch
from shardlab_kernels.moe_permute import permute, sort_by_expert, unpermute
from shardlab_kernels.moe_route import route
from tests.kernels.support import DEVICE, DTYPES, assert_close, draw


def bounds(counts: list[int], start: int = 0) -> torch.Tensor:
    return torch.tensor(list(accumulate(counts, initial=start)), dtype=torch.int32, device=DEVICE)


def check(rows: torch.Tensor, w: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    out = grouped_matmul(rows, w, offsets)
    assert out.dtype == rows.dtype and out.shape == (rows.shape[0], w.shape[1])
    assert_close(out, module.reference(rows.double(), w.double(), offsets), rows.dtype)
    return out


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("counts", "f", "d"),
    [
        ([1], 1, 1),
        ([5, 0, 33, 1], 48, 64),  # tuned in half precision
        ([0, 0, 40], 129, 127),
        ([40, 0, 0], 64, 128),
        ([17, 31, 2, 0, 9, 16, 1], 80, 192),
    ],
)
def test_grouped_matmul(counts: list[int], f: int, d: int, dtype: torch.dtype) -> None:
    rows = draw(sum(counts), d, dtype=dtype, seed=0)
    check(rows, draw(len(counts), f, d, dtype=dtype, seed=1, fan_in=d), bounds(counts))


def test_many_experts() -> None:
    experts = torch.arange(128)
    counts = torch.where(experts % 5 == 0, experts % 4, 0).tolist()
    rows = draw(sum(counts), 64, dtype=torch.bfloat16, seed=2)
    check(rows, draw(128, 16, 64, dtype=torch.bfloat16, seed=3, fan_in=64), bounds(counts))


@pytest.mark.parametrize("d", [64, 37])
def test_rows_that_no_expert_owns_are_zero(d: int) -> None:
    rows, w = draw(90, d, dtype=torch.bfloat16, seed=4), draw(3, 32, d, dtype=torch.bfloat16, seed=5, fan_in=d)
    rows[:19] = rows[60:] = float("nan")
    out = grouped_matmul(rows, w, bounds([20, 0, 21], start=19))
    assert not out[:19].any() and not out[60:].any() and out[19:60].isfinite().all()
    check(rows[19:60], w, bounds([20, 0, 21]))
    assert not grouped_matmul(rows, w, bounds([0, 0, 0])).any()
    assert not grouped_matmul(rows, w, bounds([0, 0, 0], start=90)).any()


def test_offsets_beyond_the_rows_are_held_in() -> None:
    rows, w = draw(20, 64, dtype=torch.float32, seed=6), draw(2, 16, 64, dtype=torch.float32, seed=7, fan_in=64)
    wild = torch.tensor([-100, 7, 2**31 - 1], dtype=torch.int32, device=DEVICE)
    assert torch.equal(grouped_matmul(rows, w, wild), grouped_matmul(rows, w, bounds([7, 13])))


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_every_configuration(config: triton.Config) -> None:
    """With bands of 2 row tiles, and experts of more than that."""
    block = config.kwargs["BLOCK_M"]
    counts = [block * 4 + 1, 0, 3]
    m, e, f, d = sum(counts) + 2, len(counts), config.kwargs["BLOCK_F"] * 2 + 16, 64
    rows = draw(m, d, dtype=torch.bfloat16, seed=8)
    w, out = (
        draw(e, f, d, dtype=torch.bfloat16, seed=9, fan_in=d),
        torch.empty(m, f, dtype=torch.bfloat16, device=DEVICE),
    )
    tiles = {
        "x_tiles": TensorDescriptor.from_tensor(rows, [1, 16]),
        "w_tiles": TensorDescriptor.from_tensor(w.flatten(0, 1), [1, 16]),
    }
    assert config.pre_hook is not None
    config.pre_hook(tiles | config.all_kwargs())
    args = *tiles.values(), bounds(counts), out, m, e, f, d, 1
    try:  # three programs, so that each takes several tiles
        launch(module._grouped_tiles_kernel, (3,), *args, GROUPS=8, BAND=2, **config.all_kwargs())
    except OutOfResources as error:
        pytest.skip(f"not on this GPU: {error}")
    assert_close(out, module.reference(rows.double(), w.double(), bounds(counts)), torch.bfloat16)


def test_a_tile_writes_no_row_of_the_next_expert() -> None:
    """One program alone: in the whole grid the next expert's would write over it, in the interpreter's order."""
    rows, w = draw(16, 64, dtype=torch.float32, seed=19), draw(2, 64, 64, dtype=torch.float32, seed=20, fan_in=64)
    out, offsets = torch.full((16, 64), -7.0, device=DEVICE), bounds([5, 11])
    args = rows, w, offsets, out, 16, 2, 64, 64, 64, 64 * 64, 64
    launch(module._grouped_matmul_kernel, (1,), *args, EVEN=True, GROUPS=4, BAND=8, **module.SMALL)
    assert_close(out[:5], module.reference(rows.double(), w.double(), offsets)[:5], torch.float32)
    assert (out[5:] == -7).all()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=40), st.integers(0, 50), st.sampled_from([16, 32, 64, 128]))
def test_the_grid_has_a_program_for_every_tile(counts: list[int], dropped: int, block_m: int) -> None:
    m = max(sum(counts) + dropped, 1)
    tiles = module._num_tiles(m, len(counts), 1, block_m, 64)
    assert sum(-(-count // block_m) for count in (*counts, dropped)) <= tiles <= min(m, m // block_m + len(counts) + 2)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=9),
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from(DTYPES),
)
def test_any_sizes(counts: list[int], f: int, d: int, dtype: torch.dtype) -> None:
    rows = draw(sum(counts), d, dtype=dtype, seed=10)
    check(rows, draw(len(counts), f, d, dtype=dtype, seed=11, fan_in=d), bounds(counts))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_strided_and_empty_inputs(dtype: torch.dtype) -> None:
    wide, w = draw(60, 200, dtype=dtype, seed=12), draw(6, 40, 200, dtype=dtype, seed=13, fan_in=64)
    offsets = bounds([11, 0, 19])
    check(wide[::2, 64:128], w[::2, 8:40, 64:128], offsets)
    check(wide[::2, 3:67], w[::2, 8:40, 3:67], offsets)  # not aligned
    w = w[:3]
    assert grouped_matmul(wide[:0], w, bounds([0, 0, 0])).shape == (0, 40)
    assert grouped_matmul(wide, w[:, :0], offsets).shape == (60, 0)
    assert torch.equal(
        grouped_matmul(wide[:, :0], w[..., :0], offsets), torch.zeros(60, 40, dtype=dtype, device=DEVICE)
    )


@pytest.mark.parametrize(("t", "e", "k"), [(21, 8, 2), (3, 16, 4), (1, 1, 1), (40, 5, 1), (0, 4, 2)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_whole_layer_of_experts(t: int, e: int, k: int, dtype: torch.dtype) -> None:
    """route, sort, permute, gate and up, silu * up, down, unpermute: as a plain loop over tokens' choices in fp64."""
    d, f = 64, 48
    x, logits = draw(t, d, dtype=dtype, seed=14), draw(t, e, dtype=dtype, seed=15)
    gate, up = (draw(e, f, d, dtype=dtype, seed=seed, fan_in=d) for seed in (16, 17))
    down = draw(e, d, f, dtype=dtype, seed=18, fan_in=f)
    weights, experts = route(logits, k)
    order = sort_by_expert(experts, e)
    rows = permute(x, order)
    hidden = torch.nn.functional.silu(grouped_matmul(rows, gate, order.offsets))
    hidden = hidden * grouped_matmul(rows, up, order.offsets)
    out = unpermute(grouped_matmul(hidden, down, order.offsets), order, weights)

    wanted = torch.zeros(t, d, dtype=torch.float64, device=DEVICE)
    values, indices = (kept[:, :k] for kept in logits.double().sort(dim=-1, descending=True, stable=True))
    for expert in range(e):
        token, slot = torch.where(indices == expert)
        one = x[token].double()
        one = torch.nn.functional.silu(one @ gate[expert].double().T) * (one @ up[expert].double().T)
        wanted.index_add_(0, token, one @ down[expert].double().T * values.softmax(-1)[token, slot][:, None])
    assert_close(out, wanted, dtype)


@pytest.mark.parametrize(
    ("rows", "w", "offsets", "message"),
    [
        (torch.zeros(4, 8), torch.zeros(2, 3, 9), torch.zeros(3).int(), r"w\(2, 3, 9\) has D=9, rows\(4, 8\) has D=8"),
        (torch.zeros(4, 8), torch.zeros(3, 8), torch.zeros(3).int(), r"w\(3, 8\).*\[E,F,D\]"),
        (torch.zeros(4, 8), torch.zeros(2, 3, 8), torch.zeros(2).int(), r"offsets\(2,\).*E=2: offsets\[3\] is needed"),
        (
            torch.zeros(4, 8),
            torch.zeros(2, 3, 8).half(),
            torch.zeros(3).int(),
            "rows is torch.float32, w is torch.float16",
        ),
        (torch.zeros(4, 8), torch.zeros(2, 3, 8), torch.zeros(3), "offsets is torch.float32: torch.int32"),
        (torch.zeros(8, 4).T, torch.zeros(2, 3, 8), torch.zeros(3).int(), r"rows\(4, 8\) has strides \(1, 4\)"),
        (torch.zeros(4, 8), torch.zeros(2, 8, 3).mT, torch.zeros(3).int(), r"w\(2, 3, 8\) has strides \(24, 1, 3\)"),
        (torch.zeros(4, 8), torch.zeros(2, 3, 8), torch.zeros(6).int()[::2], r"offsets\(3,\) has strides \(2,\)"),
        (torch.zeros(4, 8), torch.zeros(2, 3, 8, device="meta"), torch.zeros(3).int(), "w on meta"),
        (torch.zeros(4, 8), torch.zeros(0, 3, 8), torch.zeros(1).int(), r"E=0: 1\.\.1024"),
        (torch.zeros(4, 8), torch.zeros(1025, 3, 8), torch.zeros(1026).int(), r"E=1025: 1\.\.1024"),
    ],
)
def test_grouped_matmul_refuses(rows: torch.Tensor, w: torch.Tensor, offsets: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grouped_matmul(there(rows), w if w.is_meta else there(w), there(offsets))


def there(x: torch.Tensor) -> torch.Tensor:
    """On the device, strides and all: `to` would close the gaps."""
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=DEVICE).copy_(x)


def test_bytes_and_flops() -> None:
    rows, w = torch.empty(10, 64, dtype=torch.bfloat16), torch.empty(8, 32, 64, dtype=torch.bfloat16)
    assert module.moved_bytes(rows, w) == (10 * 64 + 8 * 32 * 64 + 10 * 32) * 2
    assert module.moved_bytes(rows, w, experts_used=3) == (10 * 64 + 3 * 32 * 64 + 10 * 32) * 2
    assert module.flops(rows, w) == 2 * 10 * 64 * 32

"""merge: parts of an attention weighed by their log-sum-exp, empty parts and all."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab_kernels import merge
from tests.kernels.support import DEVICE, DTYPES, assert_close, draw

INF = float("inf")


def check(outs: torch.Tensor, lses: torch.Tensor, dtype: torch.dtype | None = None) -> None:
    out, lse = merge.merge(outs, lses, dtype)
    wanted, wanted_lse = merge.reference(outs.double(), lses.double())
    assert out.dtype == (dtype or outs.dtype) and out.shape == outs.shape[1:]
    assert lse.dtype == torch.float32 and lse.shape == lses.shape[1:]
    assert_close(out, wanted, out.dtype)
    assert_close(lse, wanted_lse, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 2, 3, 64), (2, 2, 3, 129, 64), (7, 129, 80), (33, 5, 128), (256, 2, 127), (3, 8)]
)
def test_merge(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check(draw(*shape, dtype=dtype, seed=0), 5 * draw(*shape[:-1], dtype=torch.float32, seed=1))


def test_parts_far_apart_do_not_overflow() -> None:
    lses = torch.tensor([[1000.0, -1000.0, 0.0], [998.0, -1001.0, -500.0]], device=DEVICE)
    check(draw(2, 3, 32, dtype=torch.float32, seed=0), lses)


@pytest.mark.parametrize("num_parts", [2, 130])  # one round, and more
def test_empty_parts_count_nothing_whatever_they_hold(num_parts: int) -> None:
    outs, lses = draw(num_parts, 4, 32, dtype=torch.float32, seed=0), draw(num_parts, 4, dtype=torch.float32, seed=1)
    lses[0, 0], lses[-1, 1], lses[:, 2] = -INF, -INF, -INF
    outs[lses == -INF] = float("nan")
    check(outs, lses)
    out, lse = merge.merge(outs, lses)
    assert (out[2] == 0).all() and lse[2] == -INF


def test_a_merge_of_merges_is_the_merge() -> None:
    outs, lses = draw(5, 7, 48, dtype=torch.float32, seed=0), draw(5, 7, dtype=torch.float32, seed=1)
    first, second = merge.merge(outs[:2], lses[:2]), merge.merge(outs[2:], lses[2:])
    both_outs, both_lses = (torch.stack(pair) for pair in zip(first, second, strict=True))
    out, lse = merge.merge(both_outs, both_lses)
    wanted, wanted_lse = merge.reference(outs.double(), lses.double())
    assert_close(out, wanted, torch.float32)
    assert_close(lse, wanted_lse, torch.float32)


def test_dtype_strides_and_empty() -> None:
    outs = draw(3, 6, 4, 32, dtype=torch.bfloat16, seed=0).transpose(1, 2)
    lses = draw(3, 6, 4, dtype=torch.float32, seed=1).transpose(1, 2)
    check(outs, lses, torch.bfloat16)
    out, _ = merge.merge(outs, lses, torch.float32)
    assert_close(out, merge.reference(outs.double(), lses.double())[0], torch.float32)
    assert merge.merge(outs[:, :0], lses[:, :0])[0].shape == (0, 6, 32)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 20), st.integers(1, 140), st.data())
def test_any_shape(p: int, r: int, h: int, data: st.DataObject) -> None:
    lses = draw(p, r, dtype=torch.float32, seed=p)
    lses[data.draw(st.integers(0, p - 1)), data.draw(st.integers(0, r - 1))] = -INF
    check(draw(p, r, h, dtype=torch.float32, seed=h), lses)


def test_blocks_fill_a_gpu_or_a_tile() -> None:
    assert merge.blocks(33, 32, 128, 132) == (64, 1, 32)  # split-KV decode at batch 1: 128 programs, one round
    p, r, h = merge.blocks(2, 1 << 20, 128, 132)  # ring attention: many rows, whole tiles
    assert p * r * h == merge.TILE and p == 2 and h == 128


def test_moved_bytes() -> None:
    outs, lses = torch.empty(4, 6, 32, dtype=torch.float32), torch.empty(4, 6)
    assert merge.moved_bytes(outs, lses) == (4 * 6 * 32 + 4 * 6 + 6 * 32 + 6) * 4
    assert merge.moved_bytes(outs, lses, torch.bfloat16) == (4 * 6 * 32 + 4 * 6 + 6) * 4 + 6 * 32 * 2


def test_refusals() -> None:
    outs, lses = torch.zeros(2, 3, 8, device=DEVICE), torch.zeros(2, 3, device=DEVICE)
    cases = [
        ((outs, lses[:, :2]), r"outs\(2, 3, 8\), lses\(2, 2\)"),
        ((outs[:0], lses[:0]), "P >= 1"),
        ((outs, lses.half()), "lses is torch.float16"),
        ((outs.int(), lses), "outs is torch.int32"),
        ((outs, lses, torch.int32), "dtype=torch.int32"),
        ((outs, lses.to("meta")), "meta"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            merge.merge(*arguments)

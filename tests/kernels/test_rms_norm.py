"""RMSNorm, with and without the residual's addition, against fp64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab_kernels import rms_norm
from shardlab_kernels.launch import INTERPRETED
from tests.kernels.support import DEVICE, DTYPES, assert_close, draw

EPS = 1e-5


def wanted(x: torch.Tensor, weight: torch.Tensor, eps: float = EPS) -> torch.Tensor:
    return rms_norm.reference(x.double(), weight.double(), eps)


def check_added(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> None:
    normed, total = rms_norm.add_rms_norm(x, residual, weight, EPS)
    assert normed.dtype == total.dtype == x.dtype
    if INTERPRETED and x.dtype == torch.bfloat16:  # Triton's interpreter cuts fp32 to bf16 where a GPU rounds
        assert_close(total, x.double() + residual.double(), x.dtype)
    else:
        assert torch.equal(total, x + residual)
    assert torch.equal(normed, rms_norm.rms_norm(total, weight, EPS))  # the bits of two steps
    assert_close(normed, wanted(total, weight), x.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", (1, 7, 64, 127, 128, 129, 576, 1023, 4099))
def test_rms_norm(d: int, dtype: torch.dtype) -> None:
    x, weight = draw(2, 5, d, dtype=dtype, seed=0), draw(d, dtype=dtype, seed=1)
    out = rms_norm.rms_norm(x, weight, EPS)
    assert out.dtype == dtype and out.shape == x.shape
    assert_close(out, wanted(x, weight), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", (1, 127, 576, 2053))
def test_adding_in_the_same_pass_is_two_steps(d: int, dtype: torch.dtype) -> None:
    x, residual = draw(2, 5, d, dtype=dtype, seed=0), draw(2, 5, d, dtype=dtype, seed=1)
    before = x.clone(), residual.clone()
    check_added(x, residual, draw(d, dtype=dtype, seed=2))
    assert torch.equal(x, before[0]) and torch.equal(residual, before[1])


def test_eps_counts_where_the_row_is_small() -> None:
    x, weight = draw(4, 64, dtype=torch.float32, seed=0) * 1e-3, draw(64, dtype=torch.float32, seed=1)
    assert_close(rms_norm.rms_norm(x, weight, 1e-2), wanted(x, weight, 1e-2), torch.float32)


def test_a_row_of_zeros_gives_zeros() -> None:
    x, weight = torch.zeros(3, 65, device=DEVICE), draw(65, dtype=torch.float32, seed=1)
    assert torch.equal(rms_norm.rms_norm(x, weight, EPS), x)


def test_heads_seen_transposed_are_read_as_they_lie() -> None:
    x, weight = draw(2, 7, 3, 64, dtype=torch.bfloat16, seed=0).transpose(1, 2), draw(64, dtype=torch.bfloat16, seed=1)
    out = rms_norm.rms_norm(x, weight, EPS)
    assert out.stride() == x.stride()  # no copy was made
    assert_close(out, wanted(x, weight), torch.bfloat16)
    normed, total = rms_norm.add_rms_norm(x, x, weight, EPS)
    assert normed.stride() == total.stride() == x.stride()
    assert_close(normed, wanted(total, weight), torch.bfloat16)


@pytest.mark.parametrize("case", ("columns", "gaps", "expanded"))
def test_other_strides(case: str) -> None:
    wide = draw(6, 40, dtype=torch.float32, seed=0)
    x = {"columns": wide.T, "gaps": wide[:, 4:28], "expanded": wide[:1].expand(6, 40)}[case]
    residual, weight = draw(*x.shape, dtype=torch.float32, seed=1), draw(80, dtype=torch.float32, seed=2)[::2]
    weight = weight[: x.shape[-1]]
    assert_close(rms_norm.rms_norm(x, weight, EPS), wanted(x, weight), torch.float32)
    check_added(x, residual, weight)


def test_no_rows_give_no_rows() -> None:
    x, weight = torch.empty(2, 0, 8, device=DEVICE), torch.ones(8, device=DEVICE)
    assert rms_norm.rms_norm(x, weight, EPS).shape == (2, 0, 8)
    assert [out.shape for out in rms_norm.add_rms_norm(x, x, weight, EPS)] == [(2, 0, 8)] * 2


@settings(max_examples=20, deadline=None, derandomize=True)
@given(rows=st.integers(1, 40), d=st.integers(1, 300), seed=st.integers(0, 99), dtype=st.sampled_from(DTYPES))
def test_any_size(rows: int, d: int, seed: int, dtype: torch.dtype) -> None:
    x, residual = draw(rows, d, dtype=dtype, seed=seed), draw(rows, d, dtype=dtype, seed=seed + 1)
    check_added(x, residual, draw(d, dtype=dtype, seed=seed + 2))


def test_bytes_are_those_of_one_pass() -> None:
    x, weight = torch.empty(4, 10), torch.empty(10)
    assert rms_norm.moved_bytes(x, weight) == (40 + 40 + 10) * 4
    assert rms_norm.add_moved_bytes(x, weight) == (4 * 40 + 10) * 4


@pytest.mark.parametrize(
    ("x", "weight", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(4), r"weight\(4,\) has D=4, x\(2, 3\) has D=3"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.bfloat16), "weight is torch.bfloat16"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), "x is torch.int64.*floating-point"),
        (torch.zeros(2, 3), torch.zeros(3, device="meta"), "weight on meta"),
        (torch.zeros(2, 0), torch.zeros(0), "D=0"),
        (torch.zeros(1, 65537), torch.zeros(65537), "D=65537"),
    ],
)
def test_refuses(x: torch.Tensor, weight: torch.Tensor, message: str) -> None:
    if weight.device.type != "meta":
        x, weight = x.to(DEVICE), weight.to(DEVICE)
    with pytest.raises(ValueError, match=message):
        rms_norm.rms_norm(x, weight, EPS)
    with pytest.raises(ValueError, match=message):
        rms_norm.add_rms_norm(x, x, weight, EPS)


@pytest.mark.parametrize(
    ("residual", "message"),
    [
        (torch.zeros(2, 4), r"x\(2, 3\) and residual\(2, 4\)"),
        (torch.zeros(2, 3, dtype=torch.float16), "residual is torch.float16"),
        (torch.zeros(2, 3, device="meta"), "residual on meta"),
    ],
)
def test_refuses_a_residual(residual: torch.Tensor, message: str) -> None:
    x, weight = torch.zeros(2, 3, device=DEVICE), torch.zeros(3, device=DEVICE)
    residual = residual if residual.device.type == "meta" else residual.to(DEVICE)
    with pytest.raises(ValueError, match=message):
        rms_norm.add_rms_norm(x, residual, weight, EPS)

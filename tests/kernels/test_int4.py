"""Four-bit weights: what rounding costs, where the nibbles lie, and views of rows and columns."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab_kernels import int4
from shardlab_kernels.int4 import Int4Weight, dequantize, quantize
from tests.kernels.support import DEVICE, DTYPES, draw

CASES = [(32, True), (32, False), (128, True), (128, False)]


def assert_within_bound(w: torch.Tensor, weight: Int4Weight) -> None:
    """quantize's own promise, element by element."""
    error = (w.double() - dequantize(weight, torch.float64)).abs().unflatten(1, (-1, weight.group))
    scale = weight.scale.double()
    minimum = 8 * scale if weight.minimum is None else weight.minimum.double().abs()
    allowed = scale / 2 + (minimum + 15 * scale) * 2**-11 + 2**-21
    assert (error <= allowed[..., None]).all(), (error / allowed[..., None]).max()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("group", "minimum"), CASES)
def test_rounding_costs_half_a_scale_at_most(group: int, minimum: bool, dtype: torch.dtype) -> None:
    w = draw(17, 3 * group, dtype=dtype, seed=0)
    weight = quantize(w, group, minimum)
    assert weight.shape == (17, 3 * group) and weight.packed.numel() == w.numel() // 2
    assert_within_bound(w, weight)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 5),
    groups=st.integers(1, 4),
    case=st.sampled_from(CASES),
    size=st.sampled_from([1e-7, 1e-3, 1.0, 3e4]),
    shift=st.floats(-1, 1),
    seed=st.integers(0, 99),
)
def test_rounding_of_any_size(
    n: int, groups: int, case: tuple[int, bool], size: float, shift: float, seed: int
) -> None:
    uniform = torch.rand(n, groups * case[0], generator=torch.Generator().manual_seed(seed))
    w = ((uniform * 2 - 1 + shift) * size).to(DEVICE)
    assert_within_bound(w, quantize(w, *case))


@pytest.mark.parametrize(("group", "minimum"), CASES)
def test_groups_that_hold_one_value(group: int, minimum: bool) -> None:
    w = torch.cat((torch.zeros(1, group), torch.full((1, group), 0.5), torch.full((1, group), -3.0))).to(DEVICE)
    found = dequantize(quantize(w, group, minimum), torch.float32)
    assert torch.equal(found[0], w[0])
    torch.testing.assert_close(found, w, atol=0, rtol=1e-3)


def test_nibbles_lie_as_in_q4_1() -> None:
    """Byte j of a run: weight j low, weight j + 16 high."""
    w = torch.zeros(1, 64)
    w[0, :16], w[0, 16:32], w[0, 32:] = -8.0, 7.0, 7.0
    weight = quantize(w.to(DEVICE), 32)
    assert (weight.packed[0, 0] == 0xF0).all() and (weight.packed[0, 1] == 0xFF).all()
    assert torch.equal(dequantize(weight, torch.float32).cpu(), w)


@pytest.mark.parametrize(("group", "minimum"), CASES)
def test_rows_and_columns_are_views(group: int, minimum: bool) -> None:
    weight = quantize(draw(7, 4 * group, dtype=torch.float32, seed=0), group, minimum)
    full = dequantize(weight, torch.float32)
    assert torch.equal(dequantize(weight.rows(2, 5), torch.float32), full[2:5])
    assert torch.equal(dequantize(weight.columns(group, 3 * group), torch.float32), full[:, group : 3 * group])
    both = weight.rows(1, 7).columns(2 * group, 4 * group)
    assert torch.equal(dequantize(both, torch.float32), full[1:7, 2 * group :]) and both.shape == (6, 2 * group)
    assert both.packed.untyped_storage().data_ptr() == weight.packed.untyped_storage().data_ptr()
    assert weight.rows(3, 3).shape == (0, 4 * group)


def test_dequantized_is_calculated_in_fp32_and_rounded_once() -> None:
    weight = quantize(draw(5, 64, dtype=torch.float32, seed=0), 32, minimum=True)
    wide = dequantize(weight, torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(dequantize(weight, dtype), wide.to(dtype))
    torch.testing.assert_close(dequantize(weight, torch.float64).float(), wide, atol=1e-7, rtol=1e-6)


def test_bytes_and_flops() -> None:
    w = draw(8, 256, dtype=torch.float32, seed=0)
    bits = {(32, True): 5.0, (32, False): 4.5, (128, True): 4.25, (128, False): 4.125}
    for (group, minimum), wanted in bits.items():
        weight = quantize(w, group, minimum)
        assert int4.bits_per_weight(weight) == wanted
        assert int4.packed_bytes(weight) == wanted * w.numel() / 8
        assert int4.packed_bytes(weight.columns(0, 128)) == wanted * w.numel() / 16
    x = draw(2, 3, 256, dtype=torch.bfloat16, seed=1)
    weight = quantize(w, 128)
    assert int4.moved_bytes(x, weight) == int4.packed_bytes(weight) + 2 * 6 * 256 + 2 * 6 * 8
    assert int4.flops(x, weight) == 2 * 6 * 8 * 256


def test_the_alignment_is_that_of_every_run() -> None:
    weight = quantize(draw(4, 64, dtype=torch.float32, seed=0), 32)
    assert weight.alignment == 16 and weight.rows(1, 3).columns(32, 64).alignment == 16
    assert int4.from_q4_1(torch.zeros(4, 40, dtype=torch.uint8), 64).alignment == 4


ONES = torch.ones(2, 64)


@pytest.mark.parametrize(
    ("w", "group", "message"),
    [
        (ONES, 64, "group=64: supported: 32, 128"),
        (torch.ones(2, 48), 32, r"w\(2, 48\).*multiple of the group, 32"),
        (torch.ones(2, 0), 32, r"w\(2, 0\)"),
        (torch.ones(64), 32, r"w\(64,\)"),
        (torch.ones(2, 64, dtype=torch.int32), 32, "w is torch.int32"),
        (ONES * 1e7, 32, "beyond fp16's range"),
        (ONES * torch.nan, 32, "not finite"),
    ],
)
def test_what_quantize_refuses(w: torch.Tensor, group: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize(w.to(DEVICE), group)


def test_cuts_inside_a_group_name_those_that_work() -> None:
    weight = quantize(torch.ones(4, 256), 128)
    with pytest.raises(ValueError, match="start=96 cuts a group of 128 columns; 0 and 128 work"):
        weight.columns(96, 256)
    with pytest.raises(ValueError, match="stop=144 .* 128 and 256 work"):
        weight.columns(0, 144)
    with pytest.raises(ValueError, match="columns 128..384.*K=256"):
        weight.columns(128, 384)
    with pytest.raises(ValueError, match="columns 128..128"):
        weight.columns(128, 128)
    with pytest.raises(ValueError, match="rows 2..5.*N=4"):
        weight.rows(2, 5)


def test_what_a_weight_refuses() -> None:
    half = torch.float16
    packed, scale = torch.zeros(4, 2, 16, dtype=torch.uint8), torch.zeros(4, 2, dtype=half)
    with pytest.raises(ValueError, match=r"packed\(4, 2, 8\)"):
        Int4Weight(packed[..., :8], scale, None, 32)
    with pytest.raises(ValueError, match=r"packed\(4, 2, 16\) torch.int8"):
        Int4Weight(packed.view(torch.int8), scale, None, 32)
    with pytest.raises(ValueError, match="packed has strides.*multiple of 4"):
        Int4Weight(torch.zeros(4 * 2 * 18, dtype=torch.uint8).view(4, 2, 18)[..., 2:], scale, None, 32)
    with pytest.raises(ValueError, match=r"scale\(4, 1\).*float16\(4, 2\).*each 32 of 64 columns"):
        Int4Weight(packed, scale[:, :1], None, 32)
    with pytest.raises(ValueError, match=r"minimum\(4, 2\) torch.float32"):
        Int4Weight(packed, scale, scale.float(), 32)
    with pytest.raises(ValueError, match="minimum has strides"):
        Int4Weight(packed, scale, torch.zeros(2, 4, dtype=half).T, 32)
    with pytest.raises(ValueError, match="K=64: a multiple of the group, 128"):
        Int4Weight(packed, scale[:, :0], None, 128)

"""flash_attention against the written-out softmax in fp64: masks, offsets, groups, strides, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab_kernels import flash_attention as module
from shardlab_kernels.flash_attention import flash_attention, reference
from shardlab_kernels.heads import HeadMap
from shardlab_kernels.merge import merge
from tests.kernels.support import DEVICE, DTYPES, assert_close, draw

INF = float("inf")
FP32 = torch.float32


def inputs(
    b: int, n: int, kv: int, s: int, c: int, h: int, dtype: torch.dtype = FP32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    shapes = ((b, n, s, h), (b, kv, c, h), (b, kv, c, h))
    q, k, v = (draw(*shape, dtype=dtype, seed=seed) for seed, shape in enumerate(shapes))
    return q, k, v


def check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: HeadMap | None = None, **options: Any) -> None:
    out, lse = flash_attention(q, k, v, heads, **options)
    wanted, wanted_lse = reference(q.double(), k.double(), v.double(), heads, **options)
    assert out.dtype == q.dtype and out.shape == q.shape and lse.dtype == FP32 and lse.shape == q.shape[:3]
    assert_close(out, wanted, q.dtype)
    assert_close(lse, wanted_lse, FP32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("causal", [True, False])
def test_dtypes(causal: bool, dtype: torch.dtype) -> None:
    check(*inputs(2, 2, 1, 129, 129, 64, dtype), causal=causal)


@pytest.mark.parametrize("c", [1, 127, 128, 129])
@pytest.mark.parametrize("s", [1, 127, 128, 129])
def test_sizes(s: int, c: int) -> None:
    check(*inputs(2, 1, 1, s, c, 32))


@pytest.mark.parametrize("h", [16, 24, 64, 80, 96, 128, 200, 256])
def test_head_dims(h: int) -> None:
    check(*inputs(2, 2, 1, 37, 67, h))


def test_reference_is_torch_attention() -> None:
    q, k, v = inputs(2, 4, 2, 33, 33, 32)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(reference(q, k, v)[0], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("index", [(0, 0, 1), (0, 1, 1, 1), (1, 1, 2)])
def test_uneven_groups(index: tuple[int, ...]) -> None:
    heads = HeadMap.of(index, 3, torch.device(DEVICE))
    check(*inputs(2, len(index), 3, 17, 70, 32), heads)


@pytest.mark.parametrize("offset", [-300, -70, 0, 31, 10**12])
@pytest.mark.parametrize("window", [None, 1, 40])
def test_offsets_and_windows(window: int | None, offset: int) -> None:
    check(*inputs(1, 1, 1, 129, 130, 32), query_offset=offset, window=window)


def test_window_without_causal_hides_only_the_past() -> None:
    for window in (1, 50, 1000, 10**12):
        check(*inputs(1, 1, 1, 129, 200, 32), causal=False, window=window)


def test_rows_that_see_nothing_are_zero() -> None:
    q, k, v = inputs(1, 1, 1, 129, 64, 32)
    out, lse = flash_attention(q, k, v, query_offset=-100)
    assert (out[:, :, :100] == 0).all() and (lse[:, :, :100] == -INF).all() and (lse[:, :, 100:] > -INF).all()
    out, lse = flash_attention(q, k[:, :, :0], v[:, :, :0])
    assert (out == 0).all() and (lse == -INF).all()


@pytest.mark.parametrize("window", [None, 30])
def test_chunked_prefill_is_the_whole_prefill(window: int | None) -> None:
    q, k, v = inputs(2, 2, 1, 150, 150, 32)
    wanted, wanted_lse = flash_attention(q, k, v, window=window)
    for start, end in ((0, 1), (1, 70), (70, 150)):
        # What lies in the cache beyond the chunk is not yet written.
        lengths = torch.full((2,), end, dtype=torch.int32, device=DEVICE)
        chunk = q[:, :, start:end]
        dirty_k, dirty_v = k.clone(), v.clone()
        dirty_k[:, :, end:], dirty_v[:, :, end:] = float("nan"), float("nan")
        out, lse = flash_attention(chunk, dirty_k, dirty_v, query_offset=start, window=window, kv_lengths=lengths)
        assert_close(out, wanted[:, :, start:end], FP32)
        assert_close(lse, wanted_lse[:, :, start:end], FP32)


@pytest.mark.parametrize("window", [None, 45])
@pytest.mark.parametrize("num_parts", [2, 3])
def test_ring_parts_merge_to_the_whole(num_parts: int, window: int | None) -> None:
    q, k, v = inputs(2, 2, 1, 131, 131, 32)
    wanted, wanted_lse = reference(q.double(), k.double(), v.double(), window=window)
    parts, start = [], 0
    for k_part, v_part in zip(k.chunk(num_parts, 2), v.chunk(num_parts, 2), strict=True):
        parts.append(flash_attention(q, k_part, v_part, query_offset=-start, window=window))
        start += k_part.shape[2]
    outs, lses = (torch.stack(part) for part in zip(*parts, strict=True))
    out, lse = merge(outs, lses)
    assert_close(out, wanted, FP32)
    assert_close(lse, wanted_lse, FP32)


@pytest.mark.parametrize("causal", [True, False])
def test_keys_beyond_kv_lengths_are_never_read(causal: bool) -> None:
    q, k, v = inputs(4, 2, 1, 65, 150, 32)
    lengths = torch.tensor([0, 1, 149, 1000], dtype=torch.int32, device=DEVICE)
    clean_k, clean_v = k.double(), v.double()
    for b, length in enumerate(lengths.tolist()):
        k[b, :, length:], v[b, :, length:] = float("nan"), float("nan")
    out, lse = flash_attention(q, k, v, causal=causal, kv_lengths=lengths)
    found = reference(q.double(), clean_k, clean_v, causal=causal, kv_lengths=lengths)
    assert_close(out, found[0], FP32)
    assert_close(lse, found[1], FP32)


def test_strided_inputs_and_an_output_for_the_projection() -> None:
    q, k, v = (draw(2, 40, 3, 48, dtype=FP32, seed=seed).transpose(1, 2) for seed in range(3))
    check(q, k, v)
    assert flash_attention(q, k, v)[0].transpose(1, 2).is_contiguous()
    q, k, v = draw(2, 3, 40, 3, 32, dtype=FP32, seed=3).unbind(3)
    check(q, k, v)  # rows of a fused projection


def test_scale_and_large_scores() -> None:
    q, k, v = inputs(1, 2, 1, 40, 40, 32)
    check(q, k, v, scale=0.3)
    out, lse = flash_attention(30 * q, 30 * k, v)  # exp of scores near 1000 overflows without the running maximum
    wanted, wanted_lse = reference(30 * q.double(), 30 * k.double(), v.double())
    torch.testing.assert_close(out.double(), wanted, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(lse.double(), wanted_lse, atol=1e-3, rtol=1e-5)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    s=st.integers(1, 140),
    c=st.integers(1, 140),
    h=st.sampled_from([16, 40, 64]),
    causal=st.booleans(),
    offset=st.none() | st.integers(-150, 150),
    window=st.none() | st.integers(1, 150),
    length=st.none() | st.integers(0, 140),
)
def test_any_mask(
    s: int, c: int, h: int, causal: bool, offset: int | None, window: int | None, length: int | None
) -> None:
    lengths = None if length is None else torch.tensor([length], dtype=torch.int32, device=DEVICE)
    check(*inputs(1, 1, 1, s, c, h), causal=causal, query_offset=offset, window=window, kv_lengths=lengths)


def test_empty() -> None:
    q, k, v = inputs(2, 2, 1, 5, 7, 32)
    assert flash_attention(q[:0], k[:0], v[:0])[0].shape == (0, 2, 5, 32)
    assert flash_attention(q[:, :, :0], k, v)[1].shape == (2, 2, 0)


@pytest.mark.parametrize("window", [None, 1, 3, 100])
@pytest.mark.parametrize("offset", [None, -9, -3, 0, 2, 50])
@pytest.mark.parametrize("causal", [True, False])
def test_flops_count_every_visible_pair(causal: bool, offset: int | None, window: int | None) -> None:
    s, c = 7, 5
    first, last = module.limits(s, c, causal, offset, window)
    pairs = sum(i + first <= j <= i + last for i in range(s) for j in range(c))
    assert module.visible_pairs(s, c, causal=causal, query_offset=offset, window=window) == pairs
    q, k = torch.empty(2, 6, s, 16), torch.empty(2, 3, c, 16)
    assert module.flops(q, k, causal=causal, query_offset=offset, window=window) == 4 * 16 * 2 * 6 * pairs


def test_moved_bytes() -> None:
    q, k = torch.empty(2, 6, 7, 16, dtype=torch.bfloat16), torch.empty(2, 3, 5, 16, dtype=torch.bfloat16)
    assert module.moved_bytes(q, k, k) == 2 * (2 * q.numel() + 2 * k.numel()) + 4 * 2 * 6 * 7


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"k": torch.zeros(2, 2, 9, 16)}, r"v\(2, 2, 8, 16\) has C=8.*k\(2, 2, 9, 16\)"),
    ({"q": torch.zeros(2, 4, 8)}, r"q\[B,N,S,H\]"),
    ({"q": torch.zeros(2, 3, 8, 16)}, "N=3 query heads do not divide over K=2"),
    ({"q": torch.zeros(2, 4, 8, 16).half()}, "q is torch.float16, k is torch.float32"),
    ({"q": torch.zeros(2, 4, 16, 8).mT}, "last dim must be contiguous"),
    ({name: torch.zeros(2, 2, 8, 20) for name in "qkv"}, "H=20"),
    ({name: torch.zeros(2, 2, 8, 264) for name in "qkv"}, "H=264"),
    ({"window": 0}, "window=0"),
    ({"scale": 0.0}, "scale=0.0"),
    ({"scale": -INF}, "scale=-inf"),
    ({"kv_lengths": torch.zeros(2)}, "kv_lengths is torch.float32"),
    ({"kv_lengths": torch.zeros(3, dtype=torch.int32)}, r"kv_lengths\(3,\) has B=3"),
    ({"heads": HeadMap.of((0, 0, 1), 2, torch.device(DEVICE))}, r"kv_index\(3,\)"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_refusals(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"q": torch.zeros(2, 4, 8, 16), "k": torch.zeros(2, 2, 8, 16), "v": torch.zeros(2, 2, 8, 16)}
    given_: dict[str, Any] = {
        name: x.to(DEVICE) if isinstance(x, torch.Tensor) else x for name, x in (good | change).items()
    }
    with pytest.raises(ValueError, match=message):
        flash_attention(**given_)


def test_refuses_a_device_that_runs_no_kernels() -> None:
    q = torch.zeros(2, 2, 8, 16)
    with pytest.raises(ValueError, match="meta"):
        flash_attention(q.to(DEVICE), q.to("meta"), q.to("meta"))

"""Attention over a prompt, over a cache, and the merge of partial results: goals G1, G3 and G4."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from shardlab_kernels import flash_attention, flash_decode, merge
from shardlab_kernels.bench.case import COMPILED, EAGER, Call, Case, Place, Problem, compiled, shape
from shardlab_kernels.bench.goal import Bar, Goal

CUDNN, FLASH = "SDPA cuDNN", "SDPA flash"
H = 128
TOKENS = 16384  # B * S of a prefill
CHECKED = 128  # query rows at either end that the reference does: all its scores would not fit

G1 = Goal("G1", Bar(flops_per_s=420e12, times={CUDNN: 0.75}), Bar(flops_per_s=600e12, times={CUDNN: 1.0}))
LOOP = "SDPA flash, a call a sequence"
G3 = Goal("G3", Bar(of_copy=0.80, times={LOOP: 1.5}), Bar(of_copy=0.92, times={LOOP: 3.0}))
UNSPLIT = "ours, num_splits=1"
G4_SPLIT = Goal("G4", Bar(times={UNSPLIT: 8.0}), Bar(times={UNSPLIT: 20.0}))
G4_MERGE = Goal("G4", Bar(at_most_s=5e-6), Bar(at_most_s=3e-6))


def cases() -> Iterator[Case]:
    for s in (4096, 8192, 16384):
        yield Case("flash_attention", f"causal_d128_s{s // 1024}k", partial(prefill, seq=s), G1)
    yield Case("flash_decode", "gqa_b32_kv4k", partial(decode, batch=32, cached=4096), G3)
    yield Case("flash_decode", "gqa_b1_kv128k", partial(decode, batch=1, cached=131072), G4_SPLIT)
    yield Case("flash_decode", "gqa_b32_kv4k_pages64", paged_decode)
    yield Case("merge", "decode_p8", merge_decode, G4_MERGE)


def prefill(place: Place, *, seq: int) -> Problem:
    """16 heads of 128 and B * S = 16K tokens, causal: the shape of FlashAttention's own tables."""
    s = place.size(seq, 160)
    b, n, h = place.size(TOKENS // seq, 1), place.size(16, 2), place.size(H, 16)
    rows = place.size(CHECKED, 16)

    def draw(number: int) -> tuple[torch.Tensor, ...]:
        return tuple(place.randn(b, n, s, h, seed=3 * number + i) for i in range(3))

    def ends(result: torch.Tensor) -> torch.Tensor:
        return torch.cat([result[:, :, :rows], result[:, :, -rows:]], 2)

    def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q, k, v = q.double(), k.double(), v.double()
        first = flash_attention.reference(q[:, :, :rows], k[:, :, :rows], v[:, :, :rows])
        last = flash_attention.reference(q[:, :, -rows:], k, v)
        return tuple(torch.cat(pair, 2) for pair in zip(first, last, strict=True))

    q = shape(b, n, s, h)
    return Problem(
        draw=draw,
        ours=flash_attention.flash_attention,
        reference=reference,
        part=ends,
        rivals={
            CUDNN: sdpa(SDPBackend.CUDNN_ATTENTION, is_causal=True),
            FLASH: sdpa(SDPBackend.FLASH_ATTENTION, is_causal=True),
        },
        moved_bytes=flash_attention.moved_bytes(q, q, q),
        flops=flash_attention.flops(q, q),
    )


def decode(place: Place, *, batch: int, cached: int) -> Problem:
    """One new token a sequence over a full cache of 537 MB: 32 query heads, 8 KV heads of 128, as Llama 3 8B."""
    b, c = place.size(batch, min(batch, 2)), place.size(cached, 150)
    n, kv, h = place.size(32, 4), place.size(8, 2), place.size(H, 16)

    def draw(number: int) -> tuple[torch.Tensor, ...]:
        q = place.randn(b, n, h, seed=3 * number)
        k, v = (place.randn(b, kv, c, h, seed=3 * number + i) for i in (1, 2))
        return q, k, v, torch.full((b,), c, dtype=torch.int32, device=place.device)

    def unsplit(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return flash_decode.flash_decode(q, k, v, lengths, num_splits=1)

    rivals: dict[str, Call] = {
        FLASH: _one_query(sdpa(SDPBackend.FLASH_ATTENTION, enable_gqa=True)),
        CUDNN: _one_query(sdpa(SDPBackend.CUDNN_ATTENTION, enable_gqa=True)),
    }
    if batch == 1:
        rivals[UNSPLIT] = unsplit
    else:
        rivals[LOOP] = _a_call_a_sequence(sdpa(SDPBackend.FLASH_ATTENTION, enable_gqa=True))
    return Problem(
        draw=draw,
        ours=flash_decode.flash_decode,
        reference=decode_reference,
        rivals=rivals,
        moved_bytes=flash_decode.moved_bytes(shape(b, n, h), shape(b, kv, c, h), [c] * b),
        flops=flash_decode.flops([c] * b, n, h),
    )


def paged_decode(place: Place) -> Problem:
    """The same cache in pages of 64 positions that lie anywhere: what paging costs. No rival in torch reads pages."""
    b, pages, page = place.size(32, 2), place.size(64, 3), place.size(64, 32)
    n, kv, h = place.size(32, 4), place.size(8, 2), place.size(H, 16)
    c = pages * page

    def draw(number: int) -> tuple[torch.Tensor, ...]:
        q = place.randn(b, n, h, seed=3 * number)
        k, v = (place.randn(b * pages, kv, page, h, seed=3 * number + i) for i in (1, 2))
        generator = torch.Generator(place.device).manual_seed(number)
        table = torch.randperm(b * pages, generator=generator, device=place.device).int().view(b, pages)
        return q, k, v, torch.full((b,), c, dtype=torch.int32, device=place.device), table

    def ours(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor, table: torch.Tensor):
        return flash_decode.flash_decode(q, k, v, lengths, block_table=table)

    def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor, table: torch.Tensor):
        k, v = (x[table.long()].transpose(1, 2).reshape(b, kv, c, h) for x in (k, v))
        return decode_reference(q, k, v, lengths)

    return Problem(
        draw=draw,
        ours=ours,
        reference=reference,
        rivals={},
        moved_bytes=flash_decode.moved_bytes(shape(b, n, h), shape(b * pages, kv, page, h), [c] * b),
        flops=flash_decode.flops([c] * b, n, h),
    )


def merge_decode(place: Place) -> Problem:
    """Partial results of 8 ranks for one token of 32 heads: a few KB, so what is timed is a kernel's start and end."""
    p, b, n, h = 8, 1, place.size(32, 4), place.size(H, 16)

    def draw(number: int) -> tuple[torch.Tensor, ...]:
        outs = place.randn(p, b, n, h, seed=2 * number)
        return outs, place.randn(p, b, n, seed=2 * number + 1, dtype=torch.float32)

    return Problem(
        draw=draw,
        ours=merge.merge,
        reference=lambda outs, lses: merge.reference(outs.double(), lses.double()),
        rivals={EAGER: merge.reference, COMPILED: compiled(merge.reference, place)},
        moved_bytes=merge.moved_bytes(shape(p, b, n, h), shape(p, b, n, dtype=torch.float32)),
    )


def decode_reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """q[B,N,H], full caches k, v[B,K,C,H] -> (out, lse) in fp64, a sequence at a time: all of it would take 5 GB."""
    found = [
        flash_attention.reference(q[i : i + 1, :, None].double(), k[i : i + 1].double(), v[i : i + 1].double())
        for i in range(len(lengths))
    ]
    out, lse = (torch.cat(parts)[:, :, 0] for parts in zip(*found, strict=True))
    return out, lse


def sdpa(backend: SDPBackend, *, is_causal: bool = False, enable_gqa: bool = False) -> Call:
    """torch's attention with one backend and no other. It raises where this GPU or torch lacks that backend."""

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v, is_causal=is_causal, enable_gqa=enable_gqa)

    return call


def _one_query(attention: Call) -> Call:
    """All sequences in one call: possible here because all are of one length."""
    return lambda q, k, v, lengths: attention(q[:, :, None], k, v)[:, :, 0]


def _a_call_a_sequence(attention: Call) -> Call:
    """What sequences of different lengths leave torch to do."""

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        found = [attention(q[i : i + 1, :, None], k[i : i + 1], v[i : i + 1]) for i in range(len(lengths))]
        return torch.cat(found)[:, :, 0]

    return call

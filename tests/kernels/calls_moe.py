"""Sample calls of the kernels for a mixture of experts, for the compiler: nothing runs, results mean nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from shardlab_kernels.grouped_matmul import grouped_matmul
from shardlab_kernels.moe_permute import Order, permute, sort_by_expert, unpermute
from shardlab_kernels.moe_route import route


def calls() -> Iterator[tuple[str, Callable[[], object]]]:
    """Qwen3-30B-A3B (E 128, k 8, D 2048, F 768), Mixtral's E 8 and k 2, and a width that no block divides."""
    for t, e, k, dtype in ((4096, 128, 8, torch.bfloat16), (7, 8, 2, torch.float32), (4096, 512, 16, torch.bfloat16)):
        logits = torch.empty(t, e, dtype=dtype)
        yield f"route[{t},{e}] k={k} {dtype}", lambda logits=logits, k=k: route(logits, k)
    for t, e, k in ((4096, 128, 8), (32, 8, 2), (4096, 1024, 8)):
        experts = torch.empty(t, k, dtype=torch.int32)
        yield f"sort_by_expert[{t},{k}] E={e}", lambda experts=experts, e=e: sort_by_expert(experts, e)
    for t, k, d, dtype in ((512, 8, 2048, torch.bfloat16), (512, 8, 577, torch.float16), (16, 2, 4096, torch.float32)):
        order = _order(t, k, 8)
        x, rows = torch.empty(t, d, dtype=dtype), torch.empty(t * k, d, dtype=dtype)
        weights = torch.empty(t, k)
        yield f"permute[{t},{d}] k={k} {dtype}", lambda x=x, order=order: permute(x, order)
        yield (
            f"unpermute[{t * k},{d}] k={k} {dtype}",
            lambda rows=rows, order=order, weights=weights: unpermute(rows, order, weights),
        )
    products = (
        (4096, 128, 768, 2048, torch.bfloat16),  # tuned
        (64, 8, 100, 577, torch.bfloat16),  # not aligned: small tiles
        (64, 8, 128, 256, torch.float32),
    )
    for m, e, f, d, dtype in products:
        rows, w, offsets = torch.empty(m, d, dtype=dtype), torch.empty(e, f, d, dtype=dtype), _order(m, 1, e).offsets
        yield (
            f"grouped_matmul[{m},{d}] E={e} F={f} {dtype}",
            lambda rows=rows, w=w, offsets=offsets: grouped_matmul(rows, w, offsets),
        )


def _order(t: int, k: int, e: int) -> Order:
    integers = torch.int32
    return Order(
        torch.empty(e + 1, dtype=integers), torch.empty(t * k, dtype=integers), torch.empty(t, k, dtype=integers)
    )

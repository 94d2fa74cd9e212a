"""Sample calls of the communicating kernels, for the compiler: eight ranks, nothing runs, results mean nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from shardlab_kernels import all_reduce, all_reduce_rms_norm, all_to_all, barrier
from shardlab_kernels.symmetric_memory import SymmetricMemory


def calls() -> Iterator[tuple[str, Callable[[], object]]]:
    """Decode of a 70B model (D 8192) and DeepSeek-V3's experts (D 7168, 128 tokens, k 8), stacked as virtual ranks."""
    memory = SymmetricMemory.virtual(8, 1 << 22, "cpu")
    yield "barrier 8 ranks", lambda: barrier.barrier(memory)
    for dtype in (torch.bfloat16, torch.float32):
        x, weight = torch.empty(8, 64, 8192, dtype=dtype), torch.empty(8192, dtype=dtype)
        yield f"one_shot[64,8192] {dtype}", lambda x=x: all_reduce.one_shot(x, memory)
        yield f"two_shot[64,8192] {dtype}", lambda x=x: all_reduce.two_shot(x, memory)
        yield (
            f"all_reduce_rms_norm[64,8192] {dtype}",
            lambda x=x, weight=weight: all_reduce_rms_norm.all_reduce_rms_norm(x, x, weight, 1e-5, memory),
        )
    widest = torch.empty(8, 1, 16384, dtype=torch.float16), torch.empty(16384, dtype=torch.float16)
    yield (
        "all_reduce_rms_norm[1,16384] float16",
        lambda: all_reduce_rms_norm.all_reduce_rms_norm(widest[0], widest[0], widest[1], 1e-5, memory),
    )
    yield from exchanges()


def exchanges() -> Iterator[tuple[str, Callable[[], object]]]:
    integers = torch.int32
    for t, k, experts, d, dtype in ((128, 8, 256, 7168, torch.bfloat16), (16, 2, 8, 577, torch.float32)):
        memory = SymmetricMemory.virtual(8, all_to_all.needed_bytes(8, experts, t * k, d, dtype), "cpu")
        exchange = all_to_all.Exchange(memory, experts, t * k, d, dtype)
        x, token = torch.empty(8, t, d, dtype=dtype), torch.empty(8, t * k, dtype=integers)
        offsets, rows = torch.empty(8, experts + 1, dtype=integers), torch.empty(8, t * k, d, dtype=dtype)
        y, position = torch.empty(8, 8 * t * k, d, dtype=dtype), torch.empty(8, 8 * t * k, dtype=integers)
        name = f"[{t},{d}] k={k} E={experts} {dtype}"
        yield f"dispatch{name}", lambda x=x, o=offsets, t=token, e=exchange: all_to_all.dispatch(x, o, t, e)
        yield f"combine{name} expert-major", lambda y=y, e=exchange, p=position: all_to_all.combine(y, e, p)
        yield f"dispatch{name} rows in order", lambda r=rows, o=offsets, e=exchange: all_to_all.dispatch(r, o, None, e)
        yield f"combine{name}", lambda y=y, e=exchange: all_to_all.combine(y.unflatten(1, (8, -1)), e)
        counts = torch.empty(8, experts // 8, dtype=integers)
        yield f"received_order{name}", lambda c=counts, m=t * k: all_to_all.received_order(c, m)

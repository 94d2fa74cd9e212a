"""Without a GPU: what ops does in torch on a GPU could be recorded in a CUDA graph.

Tensors of the "meta" device stand for a GPU's: they have shapes, and no numbers. What asked for a number, or copied
something from the host, would fail here as it would in a capture.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from shardlab import ops


class OnDevice(TorchDispatchMode):
    """Fails at an operation that touches a tensor of the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        devices = {one.device.type for one in (*args, out) if isinstance(one, torch.Tensor)}
        assert devices <= {"meta"}, f"{func} touches {sorted(devices)}"
        return out


@pytest.mark.parametrize("num_queries", [1, 3])
@pytest.mark.parametrize("kv_index", [(0, 0, 1, 1), (0, 1, 1)], ids=str)
def test_torch_asks_for_no_number(kv_index: tuple[int, ...], num_queries: int) -> None:
    q = torch.empty(2, len(kv_index), num_queries, 16, device="meta")
    k, v = torch.empty(2, 2, 2, 9, 16, device="meta")
    lengths, at = torch.empty(2, dtype=torch.int32, device="meta"), torch.empty(9, dtype=torch.int64, device="meta")

    def step() -> list[torch.Tensor]:
        parts = [
            ops.attention_lse(q, k, v, kv_index, q_positions=at[:num_queries], k_positions=at, window=window)
            for window in (None, 4)
        ]
        attended = [ops.attention(q, k, v, kv_index, 4, lengths, given) for given in (None, at[:num_queries])]
        return [*attended, ops.merge(*zip(*parts, strict=True))[0]]

    step()  # what is made once is made now
    with OnDevice():
        assert all(out.shape == q.shape for out in step())

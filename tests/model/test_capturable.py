"""Without a GPU: a decode step could be captured in a CUDA graph, and all of it that counts is our kernels.

torch's fake tensors stand for a GPU's: they have shapes, dtypes and a device, and no numbers. A step that asked for a
number, or copied anything from the host, would fail here as it would in a capture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from shardlab.comm.mesh import Mesh
from shardlab.layers import DeviceKVCache
from shardlab.model import Transformer
from shardlab.model.config import ModelConfig
from shardlab.ops import dispatch
from shardlab.theory.transformer import Shape
from shardlab_kernels import launch
from shardlab_kernels.heads import HeadMap

SHAPE = Shape(num_layers=2, d_model=64, d_ff=128, num_heads=4, num_kv_heads=2, head_dim=16, vocab_size=101)


class OneDevice(TorchDispatchMode):
    """Fails at an operation that touches tensors of two devices."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        devices = {str(one.device) for one in (*args, out) if isinstance(one, torch.Tensor)}
        assert devices <= {"cuda:0"}, f"{func} touches {sorted(devices)}"
        return out


@contextmanager
def pretended_gpu() -> Iterator[list[str]]:
    """Within it "cuda" is a device of fake tensors, and launches only leave the kernel's name in the list."""
    launched: list[str] = []

    def start(kernel: Any, grid: Any, *args: Any, **meta: Any) -> None:
        launched.append(getattr(kernel, "fn", kernel).__name__)

    def head_map(kv_index: tuple[int, ...], num_kv_heads: int, device: torch.device) -> HeadMap:
        numbers = (torch.empty(size, dtype=torch.int32, device=device) for size in (len(kv_index), num_kv_heads + 1))
        return HeadMap(*numbers, widest=2)

    properties = SimpleNamespace(multi_processor_count=132)
    with (
        mock.patch.object(launch, "_start", start),
        mock.patch.object(dispatch, "head_map", head_map),  # made once, before a capture
        mock.patch.object(torch.cuda, "get_device_properties", lambda device: properties),
        mock.patch.object(FakeTensor, "data_ptr", lambda self: 16 * id(self)),
        FakeTensorMode(allow_non_fake_inputs=True),
        torch.inference_mode(),
    ):
        yield launched


@pytest.mark.skipif(torch.cuda.is_available(), reason="tests/model/test_on_gpu.py captures a real one")
@pytest.mark.parametrize("batch", [1, 2])
def test_a_step_copies_nothing_from_the_host_and_asks_for_no_number(batch: int) -> None:
    with pretended_gpu() as launched:
        model = Transformer(ModelConfig(SHAPE), Mesh.single("cuda"), dtype=torch.bfloat16, device="cuda")
        cache = model.new_cache(batch, 40)
        cache.advance(9)
        on_device = DeviceKVCache(cache)
        tokens = torch.zeros(batch, 1, dtype=torch.int64, device="cuda")
        model(tokens, on_device)  # what is made once is made now
        launched.clear()
        with OneDevice():
            logits = model(tokens, on_device)
        assert logits is not None and logits.shape == (batch, 1, 101) and logits.device.type == "cuda"
    product = "_one_row_kernel" if batch == 1 else "_rows_kernel"
    attention = ["_rms_norm_kernel", *[product] * 3, "_rope_kernel", "_flash_decode_kernel", product]
    mlp = ["_rms_norm_kernel", product, product, "_silu_mul_kernel", product]
    assert launched == [*2 * (attention + mlp), "_rms_norm_kernel", product]

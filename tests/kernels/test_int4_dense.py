"""The weight written out, as int4.dequantize has it: for our own layout, GGUF's, and a shard of either."""

from __future__ import annotations

import pytest
import torch

from shardlab_kernels import int4_matmul as module
from shardlab_kernels.int4 import Int4Weight, dequantize, quantize, reference
from shardlab_kernels.int4_dense import int4_dense, moved_bytes
from tests.kernels.support import DEVICE, DTYPES, assert_close, draw


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("group", "minimum"), [(32, True), (128, False), (128, True)])
@pytest.mark.parametrize(("n", "k"), [(1, 128), (7, 384), (3, 2304)])
def test_it_is_dequantize(n: int, k: int, group: int, minimum: bool, dtype: torch.dtype) -> None:
    weight = quantize(draw(n, k, dtype=torch.float32, seed=0), group, minimum)  # near 1: a tolerance means something
    out = int4_dense(weight, dtype)
    assert out.dtype == dtype
    assert_close(out, dequantize(weight, torch.float64), dtype)


def test_shards_and_nothing() -> None:
    weight = quantize(draw(50, 512, dtype=torch.float32, seed=0, fan_in=512), 128).rows(7, 48).columns(128, 384)
    assert_close(int4_dense(weight, torch.float32), dequantize(weight, torch.float64), torch.float32)
    assert int4_dense(weight.rows(0, 0), torch.float16).shape == (0, 256)
    assert moved_bytes(weight, torch.float16) == 41 * 256 // 2 + 41 * 2 * 2 + 41 * 256 * 2
    with pytest.raises(ValueError, match="int8"):
        int4_dense(weight, torch.int8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_many_rows_take_this_way(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[torch.dtype] = []

    def dense(weight: Int4Weight, dtype: torch.dtype) -> torch.Tensor:
        written.append(dtype)
        return int4_dense(weight, dtype)

    monkeypatch.setattr(module, "int4_dense", dense)
    weight = quantize(draw(33, 256, dtype=torch.float32, seed=0, fan_in=256), 128)
    x = draw(2, module.DENSE_ROWS // 2, 256, dtype=dtype, seed=1).to(DEVICE)
    assert_close(module.int4_matmul(x, weight), reference(x.double(), weight), dtype)
    assert written == [dtype]
    module.int4_matmul(x[:1], weight)
    assert written == [dtype]

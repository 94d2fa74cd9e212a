"""GGUF's Q4_1 blocks as they lie in the file: the gguf package's numbers, no copies, and a real model's weights."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize as gguf_dequantize
from gguf.quants import quantize as gguf_quantize

from shardlab_kernels.int4 import dequantize, from_q4_1, packed_bytes, reference
from shardlab_kernels.int4_gemv import int4_gemv
from shardlab_kernels.int4_matmul import int4_matmul
from tests.kernels.support import DEVICE, assert_close, draw

Q4_1 = GGMLQuantizationType.Q4_1


def blocks(n: int, k: int, seed: int) -> torch.Tensor:
    """Rows of Q4_1 blocks, quantized by the gguf package."""
    w = draw(n, k, dtype=torch.float32, seed=seed, fan_in=k).cpu().numpy()
    return torch.from_numpy(gguf_quantize(w, Q4_1))


@pytest.mark.parametrize("k", [32, 64, 576])
def test_dequantized_is_gguf_bit_for_bit(k: int) -> None:
    rows = blocks(11, k, seed=0)
    wanted = torch.from_numpy(gguf_dequantize(rows.numpy(), Q4_1))
    assert torch.equal(dequantize(from_q4_1(rows.to(DEVICE), k), torch.float32).cpu(), wanted)


def test_nothing_is_copied() -> None:
    rows = blocks(5, 96, seed=0).to(DEVICE)
    weight = from_q4_1(rows, 96)
    begin = rows.data_ptr()
    assert weight.minimum is not None
    assert [t.data_ptr() - begin for t in (weight.scale, weight.minimum, weight.packed)] == [0, 2, 4]
    last = weight.rows(4, 5).columns(64, 96)
    assert last.packed.data_ptr() - begin == 4 * 60 + 2 * 20 + 4
    assert packed_bytes(weight) == rows.nbytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [1, 5, 20])
def test_kernels_read_the_blocks(rows: int, dtype: torch.dtype) -> None:
    weight = from_q4_1(blocks(67, 320, seed=0).to(DEVICE), 320)
    x = draw(rows, 320, dtype=dtype, seed=1)
    product = int4_gemv if rows <= 16 else int4_matmul
    assert_close(product(x, weight), reference(x.double(), weight), dtype)
    part = weight.rows(3, 40).columns(96, 288)  # 36 bytes into a row: 4-byte loads at most
    x = x[:, 96:288]
    assert_close(product(x, part), reference(x.double(), part), dtype)


@pytest.mark.parametrize(
    ("rows", "k", "message"),
    [
        (torch.zeros(4, 40, dtype=torch.int8), 64, "torch.int8"),
        (torch.zeros(40, dtype=torch.uint8), 64, r"blocks\(40,\)"),
        (torch.zeros(4, 40, dtype=torch.uint8), 48, "K=48"),
        (torch.zeros(4, 40, dtype=torch.uint8), 96, "K=96 columns are 60 bytes a row"),
        (torch.zeros(4, 42, dtype=torch.uint8)[:, :40], 64, "multiple of 4"),
        (torch.zeros(4, 44, dtype=torch.uint8)[:, 1:41], 64, "multiple of 4"),
    ],
)
def test_what_is_refused(rows: torch.Tensor, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_q4_1(rows, k)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["blk.0.attn_q.weight", "blk.0.ffn_down.weight", "blk.29.attn_k.weight"])
def test_smollm2_from_the_memory_map(name: str) -> None:
    """The file's own bytes, unconverted. On a CPU the kernel reads the memory map itself."""
    from shardlab.model.checkpoint.fetch import fetch
    from shardlab.model.checkpoint.gguf_header import read_header

    stored = read_header(fetch("smollm2")).tensors[name]
    assert stored.tensor_type == Q4_1
    k, n = map(int, stored.shape)
    with warnings.catch_warnings():  # the map is read-only, and so is what we do with it
        warnings.simplefilter("ignore", UserWarning)
        rows = torch.from_numpy(stored.data)
    weight = from_q4_1(rows.to(DEVICE), k)
    if DEVICE == "cpu":
        assert weight.packed.data_ptr() - 4 == stored.data.__array_interface__["data"][0]
    full = torch.from_numpy(gguf_dequantize(np.asarray(stored.data), Q4_1))
    assert torch.equal(dequantize(weight, torch.float32).cpu(), full) and weight.shape == (n, k)
    size = full.norm(dim=1).max().item()  # trained weights are not drawn to give sums near 1
    for product, m, dtype in [
        (int4_gemv, 1, torch.float32),
        (int4_gemv, 2, torch.float32),
        (int4_matmul, 17, torch.bfloat16),
    ]:
        x = draw(m, k, dtype=dtype, seed=m)
        wanted = x.double() @ full.to(DEVICE).double().T
        assert_close(product(x, weight).double() / size, wanted / size, dtype)

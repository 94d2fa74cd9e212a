"""Weights of four bits: w = q * scale + minimum, q in 0..15, one scale for each 32 or 128 weights along K.

Decode reads every weight once for each token, so a weight of four bits is read in a quarter of the time. "Round to
nearest" with small groups: Dettmers and Zettlemoyer 2023, arXiv 2212.09720. Inside every 32 weights the nibbles lie as
in llama.cpp's Q4_1 block (ggml-common.h, block_q4_1): byte j holds weight j in its low half and weight j + 16 in its
high half. So the same kernels read our own layout and the blocks of a GGUF file, through strides.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import triton
import triton.language as tl

from shardlab_kernels.checks import check_dtype, wide

GROUPS = (32, 128)
RUN = 32  # weights whose nibbles share 16 bytes
Q4_1_BYTES = 20  # a Q4_1 block: fp16 scale, fp16 minimum, 16 bytes of nibbles

# 2.0**23 as bits: a float32 whose last 23 bits count ones.
_MAGIC: tl.constexpr = tl.constexpr(0x4B000000)
_MAGIC_FLOAT: tl.constexpr = tl.constexpr(2.0**23)


@dataclass(frozen=True, eq=False)  # two are equal if they are the same object
class Int4Weight:
    """w[N,K], row n and column k in group k // group: w = q * scale + minimum, or (q - 8) * scale without minimum.

    packed uint8[N, K/32, 16]; scale fp16[N, K/group]; minimum fp16[N, K/group] or None. Views with any strides, but
    16 bytes of nibbles are contiguous, and they begin at multiples of 4 bytes: kernels read 4 bytes at a time.
    Raises ValueError for other shapes, dtypes or strides.
    """

    packed: torch.Tensor
    scale: torch.Tensor
    minimum: torch.Tensor | None
    group: int

    def __post_init__(self) -> None:
        _check_group(self.group)
        packed, scale, minimum = self.packed, self.scale, self.minimum
        if packed.dtype != torch.uint8 or packed.dim() != 3 or packed.shape[2] != RUN // 2 or not packed.shape[1]:
            raise ValueError(f"packed{tuple(packed.shape)} {packed.dtype}: uint8[N, K/{RUN}, {RUN // 2}] is needed")
        if packed.stride(2) != 1 or _alignment(packed) < 4:
            raise ValueError(
                f"packed has strides {packed.stride()}: 16 bytes in a row, from a multiple of 4, are needed"
            )
        wanted = (self.shape[0], self.shape[1] // self.group)
        for name, tensor in (("scale", scale), ("minimum", minimum)):
            if tensor is not None and (tensor.dtype != torch.float16 or tensor.shape != wanted):
                raise ValueError(
                    f"{name}{tuple(tensor.shape)} {tensor.dtype}: float16{wanted} is needed, one for each "
                    f"{self.group} of {self.shape[1]} columns"
                )
        if self.shape[1] % self.group:
            raise ValueError(f"K={self.shape[1]}: a multiple of the group, {self.group}, is needed")
        if minimum is not None and minimum.stride() != scale.stride():
            raise ValueError(f"minimum has strides {minimum.stride()}, scale {scale.stride()}: the same are needed")

    @cached_property
    def alignment(self) -> int:
        """16 or 4: every run of nibbles begins at a multiple of so many bytes."""
        return _alignment(self.packed)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.packed.shape[0], self.packed.shape[1] * RUN

    def rows(self, start: int, stop: int) -> Int4Weight:
        """w[start:stop, :], a view: what a rank of a column-parallel layer holds. Raises ValueError outside 0..N."""
        if not 0 <= start <= stop <= self.shape[0]:
            raise ValueError(f"rows {start}..{stop}: 0 <= start <= stop <= N={self.shape[0]} is needed")
        cut = slice(start, stop)
        minimum = None if self.minimum is None else self.minimum[cut]
        return Int4Weight(self.packed[cut], self.scale[cut], minimum, self.group)

    def columns(self, start: int, stop: int) -> Int4Weight:
        """w[:, start:stop], a view: what a rank of a row-parallel layer holds.

        Raises ValueError outside 0..K, for no columns, and inside a group: that names the nearest cuts that work.
        """
        if not 0 <= start < stop <= self.shape[1]:
            raise ValueError(f"columns {start}..{stop}: 0 <= start < stop <= K={self.shape[1]} is needed")
        for name, cut in (("start", start), ("stop", stop)):
            if cut % self.group:
                below = cut // self.group * self.group
                raise ValueError(
                    f"{name}={cut} cuts a group of {self.group} columns; {below} and {below + self.group} work"
                )
        runs, groups = slice(start // RUN, stop // RUN), slice(start // self.group, stop // self.group)
        minimum = None if self.minimum is None else self.minimum[:, groups]
        return Int4Weight(self.packed[:, runs], self.scale[:, groups], minimum, self.group)


def quantize(w: torch.Tensor, group: int = 128, minimum: bool = False) -> Int4Weight:
    """w[N,K] float32, bfloat16 or float16 -> Int4Weight, each weight rounded to the nearest of its group's 16 levels.

    With a minimum the levels run from the group's least weight to its greatest; without, from -8 to 7 scales. No
    weight is clipped but by the rounding of scale and minimum to fp16: |w - dequantized| <= scale / 2 +
    (|minimum| + 15 * scale) * 2**-11 + 2**-21 (the last term for scales too small for fp16).
    Raises ValueError for a K that is no multiple of the group, and for weights beyond fp16's range.
    """
    check_dtype(w=w)
    _check_group(group)
    if w.dim() != 2 or not w.shape[1] or w.shape[1] % group:
        raise ValueError(f"w{tuple(w.shape)}: w[N,K] with K a multiple of the group, {group}, is needed")
    grouped = w.float().unflatten(1, (-1, group))
    least, greatest = grouped.amin(2), grouped.amax(2)
    if minimum:
        scale, offset = ((greatest - least) / 15).half(), least.half()
    else:
        scale = torch.maximum(greatest / 7, least / -8).half()
        offset = -8 * scale.float()
    if not bool((scale.isfinite() & offset.isfinite()).all()):
        raise ValueError("w has weights that are not finite, or whose scale is beyond fp16's range")
    step = scale.float()[..., None]
    levels = ((grouped - offset.float()[..., None]) / step.where(step != 0, torch.inf)).round().clamp(0, 15)
    low, high = levels.to(torch.uint8).view(w.shape[0], -1, 2, RUN // 2).unbind(2)
    return Int4Weight(low | high << 4, scale, offset if minimum else None, group)


def from_q4_1(blocks: torch.Tensor, K: int) -> Int4Weight:
    """blocks uint8[N, K//32 * 20], rows of GGUF's Q4_1 blocks -> the same bytes, seen as w[N,K] with groups of 32.

    Nothing is copied: the weight lives as long as the blocks' storage, wherever that is (a file's memory map, a GPU).
    Raises ValueError for a shape that is not that, and for rows that do not begin at multiples of 4 bytes.
    """
    if blocks.dtype != torch.uint8 or blocks.dim() != 2 or K <= 0 or K % RUN:
        raise ValueError(f"blocks{tuple(blocks.shape)} {blocks.dtype}, K={K}: uint8[N, K//32 * 20] is needed")
    if blocks.shape[1] != K // RUN * Q4_1_BYTES:
        raise ValueError(f"blocks{tuple(blocks.shape)}: K={K} columns are {K // RUN * Q4_1_BYTES} bytes a row")
    if blocks.stride(1) != 1 or _alignment(blocks) < 4:
        raise ValueError(f"blocks has strides {blocks.stride()}: rows from a multiple of 4 bytes on are needed")
    halves = blocks.view(torch.float16).unflatten(1, (K // RUN, Q4_1_BYTES // 2))
    packed = blocks.unflatten(1, (K // RUN, Q4_1_BYTES))[:, :, 4:]
    return Int4Weight(packed, halves[:, :, 0], halves[:, :, 1], RUN)


def dequantize(weight: Int4Weight, dtype: torch.dtype) -> torch.Tensor:
    """-> w[N,K] in dtype, calculated in fp32 (fp64 for fp64) and rounded once: the reference of both kernels.

    It reads the packed weight and writes w: packed_bytes(weight) + N * K * dtype.itemsize, were it one pass.
    """
    q = wide(torch.cat((weight.packed & 15, weight.packed >> 4), dim=2).to(dtype))
    q = q.flatten(1).unflatten(1, (-1, weight.group))
    scale = weight.scale.to(q.dtype)[..., None]
    if weight.minimum is None:
        w = (q - 8) * scale
    else:
        w = q * scale + weight.minimum.to(q.dtype)[..., None]
    return w.flatten(1).to(dtype)


def reference(x: torch.Tensor, weight: Int4Weight) -> torch.Tensor:
    """x[...,K] . w[N,K] -> [...,N], in fp32 (fp64 for fp64 x) and rounded to x's dtype.

    In torch: read the packed weight, write w and read it again, in fp32, and read x and write the result:
    packed_bytes(weight) + 8 * N * K + x.nbytes + the result.
    """
    x_wide = wide(x)
    return (x_wide @ dequantize(weight, x_wide.dtype).T).to(x.dtype)


def packed_bytes(weight: Int4Weight) -> int:
    """Bytes of nibbles, scales and minima of this weight or view, from its sizes."""
    return weight.packed.nbytes + weight.scale.nbytes * (1 if weight.minimum is None else 2)


def bits_per_weight(weight: Int4Weight) -> float:
    """Groups of 32 with a minimum (and Q4_1): 5.0. Groups of 128 without: 4.125."""
    return 4 + 16 * (1 if weight.minimum is None else 2) / weight.group


def moved_bytes(x: torch.Tensor, weight: Int4Weight) -> int:
    """What the product moves: the packed weight and x once, and x.dtype[..., N]. From tensors."""
    return packed_bytes(weight) + x.nbytes + x.numel() // x.shape[-1] * weight.shape[0] * x.element_size()


def flops(x: torch.Tensor, weight: Int4Weight) -> int:
    """2 M N K, from tensors: the product's own. Undoing the quantization is not counted."""
    return 2 * x.numel() * weight.shape[0]


@triton.jit
def tiny_float(bits, MASK: tl.constexpr):
    """float32((bits & MASK) * 2**-149), exactly, for MASK < 2**23: what these bits are if read as a float.

    A denormal: GPUs multiply them at full speed. One instruction, where a conversion to float takes several times that.
    """
    return (bits & MASK).to(tl.float32, bitcast=True)


@triton.jit
def exact_float(bits, MASK: tl.constexpr):
    """float32(bits & MASK), exactly, for MASK < 2**23. Three instructions: still quicker than a conversion."""
    return ((bits & MASK) | _MAGIC).to(tl.float32, bitcast=True) - _MAGIC_FLOAT


@triton.jit
def spread(per_group, ROWS: tl.constexpr, GROUPS: tl.constexpr, EACH: tl.constexpr):
    """[ROWS, GROUPS] -> [ROWS, GROUPS * EACH]: what belongs to a group, beside each of its elements."""
    return tl.broadcast_to(per_group[:, :, None], [ROWS, GROUPS, EACH]).reshape(ROWS, GROUPS * EACH)


def _check_group(group: int) -> None:
    if group not in GROUPS:
        raise ValueError(f"group={group}: supported: {', '.join(map(str, GROUPS))}")


def _alignment(packed: torch.Tensor) -> int:
    """The largest of 16, 4 and 1 that divides where the tensor begins and every stride but the last, in bytes."""
    places = (packed.data_ptr(), packed.storage_offset(), *packed.stride()[:-1])
    return next(align for align in (16, 4, 1) if all(place % align == 0 for place in places))

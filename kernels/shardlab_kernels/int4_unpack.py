"""Nibbles to half precision in a tensor core's operand: two bytes become four weights in seven instructions.

A number whose bits are put below a constant's is that constant plus itself: the bf16 0x4300 is 128 and counts ones, the
fp16 0x6400 is 1024 and does too. So one `lop3` makes two weights of two nibbles, and one fused multiply-add takes the
128 away again, exactly. As in Marlin, Frantar et al. 2024, arXiv 2408.11743. The interpreter, which knows no assembly,
and fp32 take the plain formula, which gives the same numbers: the product with the scale is rounded once in both.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
# (Triton's own annotations take no constexpr where Triton does.)

from __future__ import annotations

import triton
import triton.language as tl

from shardlab_kernels.launch import INTERPRETED

_PLAIN: tl.constexpr = tl.constexpr(INTERPRETED)


@triton.constexpr_function
def _assembly(dtype, scaled, shifted):
    """PTX for 2 bytes ($2) -> q - 8 of their low halves ($0), and of their high ones ($1). $3, $4: scale, offset."""
    if dtype.name == "bf16":
        kind, base, one, less = "bf16x2", "0x43004300", "0x3F803F80", "0xC308C308"  # less: -136, the 128 and the 8
    else:
        kind, base, one, less = "f16x2", "0x64006400", "0x3C003C00", "0xE408E408"  # -1032
    lines = [f"mov.b32 one, {one};", f"mov.b32 less, {less};", "mov.b32 zero, 0x80008000;"]
    lines += ["cvt.u32.u16 b, $2;", "prmt.b32 b, b, 0, 0x4140;"]  # a byte in each half of the register
    for out in ("$0", "$1"):
        lines.append(f"lop3.b32 q, b, 0x000F000F, {base}, 0xEA;")  # (b & mask) | base
        lines.append(f"fma.rn.{kind} {'q' if scaled else out}, q, one, less;")
        if scaled:
            lines.append(f"fma.rn.{kind} {out}, q, $3, {'$4' if shifted else 'zero'};")  # -0.0: it changes no sum
        if out == "$0":
            lines.append("shr.b32 b, b, 4;")
    return "{\n.reg .b32 b, q, one, less, zero;\n" + "\n".join(lines) + "\n}"


@triton.jit
def nibbles(packed, DTYPE: tl.constexpr):
    """uint8 -> (q - 8 of the low halves, q - 8 of the high ones), exactly, in DTYPE."""
    if _PLAIN or DTYPE == tl.float32:
        low, high = _centred(packed)
        return low.to(DTYPE), high.to(DTYPE)
    else:
        low, high = tl.inline_asm_elementwise(
            _assembly(DTYPE, False, False), "=&r,=&r,h", [packed],
            dtype=(tl.int16, tl.int16), is_pure=True, pack=2,
        )  # fmt: skip
        return low.to(DTYPE, bitcast=True), high.to(DTYPE, bitcast=True)


@triton.jit
def weights(packed, scale, offset, DTYPE: tl.constexpr):
    """uint8, and scale and offset (or None) in DTYPE and packed's shape -> (q - 8) * scale + offset.

    As nibbles: (of the low halves, of the high ones). The product is not rounded before the sum.
    """
    if _PLAIN or DTYPE == tl.float32:
        low, high = _centred(packed)
        low, high = low * scale.to(tl.float32), high * scale.to(tl.float32)
        if offset is not None:
            low, high = low + offset.to(tl.float32), high + offset.to(tl.float32)
        return low.to(DTYPE), high.to(DTYPE)
    else:
        if offset is None:
            low, high = tl.inline_asm_elementwise(
                _assembly(DTYPE, True, False), "=&r,=&r,h,r", [packed, scale],
                dtype=(tl.int16, tl.int16), is_pure=True, pack=2,
            )  # fmt: skip
        else:
            low, high = tl.inline_asm_elementwise(
                _assembly(DTYPE, True, True), "=&r,=&r,h,r,r", [packed, scale, offset],
                dtype=(tl.int16, tl.int16), is_pure=True, pack=2,
            )  # fmt: skip
        return low.to(DTYPE, bitcast=True), high.to(DTYPE, bitcast=True)


@triton.jit
def _centred(packed):
    return (packed & 15).to(tl.float32) - 8.0, (packed >> 4).to(tl.float32) - 8.0

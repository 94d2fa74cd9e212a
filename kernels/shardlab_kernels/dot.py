"""tl.dot as every kernel here wants it: fp32 sums, fp32 factors multiplied as fp32, and bf16 that the interpreter gets
right.
"""

from __future__ import annotations

import triton
import triton.language as tl

from shardlab_kernels.launch import INTERPRETED

# Triton's interpreter keeps bf16 as 16-bit integers, and its dot multiplies those (3.6 and 3.7). Widened to fp32 the
# products are exact, as in a tensor core. A compiled kernel has none of this.
_WIDEN: tl.constexpr = tl.constexpr(INTERPRETED)


@triton.jit
def dot(a, b, acc):
    """a[M,K] . b[K,N] + acc[M,N] -> fp32[M,N]; a and b of one dtype."""
    if _WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee")  # not tf32: its 10 bits would miss a tolerance of 1e-5

"""What each kernel must move and do, from sizes alone, and the least time that an accelerator needs for it.

Bytes are those that a kernel must exchange with HBM when everything that it reads twice is found in cache the second
time: a floor. item_bytes is the size of a number, 2 for bf16. FLOPs: a multiplication, an addition, a division or an
exponential counts as one. The kernels themselves are in kernels/shardlab_kernels, a file each.
Roofline: Williams, Waterman, Patterson 2009, doi 10.1145/1498765.1498785.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shardlab.theory.hardware import Accelerator
from shardlab.theory.work import check_sizes, expected_experts

FLOAT_BYTES = 4  # fp32: a log-sum-exp, a partial result, a routing weight; also an int32
Q4_1_BLOCK, Q4_1_BYTES = 32, 20  # weights of a GGUF Q4_1 block, and its bytes: fp16 scale, fp16 minimum, 16 x 2 nibbles


@dataclass(frozen=True)
class Work:
    """What one call of a kernel moves through HBM, in bytes, and computes, in FLOPs."""

    moved_bytes: float
    flops: float

    @property
    def intensity(self) -> float:
        """FLOPs a byte."""
        return self.flops / self.moved_bytes

    def least_s(self, accelerator: Accelerator) -> float:
        """The roofline: max(bytes / hbm_Bps, FLOPs / bf16_flops), in seconds. Nothing can be faster."""
        return max(self.moved_bytes / accelerator.hbm_Bps, self.flops / accelerator.bf16_flops)

    def bound(self, accelerator: Accelerator) -> str:
        """What the time goes to: "memory" or "arithmetic"."""
        return "memory" if self.intensity < ridge(accelerator) else "arithmetic"


def ridge(accelerator: Accelerator) -> float:
    """The intensity, in FLOPs a byte, from which arithmetic is the limit and no longer memory."""
    return accelerator.bf16_flops / accelerator.hbm_Bps


def attainable_flops(accelerator: Accelerator, intensity: float) -> float:
    """FLOP/s that a kernel of this intensity can reach: the roof over the roofline plot."""
    return min(accelerator.bf16_flops, intensity * accelerator.hbm_Bps)


# ------------------------------------------------------------------------------------------------------- attention


def causal_pairs(seq: int, cached: int) -> int:
    """Pairs (query, key) of `seq` causal queries, the last of `cached` positions: query i reads cached - seq + i + 1.

    Raises ValueError for fewer positions than queries.
    """
    if cached < seq:
        raise ValueError(f"cached={cached}: the {seq} new tokens are among the cached positions")
    return seq * (cached - seq) + seq * (seq + 1) // 2


def flash_attention(
    *, batch: int, heads: int, kv_heads: int, head_dim: int, seq: int, cached: int | None = None, item_bytes: int = 2
) -> Work:
    """q[B,N,S,H], k and v[B,K,C,H] -> out[B,N,S,H], lse[B,N,S], causal. C = S where `cached` is None.

    Scores never leave the chip. 2 FLOPs a pair and element for the score and 2 for the value.
    """
    check_sizes(batch=batch, heads=heads, kv_heads=kv_heads, head_dim=head_dim, seq=seq)
    cached = seq if cached is None else cached
    flops = 4 * batch * heads * head_dim * causal_pairs(seq, cached)
    rows = batch * heads * seq
    moved = (
        2 * rows * head_dim * item_bytes + rows * FLOAT_BYTES + _kv_bytes(batch, kv_heads, head_dim, cached, item_bytes)
    )
    return Work(moved, flops)


def written_out_scores(*, batch: int, heads: int, seq: int, item_bytes: int = 2) -> float:
    """Bytes that scores[B,N,S,S] alone cost without flash attention: written, read, written as weights, read again."""
    return 4.0 * batch * heads * seq * seq * item_bytes


def flash_decode(
    *, batch: int, heads: int, kv_heads: int, head_dim: int, cached: int, splits: int = 1, item_bytes: int = 2
) -> Work:
    """q[B,N,H], k and v[B,K,C,H] -> out[B,N,H], lse[B,N]: one query a sequence, which reads all C positions.

    Each of several splits writes a partial out and lse in fp32, and the merge reads them: the merge is counted in.
    """
    check_sizes(batch=batch, heads=heads, kv_heads=kv_heads, head_dim=head_dim, cached=cached, splits=splits)
    rows = batch * heads
    moved = _kv_bytes(batch, kv_heads, head_dim, cached, item_bytes)
    moved += 2 * rows * head_dim * item_bytes + rows * FLOAT_BYTES
    partial = rows * splits * (head_dim + 1) * FLOAT_BYTES if splits > 1 else 0
    return Work(moved + 2 * partial, 4 * rows * head_dim * cached)


def merge(*, parts: int, rows: int, head_dim: int, item_bytes: int = 2) -> Work:
    """outs[P,rows,H], lses[P,rows] -> out[rows,H], lse[rows]: scale each part by exp(lse - max), add, divide."""
    check_sizes(parts=parts, rows=rows, head_dim=head_dim)
    row_bytes = head_dim * item_bytes + FLOAT_BYTES
    return Work((parts + 1) * rows * row_bytes, 2 * parts * rows * head_dim + rows * head_dim)


def _kv_bytes(batch: int, kv_heads: int, head_dim: int, cached: int, item_bytes: int) -> int:
    return 2 * batch * kv_heads * cached * head_dim * item_bytes


# --------------------------------------------------------------------------------------------- one pass over memory

# Written out in plain torch, a line of the formula is a kernel of its own. (what it does, tensors read, written), in
# units of the kernel's x. fp32 throughout, so nothing is added for casts; one number a row is left out.
PASSES: dict[str, tuple[tuple[str, float, float], ...]] = {
    "add_rms_norm": (
        ("x + residual", 2, 1),
        ("square", 1, 1),
        ("mean", 1, 0),
        ("times rsqrt", 1, 1),
        ("times weight", 1, 1),
    ),
    "rope_": (
        ("times cos", 1, 1),
        ("negate", 0.5, 0.5),
        ("join halves", 1, 1),
        ("times sin", 1, 1),
        ("add", 2, 1),
    ),
    "silu_mul": (("silu", 1, 1), ("times up", 2, 1)),
}
FUSED: dict[str, tuple[float, float]] = {"add_rms_norm": (2, 2), "rope_": (1, 1), "silu_mul": (2, 1)}


def written_out_passes(kernel: str) -> float:
    """How many times the size of x the written-out form of a kernel of PASSES moves."""
    return sum(read + written for _, read, written in PASSES[kernel])


def add_rms_norm(*, rows: int, d_model: int, item_bytes: int = 2) -> Work:
    """x, residual[rows,D], weight[D] -> normed, total: two read, two written. 5 FLOPs an element."""
    check_sizes(rows=rows, d_model=d_model)
    return Work((4 * rows + 1) * d_model * item_bytes, 5 * rows * d_model)


def rms_norm(*, rows: int, d_model: int, item_bytes: int = 2) -> Work:
    """x[rows,D], weight[D] -> [rows,D]: one read, one written. 4 FLOPs: square, add, two products."""
    check_sizes(rows=rows, d_model=d_model)
    return Work((2 * rows + 1) * d_model * item_bytes, 4 * rows * d_model)


def rope(*, batch: int, heads: int, kv_heads: int, head_dim: int, seq: int, item_bytes: int = 2) -> Work:
    """q[B,N,S,H] and k[B,K,S,H] turned where they lie; half of cos and sin[S,H] read once. 3 FLOPs an element."""
    check_sizes(batch=batch, heads=heads, kv_heads=kv_heads, head_dim=head_dim, seq=seq)
    elements = batch * (heads + kv_heads) * seq * head_dim
    return Work((2 * elements + seq * head_dim) * item_bytes, 3 * elements)


def silu_mul(*, rows: int, d_ff: int, item_bytes: int = 2) -> Work:
    """gate, up[rows,F] -> silu(gate) * up: two read, one written. 5 FLOPs: negate, exp, add, divide, times."""
    check_sizes(rows=rows, d_ff=d_ff)
    return Work(3 * rows * d_ff * item_bytes, 5 * rows * d_ff)


# -------------------------------------------------------------------------------------------------- matrix products


def matmul(*, rows: int, width_in: int, width_out: int, item_bytes: int = 2) -> Work:
    """x[rows,K] . w[N,K] -> [rows,N]. A few rows make it skinny: then it is the reading of w."""
    check_sizes(rows=rows, width_in=width_in, width_out=width_out)
    elements = rows * width_in + width_in * width_out + rows * width_out
    return Work(elements * item_bytes, 2 * rows * width_in * width_out)


def int4_matmul(*, rows: int, width_in: int, width_out: int, item_bytes: int = 2) -> Work:
    """x[rows,K] . w[N,K] with w in Q4_1 blocks of 32 weights and 20 bytes. FLOPs as for matmul: unpacking is free.

    Raises ValueError where 32 does not divide K.
    """
    check_sizes(rows=rows, width_in=width_in, width_out=width_out)
    if width_in % Q4_1_BLOCK:
        raise ValueError(f"width_in={width_in}: a multiple of {Q4_1_BLOCK} is needed, the weights of a Q4_1 block")
    weights = width_in * width_out // Q4_1_BLOCK * Q4_1_BYTES
    return Work(weights + rows * (width_in + width_out) * item_bytes, 2 * rows * width_in * width_out)


def grouped_matmul(
    *, tokens: int, chosen: int, experts: int, width_in: int, width_out: int, item_bytes: int = 2
) -> Work:
    """rows[M,D] by expert . w[E,D,F] -> [M,F], M = T * k. Only the experts that some token chose are read.

    How many those are is an expectation, for tokens that choose at random: work.expected_experts.
    """
    check_sizes(tokens=tokens, chosen=chosen, experts=experts, width_in=width_in, width_out=width_out)
    awake = expected_experts(experts, chosen, tokens)
    rows = tokens * chosen
    moved = (awake * width_in * width_out + rows * (width_in + width_out)) * item_bytes
    return Work(moved, 2 * rows * width_in * width_out)


# --------------------------------------------------------------------------------------- experts, before and after


def route(*, tokens: int, experts: int, chosen: int, item_bytes: int = 2) -> Work:
    """logits[T,E] -> weights, experts[T,k]. FLOPs: an exponential and an addition a logit, a division a choice."""
    check_sizes(tokens=tokens, experts=experts, chosen=chosen)
    return Work(tokens * (experts * item_bytes + 2 * chosen * FLOAT_BYTES), tokens * (2 * experts + chosen))


def permute(*, tokens: int, chosen: int, d_model: int, item_bytes: int = 2) -> Work:
    """x[T,D] -> rows[T*k,D], expert by expert: each token read once (then it is in cache), written k times."""
    check_sizes(tokens=tokens, chosen=chosen, d_model=d_model)
    return Work(tokens * (1 + chosen) * d_model * item_bytes + tokens * chosen * FLOAT_BYTES, 0)


def unpermute(*, tokens: int, chosen: int, d_model: int, item_bytes: int = 2) -> Work:
    """rows[T*k,D], weights[T,k] -> [T,D]: k rows of each token read, weighted and added."""
    check_sizes(tokens=tokens, chosen=chosen, d_model=d_model)
    moved = tokens * (1 + chosen) * d_model * item_bytes + 2 * tokens * chosen * FLOAT_BYTES
    return Work(moved, 2 * tokens * chosen * d_model)


def total(works: Sequence[Work]) -> Work:
    """Several calls after one another."""
    return Work(sum(one.moved_bytes for one in works), sum(one.flops for one in works))

"""The router of a mixture of experts: softmax over the experts and the k largest, each token's row read once.

Softmax keeps the order of the logits, so the k largest are found among the logits, by k rounds of a maximum over
integers that hold a logit and its expert. Shazeer et al. 2017, arXiv 1701.06538; softmax first, then the k largest,
then their sum divided out: Mixtral, arXiv 2401.04088.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from shardlab_kernels.checks import check_dtype, check_rows, sizes, wide
from shardlab_kernels.launch import cdiv, check_device, launch

MAX_EXPERTS = 512  # one warp holds a token's logits: more would spill
MAX_CHOSEN = 16
ELEMENTS = 512  # logits a program: 16 for each lane of its one warp, so that no reduction leaves the warp

# Below the key of every logit, -inf included: padding, and experts that are taken.
_TAKEN: tl.constexpr = tl.constexpr(-(2**63))


def reference(logits: torch.Tensor, num_chosen: int, *, normalise: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """logits[T,E] -> (weights[T,k], experts int32[T,k]), as `route`; weights in fp32, or fp64 for fp64 logits.

    Written out in torch it moves, with logits in fp32 and E much larger than k, in units of logits.nbytes: softmax 2,
    sort 1 read and 3 written (values, and indices of 8 bytes) = 6.
    """
    wide_logits = wide(logits)
    chosen = wide_logits.sort(dim=-1, descending=True, stable=True).indices[:, :num_chosen]
    weights = wide_logits.softmax(-1).gather(-1, chosen)
    if normalise:
        weights = wide_logits.gather(-1, chosen).softmax(-1)  # the same, without the division of two small numbers
    return weights, chosen.int()


def moved_bytes(logits: torch.Tensor, num_chosen: int) -> int:
    """What the kernel moves for these logits: read them, write a weight and an expert (4 bytes each) per choice."""
    return logits.nbytes + logits.shape[0] * num_chosen * 8


def flops(logits: torch.Tensor, num_chosen: int) -> int:
    """FLOPs for these logits: an exponential and an addition a logit, a division a choice. Comparisons are free."""
    return 2 * logits.numel() + logits.shape[0] * num_chosen


@triton.jit(do_not_specialize=["T"])
def _route_kernel(
    logits_ptr,
    weights_ptr,
    experts_ptr,
    T,
    E,
    stride_t,
    NUM_CHOSEN: tl.constexpr,
    NORMALISE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    tokens = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)[:, None]
    experts = tl.arange(0, BLOCK_E)[None, :]
    rows = tl.minimum(tokens, T - 1)  # beyond the end the last token again, not stored
    logits = tl.load(logits_ptr + rows * stride_t + experts, mask=experts < E, other=float("-inf")).to(tl.float32)
    largest = tl.max(logits, axis=1)[:, None]

    # A float's bits, the magnitude flipped where it is negative, are ordered as the float is. -0 becomes 0, its equal;
    # NaN is above all. Below those 32 bits lies the expert, counted from the end: a tie goes to the lower.
    bits = tl.where(logits == 0.0, 0.0, logits).to(tl.int32, bitcast=True)
    bits = tl.where(logits != logits, 0x7FFFFFFF, tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits))
    keys = tl.where(experts < E, (bits.to(tl.int64) << 32) + (BLOCK_E - 1 - experts), _TAKEN)

    slots = tl.arange(0, BLOCK_K)[None, :]
    best = tl.zeros((BLOCK_T, BLOCK_K), dtype=tl.int64)
    for slot in range(NUM_CHOSEN):
        key = tl.max(keys, axis=1)[:, None]
        best = tl.where(slots == slot, key, best)
        keys = tl.where(keys == key, _TAKEN, keys)

    chosen = BLOCK_E - 1 - (best & (BLOCK_E - 1)).to(tl.int32)
    bits = (best >> 32).to(tl.int32)
    bits = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    weights = tl.exp(bits.to(tl.float32, bitcast=True) - largest)
    if NORMALISE:
        total = tl.sum(tl.where(slots < NUM_CHOSEN, weights, 0.0), axis=1)
    else:
        total = tl.sum(tl.exp(logits - largest), axis=1)
    weights = weights / total[:, None]
    out = tokens * NUM_CHOSEN + slots
    written = (tokens < T) & (slots < NUM_CHOSEN)
    tl.store(weights_ptr + out, weights, mask=written)
    tl.store(experts_ptr + out, chosen, mask=written)


def route(logits: torch.Tensor, num_chosen: int, *, normalise: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """logits[T,E] -> (weights fp32[T,k], experts int32[T,k]), k = num_chosen; the largest weight first.

    Weights are the softmax over all E experts, in fp32; with normalise they are divided by the sum of the k chosen
    (Mixtral, Qwen3-MoE). Equal logits: the lower expert comes first, so the result is the same in every run.
    A token with a NaN (or +inf, or nothing but -inf) among its logits gets k different experts, NaN first, and NaN
    weights. logits are fp32, bf16 or fp16; rows may be strided. E <= 512, k <= 16 and k <= E. Raises ValueError.
    """
    t, e = (sizes(logits=(logits, "T E"))[letter] for letter in "TE")
    check_dtype(logits=logits)
    check_rows(logits=logits)
    device = check_device(logits=logits)
    if not 1 <= e <= MAX_EXPERTS:
        raise ValueError(f"logits{tuple(logits.shape)} has E={e}: 1..{MAX_EXPERTS} experts are supported")
    if not 1 <= num_chosen <= min(e, MAX_CHOSEN):
        raise ValueError(f"num_chosen={num_chosen}: 1..{min(e, MAX_CHOSEN)} of the E={e} experts are supported")
    weights = torch.empty(t, num_chosen, dtype=torch.float32, device=device)
    experts = torch.empty(t, num_chosen, dtype=torch.int32, device=device)
    if t:
        block_e = triton.next_power_of_2(e)
        block_t = int(min(max(1, ELEMENTS // block_e), triton.next_power_of_2(t)))
        args = logits, weights, experts, t, e, logits.stride(0), num_chosen, normalise
        blocks = {"BLOCK_T": block_t, "BLOCK_E": block_e, "BLOCK_K": triton.next_power_of_2(num_chosen)}
        launch(_route_kernel, (cdiv(t, block_t),), *args, **blocks, num_warps=1)
    return weights, experts

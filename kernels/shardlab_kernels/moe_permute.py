"""Rows of tokens to rows of experts, and back: a copy and a weighted sum, each in one pass over memory.

moe_sort.py says where each row goes. "Permute" and "unpermute" are Megatron-LM's names for the two.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from shardlab_kernels.checks import check_dtype, check_integers, check_rows, sizes, wide
from shardlab_kernels.launch import cdiv, check_device, launch, tuned
from shardlab_kernels.moe_sort import Order, sort_by_expert

__all__ = ["Order", "permute", "sort_by_expert", "unpermute"]

MAX_CHOSEN = 64  # the loop over a token's rows is unrolled, so that all its loads are on their way together

CONFIGS = [
    triton.Config({"BLOCK_D": 1024}, num_warps=4),  # 16 bytes a thread in half precision
    triton.Config({"BLOCK_D": 2048}, num_warps=4),
    triton.Config({"BLOCK_D": 512}, num_warps=2),
]


def reference_permute(x: torch.Tensor, order: Order) -> torch.Tensor:
    """x[T,D] -> rows[M,D], as `permute`. In torch: a row read and a row written per assignment, 2 * M * D."""
    return torch.where(order.token[:, None] >= 0, x[order.token.clamp(min=0).long()], 0)


def reference_unpermute(rows: torch.Tensor, order: Order, weights: torch.Tensor) -> torch.Tensor:
    """rows[M,D], weights[T,k] -> [T,D], as `unpermute`, in fp32 (fp64 for fp64).

    Written out in torch it moves, in units of M * D elements: gather 2, where 2, product 2, sum 1 and 1/k = 7 + 1/k.
    """
    gathered = wide(rows)[order.position.clamp(min=0).long()]
    scaled = torch.where(order.position[..., None] >= 0, gathered * weights[..., None], 0)
    return scaled.sum(1).to(rows.dtype)


def moved_bytes_permute(x: torch.Tensor, num_chosen: int) -> int:
    """What `permute` moves for x[T,D]: each token read once, written k times, and its k positions (int32) read."""
    return x.nbytes * (1 + num_chosen) + x.shape[0] * num_chosen * 4


def moved_bytes_unpermute(rows: torch.Tensor, num_chosen: int) -> int:
    """What `unpermute` moves for rows[M,D]: every row read, M / k written, a position and a weight (4 bytes) each."""
    return rows.nbytes + rows.nbytes // num_chosen + rows.shape[0] * 8


def flops_unpermute(rows: torch.Tensor) -> int:
    """A product and an addition for each element of these rows."""
    return 2 * rows.numel()


@tuned(CONFIGS, key=["D", "NUM_CHOSEN"])
@triton.jit(do_not_specialize=["E"])
def _permute_kernel(
    x_ptr, position_ptr, offsets_ptr, rows_ptr, E, D, stride_t, NUM_CHOSEN: tl.constexpr, BLOCK_D: tl.constexpr
):
    """One part of one token: read once, written to each of its rows. Programs of one token are neighbours."""
    parts = tl.cdiv(D, BLOCK_D)
    token = (tl.program_id(0) // parts).to(tl.int64)
    columns = tl.program_id(0) % parts * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = columns < D
    x = tl.load(x_ptr + token * stride_t + columns, mask=inside)
    num_rows = tl.load(offsets_ptr + E)
    for j in range(NUM_CHOSEN):
        row = tl.load(position_ptr + token * NUM_CHOSEN + j).to(tl.int64)
        tl.store(rows_ptr + row * D + columns, x, mask=inside & (row >= 0))
        row = token * NUM_CHOSEN + j
        tl.store(rows_ptr + row * D + columns, tl.zeros_like(x), mask=inside & (row >= num_rows))


def permute(x: torch.Tensor, order: Order) -> torch.Tensor:
    """x[T,D], order of T tokens -> rows[M,D]: rows[position[t,j]] = x[t], expert by expert, M = T * k.

    Rows that no assignment fills are zero. x is fp32, bf16 or fp16; its rows may be strided. Raises ValueError.
    """
    found = _check_order(order) | sizes(x=(x, "T D"), position=(order.position, "T k"))
    check_dtype(x=x)
    check_rows(x=x)
    device = check_device(x=x, offsets=order.offsets, token=order.token, position=order.position)
    d, k = found["D"], found["k"]
    rows = torch.empty(order.token.numel(), d, dtype=x.dtype, device=device)
    if rows.numel():
        args = x, order.position, order.offsets, rows, order.offsets.numel() - 1, d, x.stride(0), k
        launch(_permute_kernel, lambda meta: (x.shape[0] * cdiv(d, meta["BLOCK_D"]),), *args)
    return rows


@tuned(CONFIGS, key=["D", "NUM_CHOSEN"])
@triton.jit
def _unpermute_kernel(
    rows_ptr, position_ptr, weights_ptr, out_ptr, D, stride_m, NUM_CHOSEN: tl.constexpr, BLOCK_D: tl.constexpr
):
    """One part of one token: its rows read, weighted and added in fp32, in the order of j."""
    parts = tl.cdiv(D, BLOCK_D)
    token = (tl.program_id(0) // parts).to(tl.int64)
    columns = tl.program_id(0) % parts * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = columns < D
    acc = tl.zeros((BLOCK_D,), dtype=tl.float32)
    for j in tl.static_range(NUM_CHOSEN):
        row = tl.load(position_ptr + token * NUM_CHOSEN + j).to(tl.int64)
        weight = tl.load(weights_ptr + token * NUM_CHOSEN + j)
        part = tl.load(rows_ptr + row * stride_m + columns, mask=inside & (row >= 0), other=0.0)
        acc += tl.where(row >= 0, weight, 0.0) * part.to(tl.float32)  # a dropped one may have any weight, NaN too
    tl.store(out_ptr + token * D + columns, acc.to(out_ptr.dtype.element_ty), mask=inside)


def unpermute(rows: torch.Tensor, order: Order, weights: torch.Tensor) -> torch.Tensor:
    """rows[M,D], weights fp32[T,k] -> [T,D]: sum over j of weights[t,j] * rows[position[t,j]].

    Added in fp32 in the order of j, rounded once to the dtype of rows: fp32, bf16 or fp16. Assignments that were
    dropped (position -1) add nothing. Rows may be strided. Raises ValueError.
    """
    found = _check_order(order) | sizes(
        rows=(rows, "M D"), token=(order.token, "M"), weights=(weights, "T k"), position=(order.position, "T k")
    )
    check_dtype(rows=rows)
    check_rows(rows=rows)
    if weights.dtype != torch.float32:
        raise ValueError(f"weights is {weights.dtype}: torch.float32 is needed")
    device = check_device(rows=rows, weights=weights, token=order.token, position=order.position)
    t, d, k = found["T"], found["D"], found["k"]
    out = torch.empty(t, d, dtype=rows.dtype, device=device)
    if not rows.numel():
        return out.zero_()
    args = rows, order.position, weights.contiguous(), out, d, rows.stride(0), k
    launch(_unpermute_kernel, lambda meta: (t * cdiv(d, meta["BLOCK_D"]),), *args)
    return out


def _check_order(order: Order) -> dict[str, int]:
    """-> its sizes M, T, k. Raises ValueError for what `sort_by_expert` does not make."""
    found = sizes(offsets=(order.offsets, "E+1"), token=(order.token, "M"), position=(order.position, "T k"))
    check_integers(offsets=order.offsets, token=order.token, position=order.position)
    if found["M"] != found["T"] * found["k"]:
        raise ValueError(
            f"token{tuple(order.token.shape)} and position{tuple(order.position.shape)}: M = T * k is needed"
        )
    if found["k"] > MAX_CHOSEN:
        raise ValueError(f"position{tuple(order.position.shape)} has k={found['k']}: at most {MAX_CHOSEN} is supported")
    for name, tensor in (("offsets", order.offsets), ("token", order.token), ("position", order.position)):
        if not tensor.is_contiguous():
            raise ValueError(f"{name}{tuple(tensor.shape)} has strides {tensor.stride()}: a contiguous one is needed")
    return found

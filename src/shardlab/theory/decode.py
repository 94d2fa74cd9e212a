"""Decode under tensor parallelism: what one token costs, and when one more rank stops helping."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shardlab.theory import roofline
from shardlab.theory.collectives import wire_bytes
from shardlab.theory.hardware import Accelerator
from shardlab.theory.transformer import Shape


@dataclass(frozen=True)
class AllReduceTimes:
    """The all-reduces of one decoded token, timed three ways."""

    num_all_reduces: int  # 2 a layer; the embedding's one is left out, as in the chapter
    tensor_bytes: int  # what one all-reduce sums
    sent_bytes: float  # what one rank sends for it, ring
    bandwidth_only_s: float  # sent_bytes at the link's rate: no latency at all
    measured_s: float  # what somebody measured for one all-reduce of about that size
    total_measured_s: float  # all of a token's all-reduces at the measured time
    weight_read_s: float  # the rank's share of all the weights, once through HBM


def all_reduce_times(
    shape: Shape,
    tp: int,
    accelerator: Accelerator,
    *,
    measured_s: float,
    batch: int = 1,
    dtype_bytes: int = 2,
) -> AllReduceTimes:
    """One token of `batch` sequences at T = tp: bytes, the bandwidth term, and a measured time beside it.

    weight_read_s divides the model's bytes by T, as the chapter does; roofline.hbm_bytes is the finer count.
    """
    tensor_bytes = batch * shape.d_model * dtype_bytes
    sent = wire_bytes("all_reduce", num_bytes=tensor_bytes, world_size=tp)
    number = 2 * shape.num_layers
    return AllReduceTimes(
        num_all_reduces=number,
        tensor_bytes=tensor_bytes,
        sent_bytes=sent,
        bandwidth_only_s=sent / accelerator.link.bandwidth_Bps,
        measured_s=measured_s,
        total_measured_s=number * measured_s,
        weight_read_s=shape.weight_bytes(dtype_bytes) / tp / accelerator.hbm_Bps,
    )


def token_s(
    shape: Shape,
    tp: int,
    accelerator: Accelerator,
    all_reduce_s: Callable[[int], float],
    *,
    batch: int = 1,
    past: int = 0,
    dtype_bytes: int = 2,
) -> float:
    """Seconds of one decode step: memory time + (2L + 1) all-reduces, nothing hidden.

    all_reduce_s(T) is the time of one all-reduce of this step's tensor on T ranks: a formula or a
    measurement. The logits' gather is left out: one op beside 2L + 1.
    """
    memory_s = roofline.hbm_bytes(shape, tp, batch=batch, seq=1, past=past, dtype_bytes=dtype_bytes)
    memory_s /= accelerator.hbm_Bps
    if tp == 1:
        return memory_s
    return memory_s + (2 * shape.num_layers + 1) * all_reduce_s(tp)


def best_tp(token_seconds: Mapping[int, float]) -> int:
    """The degree with the least time a token; the smaller one where two are equal.

    Adding ranks stops helping where the all-reduces grow by more than the memory time shrinks. That is not
    where communication takes longer than the work: it may help past that point, and may not before it.
    """
    if not token_seconds:
        raise ValueError("token_seconds is empty: at least one degree is needed")
    return min(sorted(token_seconds), key=lambda tp: token_seconds[tp])


def break_even_all_reduce_s(
    shape: Shape,
    tp: int,
    accelerator: Accelerator,
    *,
    from_tp: int = 1,
    from_all_reduce_s: float = 0.0,
    batch: int = 1,
    past: int = 0,
    dtype_bytes: int = 2,
) -> float:
    """The all-reduce time above which `tp` ranks decode no faster than `from_tp` ranks."""
    if tp <= from_tp:
        raise ValueError(f"tp={tp} must be above from_tp={from_tp}")
    before = token_s(
        shape,
        from_tp,
        accelerator,
        lambda _: from_all_reduce_s,
        batch=batch,
        past=past,
        dtype_bytes=dtype_bytes,
    )
    memory = token_s(shape, tp, accelerator, lambda _: 0.0, batch=batch, past=past, dtype_bytes=dtype_bytes)
    return (before - memory) / (2 * shape.num_layers + 1)

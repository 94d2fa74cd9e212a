"""The knobs of lab 03: what one all-reduce costs when T, D, the batch and the dtype change."""

from __future__ import annotations

from shardlab.theory import collectives, hardware
from shardlab.theory.units import decimal_bytes_text, seconds_text
from shardlab.viz.bars import Bar, bars

DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp8": 1}


def all_reduce_knobs(
    T: int,
    D: int,
    batch: int,
    dtype: str,
    num_layers: int = 80,
    link: str = "nvlink4",
) -> str:
    """x[batch,1,D]{tp} -> x[batch,1,D]: bytes and times of one decode step's all-reduces, as HTML bars.

    Formula only: a ring over `link` of the catalogue. Raises ValueError for an unknown dtype or link.
    """
    if dtype not in DTYPE_BYTES:
        raise ValueError(f"dtype={dtype!r}; allowed: {', '.join(DTYPE_BYTES)}")
    wire = hardware.link(link)
    num_bytes = batch * D * DTYPE_BYTES[dtype]
    sent = collectives.wire_bytes("all_reduce", num_bytes=num_bytes, world_size=T)
    seconds = collectives.time_s("all_reduce", num_bytes=num_bytes, world_size=T, link=wire)
    number = 2 * num_layers + 1
    rows = [
        _bytes("a rank sends, one all-reduce", sent),
        _bytes(f"a rank sends, all {number}", number * sent),
        _time("one, bandwidth alone", sent / wire.bandwidth_Bps),
        _time("one, with a latency each step", seconds),
        _time(f"all {number} of a step", number * seconds),
    ]
    caption = (
        f"{batch} x {D} numbers of {dtype} = {decimal_bytes_text(num_bytes)}, ring of {T} ranks, "
        f"{num_layers} layers, {wire.bandwidth_Bps / 1e9:g} GB/s each way, "
        f"{seconds_text(wire.alpha_s)} a step. Predicted; bars are logarithmic."
    )
    return bars(rows, caption)


def _bytes(label: str, value: float) -> Bar:
    return Bar(label, value, decimal_bytes_text(value), 100, 1e9)


def _time(label: str, value: float) -> Bar:
    return Bar(label, value, seconds_text(value), 1e-9, 1e-1)

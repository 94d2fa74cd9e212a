"""The knobs of lab 01: from a time to algbw, from algbw to busbw, from busbw back to the bytes of one port."""

from __future__ import annotations

from shardlab.theory import collectives, hardware
from shardlab.theory.units import bandwidth_text, decimal_bytes_text, seconds_text
from shardlab.viz.bars import Bar, bars

SIZES = {"1 KB": 10**3, "64 KB": 64 * 10**3, "1 MB": 10**6, "64 MB": 64 * 10**6, "1 GB": 10**9}


def bandwidth_knobs(op: str, size: str, T: int, link: str) -> str:
    """One collective of `size` over a ring of T ranks: bytes, time, algbw and busbw, as HTML bars.

    Formula only: the alpha-beta time over a `link` of the catalogue. Raises ValueError for an unknown op, size or link.
    """
    if size not in SIZES:
        raise ValueError(f"size={size!r}; allowed: {', '.join(SIZES)}")
    wire, num_bytes = hardware.link(link), SIZES[size]
    sent = collectives.wire_bytes(op, num_bytes=num_bytes, world_size=T)
    seconds = collectives.time_s(op, num_bytes=num_bytes, world_size=T, link=wire)
    algbw = collectives.algbw_Bps(num_bytes, seconds)
    factor = collectives.busbw_factor(op, T)
    rows = [
        Bar("a rank sends", sent, decimal_bytes_text(sent), 100, 1e10),
        Bar("time", seconds, seconds_text(seconds), 1e-7, 1),
        _bandwidth("algbw = S / time", algbw),
        _bandwidth(f"busbw = algbw x {factor:.3g}", algbw * factor),
        _bandwidth("the link, one way", wire.bandwidth_Bps),
    ]
    caption = (
        f"{op} of S = {size} on {T} ranks, {bandwidth_text(wire.bandwidth_Bps)} each way, "
        f"{seconds_text(wire.alpha_s)} a step. Predicted; bars are logarithmic."
    )
    return bars(rows, caption)


def _bandwidth(label: str, value: float) -> Bar:
    return Bar(label, value, bandwidth_text(value), 1e7, 1e12)

"""Points of a sweep as a curve: measured times or bandwidths, and what a model says of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shardlab.measure.point import Point
from shardlab.theory import collectives
from shardlab.viz.curves import Curve

Seconds = Callable[[float], float]  # bytes -> seconds
_FINE = 4  # points of a line between two measured sizes


def swept(label: str, points: Sequence[Point], model: Seconds | None = None, *, color: int | None = None) -> Curve:
    """Time against size: median with p10..p90, and the model's line from the smallest size to the largest."""
    measured = [(point.num_bytes, point.median_s, point.p10_s, point.p90_s) for point in _in_order(points)]
    sizes = _between([point.num_bytes for point in _in_order(points)])
    line = [(size, model(size)) for size in sizes] if model else ()
    return Curve(label, line, measured, color)


def swept_busbw(
    label: str, points: Sequence[Point], model: Seconds | None = None, *, color: int | None = None
) -> Curve:
    """The same points as bus bandwidth: S / time, times the factor of nccl-tests."""
    ordered = _in_order(points)
    op, size = ordered[0].op, ordered[0].world_size

    def busbw(num_bytes: float, seconds: float) -> float:
        return collectives.busbw_Bps(op, num_bytes=num_bytes, world_size=size, seconds=seconds)

    measured = [
        (one.num_bytes, *(busbw(one.num_bytes, seconds) for seconds in (one.median_s, one.p90_s, one.p10_s)))
        for one in ordered
    ]
    sizes = _between([one.num_bytes for one in ordered])
    line = [(num_bytes, busbw(num_bytes, model(num_bytes))) for num_bytes in sizes] if model else ()
    return Curve(label, line, measured, color)


def signed_errors(label: str, points: Sequence[Point], model: Seconds, *, color: int | None = None) -> Curve:
    """predicted / measured - 1 at each size: above 0 where the model is too slow."""
    errors = [(one.num_bytes, model(one.num_bytes) / one.median_s - 1) for one in _in_order(points)]
    return Curve(label, (), errors, color)


def _in_order(points: Sequence[Point]) -> list[Point]:
    """By size. Raises ValueError for none, or for points that are not of one op on one number of ranks."""
    if len({(point.op, point.world_size) for point in points}) != 1:
        raise ValueError(f"{len(points)} points: a curve is of one op on one number of ranks, at least one point")
    return sorted(points, key=lambda point: point.num_bytes)


def _between(sizes: Sequence[int]) -> list[float]:
    """The sizes, and some in equal steps of their logarithm between each two."""
    found = [
        low * (high / low) ** (step / _FINE)
        for low, high in zip(sizes, sizes[1:], strict=False)
        for step in range(_FINE)
    ]
    return [*found, float(sizes[-1])]

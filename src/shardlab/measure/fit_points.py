"""From the points of a sweep to a cost model: one fit for each implementation on each number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from shardlab.measure.fit import Sample, fit
from shardlab.measure.point import Point
from shardlab.theory.cost import Cost, CostModel, critical_path


def sample(point: Point) -> Sample:
    """A point as the fit wants it: hops and bytes on the critical path, and the median."""
    path = {"num_bytes": point.num_bytes, "world_size": point.world_size, "algorithm": point.algorithm}
    return Sample(*critical_path(point.op, **path), point.median_s)


def of_points(points: Iterable[Point], how: Callable[[Iterable[Sample]], Cost] = fit) -> CostModel:
    """What `how` (measure.fit.fit or fit_line) makes of each implementation's points.

    Raises ValueError where an implementation has points of one size only.
    """
    samples: dict[tuple[str, str, str, int], list[Sample]] = {}
    for point in points:
        samples.setdefault((*point.implementation, point.world_size), []).append(sample(point))
    return CostModel({key: how(found) for key, found in samples.items()})

"""All cases, those that a goal asks for first: the last ones may not fit in the time."""

from __future__ import annotations

from shardlab_kernels.bench import attention, communicating, dense, moe, quantised
from shardlab_kernels.bench.case import Case

_ALL = [case for area in (attention, dense, quantised, moe, communicating) for case in area.cases()]
CASES: list[Case] = sorted(_ALL, key=lambda case: case.goal is None)

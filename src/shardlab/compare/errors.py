"""The cost model on other people's all-reduces: what it was fitted to, and how far off it is on the rest.

shardlab.compare.held_out is the protocol: what is fitted, what is held out, and why. Here are the errors, beside those
of the plain alpha-beta line and of NCCL's own model. No torch here. The fit needs scipy, so `shardlab.compare.tables`,
which runs on the standard library, does not import this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from shardlab import compare
from shardlab.compare.held_out import EXPERIMENTS, RULES, Experiment, Source
from shardlab.measure.fit import Sample, fit, fit_line
from shardlab.measure.record import Published
from shardlab.theory import nccl
from shardlab.theory.cost import Cost, TimeOf, critical_path


@dataclass(frozen=True)
class Errors:
    """One table against a model: predicted / measured - 1 at each size, and the geometric mean over the table."""

    name: str
    held_out: bool
    num_bytes: tuple[int, ...]
    measured_s: tuple[float, ...]
    predicted_s: tuple[float, ...]

    @property
    def signed(self) -> tuple[float, ...]:
        """Above 0 where the model is too slow."""
        return tuple(model / real - 1 for model, real in zip(self.predicted_s, self.measured_s, strict=True))

    @property
    def geomean(self) -> float:
        """exp(mean |log(predicted / measured)|) - 1."""
        return compare.geomean_error(self.predicted_s, self.measured_s)


def published_errors() -> list[Errors]:
    """Every table of EXPERIMENTS against the fitted cost model, experiment by experiment, the fitted tables first."""
    return [errors for experiment in EXPERIMENTS for errors in _errors(experiment, fit)]


def line_errors() -> list[Errors]:
    """The same with the plain alpha-beta line, fitted to the same rows."""
    return [errors for experiment in EXPERIMENTS for errors in _errors(experiment, fit_line)]


def nccl_errors() -> list[Errors]:
    """NCCL's own tuning model, which nobody fitted, on the tables of NCCL."""
    experiment = next(one for one in EXPERIMENTS if one.rule == "nccl")
    estimate = nccl.model(nccl.DGX_H100)
    held = [(source, False) for source in experiment.fitted] + [(source, True) for source in experiment.held_out]
    return [model_errors(source, estimate, held_out=is_held_out) for source, is_held_out in held]


def model_errors(source: Source, model: TimeOf, *, held_out: bool = True) -> Errors:
    """One table against any TimeOf."""
    rows = source.rows()
    predicted = [model("all_reduce", num_bytes=row.num_bytes, world_size=row.world_size) for row in rows]
    return _table(source.name, held_out, rows, predicted)


def overall(errors: Iterable[Errors]) -> float:
    """Geometric mean error over all rows of several tables."""
    tables = list(errors)
    return compare.geomean_error(
        [one for table in tables for one in table.predicted_s], [one for table in tables for one in table.measured_s]
    )


def costs(experiment: Experiment, how: Callable[[Iterable[Sample]], Cost] = fit) -> dict[str, Cost]:
    """algorithm -> the constants that `how` finds in the fitted tables."""
    samples: dict[str, list[Sample]] = {}
    for source in experiment.fitted:
        for row in source.rows():
            algorithm = RULES[experiment.rule](row.num_bytes, row.world_size)
            hops, wire = _path(algorithm, row.num_bytes, row.world_size)
            samples.setdefault(algorithm, []).append(Sample(hops, wire, row.seconds))
    return {algorithm: how(found) for algorithm, found in samples.items()}


def _errors(experiment: Experiment, how: Callable[[Iterable[Sample]], Cost]) -> list[Errors]:
    found = costs(experiment, how)

    def seconds(row: Published) -> float:
        algorithm = RULES[experiment.rule](row.num_bytes, row.world_size)
        return found[algorithm].time_s(*_path(algorithm, row.num_bytes, row.world_size))

    tables = [(source, False) for source in experiment.fitted] + [(source, True) for source in experiment.held_out]
    return [
        _table(source.name, held_out, source.rows(), [seconds(row) for row in source.rows()])
        for source, held_out in tables
    ]


def _table(name: str, held_out: bool, rows: Sequence[Published], predicted: Sequence[float]) -> Errors:
    return Errors(
        name,
        held_out,
        tuple(row.num_bytes for row in rows),
        tuple(row.seconds for row in rows),
        tuple(predicted),
    )


@cache
def _path(algorithm: str, num_bytes: int, world_size: int) -> tuple[int, float]:
    """Hops and bytes on the critical path. In the switch (nvls): fetch and add, then multicast, so two hops."""
    if algorithm == "nvls":
        return 2, nccl.nvls_wire_bytes(num_bytes, world_size)
    return critical_path("all_reduce", num_bytes=num_bytes, world_size=world_size, algorithm=algorithm)

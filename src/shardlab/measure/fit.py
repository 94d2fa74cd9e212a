"""Fitting T = base + alpha * hops + S_wire / b + c * sqrt(S_wire) to measured times.

Times run over six orders of magnitude, so what is kept small is the relative error: least squares on log(T / measured).
All constants are held at 0 or above: a negative latency predicts nonsense somewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares, nnls

from shardlab.theory.cost import Cost


@dataclass(frozen=True)
class Sample:
    """One measurement: hops and bytes on the critical path (theory.cost.critical_path), and seconds."""

    hops: int
    wire_bytes: float
    seconds: float

    def __post_init__(self) -> None:
        if self.hops < 1 or not 0 <= self.wire_bytes < math.inf:
            raise ValueError(f"hops={self.hops}, wire_bytes={self.wire_bytes}; allowed: 1 or more, 0 or more")
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"seconds={self.seconds}; allowed: above 0, finite")


def fit(samples: Iterable[Sample]) -> Cost:
    """The constants that fit best, in relative error; the same samples give the same constants.

    What the samples cannot tell apart is left out: base needs two numbers of hops (else it is 0 and alpha holds it),
    the square root needs three sizes, the bandwidth two. Raises ValueError for fewer than two sizes.
    """
    return _fit(list(samples), with_sqrt=True)


def fit_line(samples: Iterable[Sample]) -> Cost:
    """The plain alpha-beta line (Hockney 1994), fitted in the same way: no square root."""
    return _fit(list(samples), with_sqrt=False)


def residuals(cost: Cost, samples: Iterable[Sample]) -> list[float]:
    """measured / predicted - 1, sample by sample: above 0 where reality was slower than the cost says."""
    return [one.seconds / cost.time_s(one.hops, one.wire_bytes) - 1 for one in samples]


def _fit(samples: list[Sample], *, with_sqrt: bool) -> Cost:
    num_sizes = len({one.wire_bytes for one in samples})
    if num_sizes < 2:
        raise ValueError(f"{len(samples)} samples of {num_sizes} sizes; a fit needs two sizes or more")
    hops = np.array([one.hops for one in samples], dtype=float)
    wire = np.array([one.wire_bytes for one in samples], dtype=float)
    seconds = np.array([one.seconds for one in samples], dtype=float)
    columns = {"alpha": hops, "beta": wire}
    if with_sqrt and num_sizes > 2:
        columns["sqrt"] = np.sqrt(wire)
    if len(set(hops)) > 1:
        columns["base"] = np.ones_like(hops)
    # Divided by the measured times, every row asks for a sum of 1, and a constant's size no longer depends on units.
    rows = np.stack(list(columns.values()), axis=1) / seconds[:, None]
    scale = rows.max(axis=0)
    found = dict(zip(columns, _nonnegative(rows / scale) / scale, strict=True))
    beta = float(found["beta"])
    return Cost(
        alpha_s=float(found["alpha"]),
        bandwidth_Bps=1 / beta if beta else math.inf,
        sqrt_s=float(found.get("sqrt", 0.0)),
        base_s=float(found.get("base", 0.0)),
    )


def _nonnegative(rows: np.ndarray) -> np.ndarray:
    """x >= 0 with the least sum of squares of log(rows @ x). rows[m, n] -> x[n]."""
    start, _ = nnls(rows, np.ones(len(rows)))
    # The linear fit minimises (rows @ x - 1)^2, which is the same to first order. It starts off the bounds, where the
    # search has room, and above 0 in every row.
    start = np.maximum(start, 1e-3)
    solved = least_squares(
        lambda x: np.log(rows @ x),
        start,
        jac=lambda x: rows / (rows @ x)[:, None],  # type: ignore[arg-type]  # scipy's stubs know only names here
        bounds=(0.0, np.inf),
        xtol=1e-9,
        ftol=1e-9,
        gtol=1e-9,
        max_nfev=60,
    )
    # An interior search comes near a bound without reaching it: where leaving a constant out is no worse, it goes.
    return _polished(rows, solved.x)


def _polished(rows: np.ndarray, x: np.ndarray) -> np.ndarray:
    def loss(y: np.ndarray) -> float:
        total = rows @ y
        return math.inf if total.min() <= 0 else float(np.sum(np.log(total) ** 2))

    for index in np.argsort(x):
        without = x.copy()
        without[index] = 0.0
        if loss(without) <= loss(x) * (1 + 1e-6) + 1e-18:
            x = without
    return x

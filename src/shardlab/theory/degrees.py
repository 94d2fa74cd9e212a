"""A plan: how many ranks each way of parallelism gets."""

from __future__ import annotations

from dataclasses import dataclass, fields

AXES = ("dp", "pp", "cp", "tp")  # outermost first: tp ranks are neighbours


@dataclass(frozen=True)
class Plan:
    """Ranks on each axis of the mesh, in the order dp, pp, cp, tp (tp changes fastest).

    dp replicas, pp pipeline stages, cp sequence shards, tp tensor shards. ep adds no ranks: it is an alias
    over the dp x cp x tp ranks of one stage, so it has to divide their number.
    Raises ValueError for a degree that is not a positive integer.
    """

    dp: int = 1
    pp: int = 1
    cp: int = 1
    tp: int = 1
    ep: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            degree = getattr(self, field.name)
            if isinstance(degree, bool) or not isinstance(degree, int) or degree < 1:
                raise ValueError(f"{field.name}={degree!r}: a degree is an integer of 1 or more")
        if (self.dp * self.cp * self.tp) % self.ep:
            ranks = self.dp * self.cp * self.tp
            divisors = ", ".join(str(degree) for degree in range(1, ranks + 1) if ranks % degree == 0)
            raise ValueError(f"ep={self.ep} does not divide dp * cp * tp = {ranks}; degrees that work: {divisors}")

    @property
    def world_size(self) -> int:
        """All ranks of the mesh: dp * pp * cp * tp."""
        return self.dp * self.pp * self.cp * self.tp

    @property
    def sizes(self) -> dict[str, int]:
        """Axis name -> ranks on it, outermost first."""
        return {axis: getattr(self, axis) for axis in AXES}

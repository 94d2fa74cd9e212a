"""A plan, and the rank grid that follows from it: which ranks are on which axis."""

from __future__ import annotations

from dataclasses import dataclass, fields

AXES = ("dp", "pp", "cp", "tp")  # outermost first: tp ranks are neighbours
ALL_AXES = (*AXES, "ep")  # ep adds no ranks: its groups are runs of the dp x cp x tp ranks of one stage


@dataclass(frozen=True)
class Plan:
    """Ranks on each axis of the mesh, in the order dp, pp, cp, tp (tp changes fastest).

    dp replicas, pp pipeline stages, cp sequence shards, tp tensor shards. ep adds no ranks: it is an alias
    over the dp x cp x tp ranks of one stage, so it has to divide their number, and to divide tp or be a multiple of
    it: ranks that hold the same tokens then stay together.
    Raises ValueError for a degree that is not a positive integer, and for an ep whose groups do not fit the grid.
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
        ranks = self.dp * self.cp * self.tp
        if not self._nests(self.ep):
            works = ", ".join(str(ep) for ep in range(1, ranks + 1) if self._nests(ep))
            reason = f"does not divide dp * cp * tp = {ranks}"
            if ranks % self.ep == 0:
                reason = f"neither divides tp={self.tp} nor is a multiple of it"
            raise ValueError(f"ep={self.ep} {reason}; degrees that work: {works}")

    def _nests(self, ep: int) -> bool:
        return (self.dp * self.cp * self.tp) % ep == 0 and (self.tp % ep == 0 or ep % self.tp == 0)

    @property
    def world_size(self) -> int:
        """All ranks of the mesh: dp * pp * cp * tp."""
        return self.dp * self.pp * self.cp * self.tp

    @property
    def experts_span_replicas(self) -> bool:
        """Whether an ep group reaches over more than one replica: then these need each other in every layer."""
        return self.ep > self.cp * self.tp

    @property
    def sizes(self) -> dict[str, int]:
        """Axis name -> ranks on it, outermost first."""
        return {axis: getattr(self, axis) for axis in AXES}

    def __str__(self) -> str:
        """`dp2 tp4`: the degrees above 1."""
        return " ".join(f"{axis}{getattr(self, axis)}" for axis in ALL_AXES if getattr(self, axis) > 1) or "1 rank"


def coordinates(rank: int, plan: Plan) -> dict[str, int]:
    """Position of a global rank on each axis, ep included. Raises ValueError for a rank outside the plan."""
    if not 0 <= rank < plan.world_size:
        raise ValueError(f"rank={rank} is outside the plan's {plan.world_size} ranks (0..{plan.world_size - 1})")
    position = {}
    rest = rank
    for axis in reversed(AXES):
        rest, position[axis] = divmod(rest, getattr(plan, axis))
    position["ep"] = _place_in_stage(position, plan) % plan.ep
    return position


def groups(plan: Plan, axis: str) -> tuple[tuple[int, ...], ...]:
    """Every line of the grid along `axis`: global ranks in axis order, the line of the lowest rank first.

    dp, pp, cp, tp: the ranks that differ on that axis alone. ep: `ep` neighbours among the dp x cp x tp ranks of one
    stage. Raises ValueError for a name that is no axis.
    """
    if axis not in ALL_AXES:
        raise ValueError(f"axis={axis!r} is not an axis of the grid; they are {', '.join(ALL_AXES)}")
    lines: dict[tuple[int, ...], list[int]] = {}
    for rank in range(plan.world_size):
        place = coordinates(rank, plan)
        if axis == "ep":
            key = (place["pp"], _place_in_stage(place, plan) // plan.ep)
        else:
            key = tuple(place[other] for other in AXES if other != axis)
        lines.setdefault(key, []).append(rank)
    return tuple(sorted(map(tuple, lines.values())))


def axis_ranks(rank: int, plan: Plan, axis: str) -> tuple[int, ...]:
    """Global ranks on the line of `axis` that passes through `rank`, in axis order."""
    coordinates(rank, plan)  # a rank that is not in the grid is named
    return next(line for line in groups(plan, axis) if rank in line)


def _place_in_stage(place: dict[str, int], plan: Plan) -> int:
    """0 .. dp * cp * tp - 1, tp fastest."""
    return (place["dp"] * plan.cp + place["cp"]) * plan.tp + place["tp"]

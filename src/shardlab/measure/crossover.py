"""Where two implementations change places, read off two curves of time over size: measured ones, or predicted ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEAD = 1.1


@dataclass(frozen=True)
class Crossover:
    """Below num_bytes one of two is faster, above it the other."""

    num_bytes: float
    first_below: bool  # True: the first of the two is the faster one below

    def agrees(self, other: Crossover | None) -> bool:
        """Within a power of two, and the same way round."""
        if other is None or self.first_below != other.first_below:
            return False
        return abs(math.log2(self.num_bytes / other.num_bytes)) <= 1


def crossover(
    sizes: Sequence[float], first_s: Sequence[float], second_s: Sequence[float], *, lead: float = LEAD
) -> Crossover | None:
    """The size at which the faster of two becomes the slower; None where one of them leads throughout.

    Measured curves touch and part again by chance, so no single point decides. Of all places between two neighbouring
    sizes, and both ends, the one is taken that leaves the least on the wrong side: the sum of |log(first / second)|
    over the sizes that the split calls falsely. On curves that cross once and cleanly, that is between the last size
    of the one and the first of the other; the geometric mean of the two is returned. A side that is nowhere won by a
    factor of `lead` is no lead but a tie, and then there is no crossover.
    sizes ascend. Raises ValueError for curves of different lengths.
    """
    ratios = [math.log(first / second) for _, first, second in zip(sizes, first_s, second_s, strict=True)]
    # (what is on the wrong side, where to split, whether the first is the faster one below)
    splits = [
        (
            sum(max(0.0, way * ratio) for ratio in ratios[:at]) + sum(max(0.0, -way * ratio) for ratio in ratios[at:]),
            at,
            way > 0,
        )
        for at in range(len(ratios) + 1)
        for way in (1, -1)
    ]
    _, at, first_below = min(splits, key=lambda split: split[0])
    way = 1 if first_below else -1
    won_below = max((-way * ratio for ratio in ratios[:at]), default=0.0)
    won_above = max((way * ratio for ratio in ratios[at:]), default=0.0)
    if min(won_below, won_above) < math.log(lead):
        return None
    return Crossover(math.sqrt(sizes[at - 1] * sizes[at]), first_below)

"""Run a program and count its bytes: on the wire where the kernel shows them, from comm's record where it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shardlab.launch import Ranks
from shardlab.theory import collectives, ledger
from shardlab.theory.degrees import Plan
from shardlab.theory.ledger import Transfer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Observed:
    """One run: each rank's result, rank 0's transfers, and who sent how much to whom."""

    results: list[Any]
    transfers: list[Transfer]
    traffic: NDArray[np.int64]  # [T, T]: bytes that rank i sent to rank j
    source: str  # "on the wire" or "recorded": what `traffic` was taken from

    @property
    def sent_bytes(self) -> int:
        """What the busiest rank sent."""
        return int(self.traffic.sum(axis=1).max())


def observe(ranks: Ranks, program: Callable[..., Any], *args: Any, plan: Plan, **kwargs: Any) -> Observed:
    """`ranks.run(program, *args, plan=plan, **kwargs)`, and its bytes.

    Without the kernel's counters (another operating system, a sandbox) it says so in a line, and `traffic` is what the
    recorded transfers amount to under the algorithms that gloo runs: a count of payload, with nothing measured in it.
    """
    import numpy as np

    results = ranks.run(program, *args, plan=plan, wire=True, **kwargs)
    transfers = ranks.transfers[0]
    try:
        return Observed(results, transfers, ranks.wire, "on the wire")
    except ValueError as reason:
        print(f"{reason}: showing recorded bytes instead")
    traffic = sum(
        (np.array(collectives.traffic_matrix(t.op, t.num_bytes, getattr(plan, t.axis))) for t in transfers),
        start=np.zeros((plan.world_size, plan.world_size)),
    )
    return Observed(results, transfers, traffic.astype(np.int64), "recorded")


def agrees(observed: Observed, *, within: float = 0.01) -> bool:
    """Whether the busiest rank's bytes are within 1 % of what its recorded transfers must send by the formula."""
    size = len(observed.traffic)
    return abs(observed.sent_bytes / ledger.sent_bytes(observed.transfers, world_size=size) - 1) <= within

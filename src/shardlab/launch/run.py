"""One run and what is known of it: results, what each rank recorded, and what the ranks' sockets counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardlab.comm.recorder import Empty
from shardlab.launch.recorded import Recorded
from shardlab.theory.degrees import Plan
from shardlab.theory.ledger import Transfer


@dataclass(frozen=True, eq=False)
class Run:
    """What Ranks.run leaves in Ranks.last."""

    results: list[Any]  # of rank 0, rank 1, ...
    plan: Plan
    transfers: list[list[Transfer]]  # of each rank, in order
    empty: list[dict[Empty, int]] = field(repr=False)  # of each rank: calls without payload, barriers for one
    wire: NDArray[np.int64] | str = field(repr=False)  # [T, T], or why there is none

    @property
    def measured(self) -> bool:
        """Whether the ranks' socket counters were read."""
        return not isinstance(self.wire, str)

    @property
    def source(self) -> str:
        """Where `bytes` is from: "on the wire", or "recorded" where nothing was measured."""
        return "on the wire" if self.measured else "recorded"

    @property
    def traffic(self) -> NDArray[np.int64]:
        """traffic[T, T] as measured: bytes that rank i sent to rank j. ValueError says why there is none."""
        if isinstance(self.wire, str):
            raise ValueError(f"no bytes on the wire to show: {self.wire}")
        return self.wire

    @property
    def recorded(self) -> NDArray[np.int64]:
        """[T, T]: the payload that the recorded transfers of all ranks amount to, under what gloo runs."""
        return np.rint(self._recorded.payload).astype(np.int64)

    @property
    def bytes(self) -> NDArray[np.int64]:
        """[T, T]: the traffic where it was measured, else what was recorded; `source` says which."""
        return self.traffic if self.measured else self.recorded

    @property
    def sent_bytes(self) -> int:
        """What the busiest rank sent, by `bytes`."""
        return int(self.bytes.sum(axis=1).max())

    @property
    def by_axis(self) -> dict[str, list[list[Transfer]]]:
        """Axis -> the transfers of each rank on it. Axes on which nobody sent anything are not there."""
        axes = dict.fromkeys(one.axis for sent in self.transfers for one in sent)
        return {axis: [[one for one in sent if one.axis == axis] for sent in self.transfers] for axis in axes}

    def agrees(self, within: float = 0.01) -> bool:
        """Whether every pair of ranks exchanged on the wire what the recorded transfers of all ranks say.

        Pair by pair, over all axes together: sockets are shared (ep and tp, say), so the wire cannot tell them apart.
        gloo's framing is counted, so a pair may differ by `within` of its payload, and by little more: 16 bytes a
        message of an all_reduce whose length does not divide (launch.recorded has the rules). Transfers that have no
        wire are expected to leave nothing on it.
        Raises ValueError where the wire was not measured: there is nothing to compare.
        """
        return not self.differences(within)

    def differences(self, within: float = 0.01) -> list[str]:
        """A line for each pair of ranks that does not agree, the largest difference first; ValueError as agrees."""
        traffic, recorded = self.traffic, self._recorded
        off = traffic - (recorded.payload + recorded.framing)
        wrong = np.argwhere(np.abs(off) > within * recorded.payload + recorded.slack)
        return [
            f"rank {i} to {j}: {traffic[i, j]:,} bytes on the wire, {recorded.payload[i, j]:,.0f} recorded "
            f"and {recorded.framing[i, j]:,.0f} of framing"
            for i, j in sorted(wrong.tolist(), key=lambda pair: -abs(off[pair[0], pair[1]]))
        ]

    @cached_property
    def _recorded(self) -> Recorded:
        return Recorded(self.plan, self.transfers, self.empty)

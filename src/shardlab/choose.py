"""The cheapest implementation of a collective, by a cost model: chosen by size, then run.

The model has to be the same on every rank (calibrate it in the kernel, and pass it to the program): ranks that chose
differently would wait for each other for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from shardlab import algorithms
from shardlab.algorithms import Implementation, SharedMemory
from shardlab.mesh import Axis
from shardlab.theory.cost import CostModel

TRANSPORTS = ("backend", "send_recv", "shared_memory")


class Cheapest:
    """The collectives on one axis, each by whatever the model says is cheapest at that size and can run here."""

    def __init__(
        self,
        model: CostModel,
        axis: Axis,
        *,
        shared: SharedMemory | None = None,
        transports: Sequence[str] = TRANSPORTS,
    ) -> None:
        """`shared`: the axis' segment; without one, nothing over shared memory is chosen.

        Raises ValueError for an unknown transport.
        """
        unknown = [name for name in transports if name not in TRANSPORTS]
        if unknown:
            raise ValueError(f"transport {unknown[0]!r}; allowed: {', '.join(TRANSPORTS)}")
        self.axis, self._shared = axis, shared
        self._model = CostModel(
            {
                key: cost
                for key, cost in model.items()
                if key.transport in transports
                and (shared is not None or key.transport != "shared_memory")
                and Implementation(*key[:3]) in algorithms.IMPLEMENTATIONS
            }
        )
        self._known: dict[tuple[str, int, bool], Implementation] = {}

    def choice(self, op: str, num_bytes: int, *, on_cpu: bool = True) -> Implementation:
        """What would run `op` at size S = num_bytes. Raises ValueError where the model knows nothing that can."""
        found = self._known.get((op, num_bytes, on_cpu))
        if found is None:  # a model of thirty implementations takes longer to ask than a small collective to run
            model = self._model if on_cpu else _without_shared_memory(self._model)
            found = Implementation(*model.best(op, num_bytes, self.axis.size))
            self._known[op, num_bytes, on_cpu] = found
        return found

    def all_reduce(self, partial: torch.Tensor) -> torch.Tensor:
        """A{X} -> A, a new tensor."""
        return self._run("all_reduce", partial, partial.nbytes)

    def all_gather(self, local: torch.Tensor) -> torch.Tensor:
        """A[I_X, J] -> A[I, J]. Shards of equal shape, along dim 0."""
        return self._run("all_gather", local, local.nbytes * self.axis.size)

    def reduce_scatter(self, partial: torch.Tensor) -> torch.Tensor:
        """A[I, J]{X} -> A[I_X, J]."""
        return self._run("reduce_scatter", partial, partial.nbytes)

    def all_to_all(self, local: torch.Tensor) -> torch.Tensor:
        """Part j of rank i -> part i of rank j, along dim 0."""
        return self._run("all_to_all", local, local.nbytes)

    def broadcast(self, tensor: torch.Tensor, src: int = 0) -> torch.Tensor:
        """A on rank `src` of the axis -> A on every rank; the other ranks' tensors give shape and dtype."""
        return self._run("broadcast", tensor, tensor.nbytes, src)

    def _run(self, op: str, tensor: torch.Tensor, num_bytes: int, src: int = 0) -> torch.Tensor:
        if self.axis.size == 1:
            return tensor.clone()
        one = self.choice(op, num_bytes, on_cpu=tensor.device.type == "cpu")
        return algorithms.run(
            op,
            tensor,
            self.axis,
            algorithm=one.algorithm,
            transport=one.transport,
            shared=self._shared if one.transport == "shared_memory" else None,
            src=src,
        )


def _without_shared_memory(model: CostModel) -> CostModel:
    return CostModel({key: cost for key, cost in model.items() if key.transport != "shared_memory"})

"""What may run an axis's collectives in the backend's place: shared memory, a Triton kernel over symmetric memory."""

from __future__ import annotations

from typing import Protocol

import torch


class Carrier(Protocol):
    """The collectives of one axis, each with the signature and the layout of the backend's own call.

    `comm` asks it for every collective of an axis that has one (Axis.carrier) but for posted ones, records the call as
    it records the backend's, and marks its Transfer as having no wire. Tensors are contiguous; parts are equal and
    stacked in axis order. A result is written over the first argument, in the dtype of the others, and is the same bits
    on every rank that gets the same numbers.
    """

    def takes(self, op: str, num_bytes: int, tensor: torch.Tensor) -> bool:
        """Whether it runs `op` at size S = num_bytes on a tensor like this one; if not, the backend does.

        Every rank must answer alike, so it may look at nothing but op, S, the ranks of the axis, dtype and device.
        """
        ...

    def all_reduce(self, partial: torch.Tensor) -> None:
        """A{X} -> A, over `partial`."""
        ...

    def all_gather(self, gathered: torch.Tensor, local: torch.Tensor) -> None:
        """local[n] of every rank -> gathered[T*n]."""
        ...

    def reduce_scatter(self, out: torch.Tensor, slices: torch.Tensor) -> None:
        """slices[T, ...]{X} -> out[...]: the sum of this rank's slice."""
        ...

    def all_to_all(self, received: torch.Tensor, slices: torch.Tensor) -> None:
        """slices[j] of rank i -> received[i] of rank j."""
        ...

    def broadcast(self, tensor: torch.Tensor, src: int) -> None:
        """`tensor` of rank `src` of the axis -> `tensor` of every rank."""
        ...

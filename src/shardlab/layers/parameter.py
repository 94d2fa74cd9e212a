"""A parameter that knows which part of the full tensor it is.

So whoever fills it - a checkpoint reader, a lab cell with full tensors, a test - is a loop that knows no rule
of sharding.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from shardlab.layers.sharding import Part, shard


class LocalParameter(nn.Parameter):
    """local_ = full_[part.index]. Inference only: it asks for no gradient."""

    part: Part

    @classmethod
    def of(cls, data: torch.Tensor, part: Part) -> LocalParameter:
        """`data`, which is this part of a full tensor."""
        assert tuple(data.shape) == part.local_shape, f"{tuple(data.shape)} is not the shard of {part}"
        parameter = cls(data, requires_grad=False)
        parameter.part = part
        return parameter


def empty(part: Part, dtype: torch.dtype, device: torch.device | str | None) -> LocalParameter:
    """An unfilled parameter of this part's local shape (device="meta" allocates nothing)."""
    return LocalParameter.of(torch.empty(part.local_shape, dtype=dtype, device=device), part)


def full_name(local_name: str) -> str:
    """`attention.q.local_weight` -> `attention.q.weight`: the name of the full tensor."""
    return local_name.replace("local_", "")


def local_parameters(module: nn.Module) -> dict[str, LocalParameter]:
    """Name of the full tensor -> this rank's parameter, shared ones once."""
    parameters = {}
    for name, parameter in module.named_parameters():
        assert isinstance(parameter, LocalParameter), f"{name} does not know its part"
        parameters[full_name(name)] = parameter
    return parameters


def load_full(module: nn.Module, full: Mapping[str, torch.Tensor]) -> None:
    """full_ tensors by name -> this rank's shards, in place. `full` is not changed.

    Raises ValueError for a missing, unknown or wrongly shaped tensor, naming it.
    """
    parameters = local_parameters(module)
    if full.keys() != parameters.keys():
        missing, unknown = sorted(parameters.keys() - full.keys()), sorted(full.keys() - parameters.keys())
        raise ValueError(f"full tensors missing: {missing}; unknown: {unknown}")
    for name, parameter in parameters.items():
        try:
            local = shard(full[name], parameter.part)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        parameter.copy_(local)

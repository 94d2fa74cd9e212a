"""A parameter that knows which part of the full tensor it is, and what that tensor is called.

So whoever fills it - a checkpoint reader, a lab cell with full tensors, a test - is a loop that knows no rule
of sharding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from shardlab.layers.sharding import Part, shard


class LocalParameter(nn.Parameter):
    """local_ = full_[part.index]. Inference only: it asks for no gradient.

    `source` names the full tensor where it is not the parameter's own place in the module: with tied embeddings the
    output matrix of the last stage comes from "embedding.weight".
    """

    part: Part
    source: str | None

    @classmethod
    def of(cls, data: torch.Tensor, part: Part, source: str | None = None) -> LocalParameter:
        """`data`, which is this part of a full tensor."""
        assert tuple(data.shape) == part.local_shape, f"{tuple(data.shape)} is not the shard of {part}"
        parameter = cls(data, requires_grad=False)
        parameter.part, parameter.source = part, source
        return parameter

    def filled(self, data: torch.Tensor) -> LocalParameter:
        """The same part of the same full tensor, with these numbers."""
        return LocalParameter.of(data, self.part, self.source)


def empty(
    part: Part, dtype: torch.dtype, device: torch.device | str | None, source: str | None = None
) -> LocalParameter:
    """An unfilled parameter of this part's local shape (device="meta" allocates nothing)."""
    return LocalParameter.of(torch.empty(part.local_shape, dtype=dtype, device=device), part, source)


def local_parameters(module: nn.Module) -> Iterator[tuple[str, str, LocalParameter]]:
    """(name in the module, name of the full tensor, the parameter): `attention.q.local_weight` is part of
    `attention.q.weight`. A parameter that two layers share comes once."""
    for name, parameter in module.named_parameters():
        assert isinstance(parameter, LocalParameter), f"{name} does not know its part"
        yield name, parameter.source or name.replace("local_", ""), parameter


def load_full(module: nn.Module, full: Mapping[str, torch.Tensor]) -> None:
    """full_ tensors by name -> this rank's shards, in place. `full` is not changed.

    Raises ValueError for a missing, unknown or wrongly shaped tensor, naming it.
    """
    parameters = [(name, parameter) for _, name, parameter in local_parameters(module)]
    wanted = {name for name, _ in parameters}
    if full.keys() != wanted:
        missing, unknown = sorted(wanted - full.keys()), sorted(full.keys() - wanted)
        raise ValueError(f"full tensors missing: {missing}; unknown: {unknown}")
    for name, parameter in parameters:
        try:
            local = shard(full[name], parameter.part)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        parameter.copy_(local)

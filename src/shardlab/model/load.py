"""Filling a model: check every name and shape against the checkpoint's headers, then read this rank's parts.

A parameter knows its part of the full tensor, so the loop below knows no rule of sharding. A rank never holds
more than its own shards and the one tensor being read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from shardlab.layers import ColumnParallelLinear, RowParallelLinear
from shardlab.layers.parameter import LocalParameter, local_parameters
from shardlab.layers.sharding import Part
from shardlab.model.checkpoint.safetensors import SafetensorsSource
from shardlab.model.checkpoint.source import EACH, WeightsError, WeightSource, pieces, refuse_pickle
from shardlab.model.config import ModelConfig
from shardlab_kernels.int4 import Int4Weight

__all__ = ["WeightsError", "check", "fill", "open_source", "read", "read_model_config"]


def open_source(path: Path) -> WeightSource:
    """A model folder or a GGUF file -> its checkpoint, headers read. Raises ConfigError or WeightsError."""
    if path.is_dir():
        source: WeightSource = SafetensorsSource(path)
    else:
        refuse_pickle(path)
        if path.suffix.lower() == ".safetensors":
            raise WeightsError(path, "give the folder that holds it and its config.json")
        from shardlab.model.checkpoint.gguf import (
            GGUFSource,  # made of gguf, which a machine without such files may lack
        )

        source = GGUFSource(path)
    layers = source.config.shape.num_layers
    if layers > len(source.shapes):  # a config that lies would have us build layers for ever
        raise WeightsError(path, f"the config says {layers} layers; there are {len(source.shapes)} tensors")
    return source


def read_model_config(path: str | Path) -> ModelConfig:
    """A model folder or a GGUF file -> what the model is. Reads headers only. Raises ConfigError or WeightsError."""
    return open_source(Path(path)).config


def check(source: WeightSource, path: Path, whole: nn.Module) -> None:
    """Raises WeightsError for a tensor that is missing, has another shape, or that the model does not know.

    `whole` is the model of all stages, on any number of ranks: what counts are names and full shapes.
    """
    used = set()
    for _, name, parameter in local_parameters(whole):
        for stored, part in pieces(source.name_of(name), Part.whole(parameter.part.full_shape)):
            used.add(stored)
            if stored not in source.shapes:
                raise WeightsError(path, f"missing; shape {part.full_shape} is expected", stored)
            if source.shapes[stored] != part.full_shape:
                reason = f"its shape is {source.shapes[stored]}; the config expects {part.full_shape}"
                raise WeightsError(source.file_of(stored), reason, stored)
    for stored in sorted(source.shapes.keys() - used):
        if not source.may_ignore(stored):
            raise WeightsError(source.file_of(stored), "the model has no such tensor", stored)


def fill(
    model: nn.Module, source: WeightSource, path: Path, dtype: torch.dtype, device: torch.device, *, int4: bool = False
) -> None:
    """Read this rank's weights. `int4`: linear layers that the file holds as Q4_1 stay 4 bits a weight.

    Raises WeightsError for numbers that are not finite, and with `int4` where nothing could stay.
    """
    for local_name, name, parameter in list(local_parameters(model)):
        module, _, attribute = local_name.rpartition(".")
        owner = model.get_submodule(module)
        stored = source.name_of(name)
        if int4 and _keep_int4(source, owner, attribute, stored, parameter, device):
            continue
        local = read(source, stored, parameter.part)
        setattr(owner, attribute, parameter.filled(local.to(device=device, dtype=dtype)))
    if int4 and not any(isinstance(weight, Int4Weight) for weight in _linear_weights(model)):
        raise WeightsError(path, "none of its linear layers is stored as Q4_1 in blocks that these ranks can share")


def read(source: WeightSource, stored: str, part: Part) -> torch.Tensor:
    """This part of a full tensor, from one stored tensor or stacked from several. Raises WeightsError."""
    found = []
    for name, piece in pieces(stored, part):
        local = source.read(name, piece)
        _check_finite(local, name, source.file_of(name))
        found.append(local)
    if len(found) == 1 and EACH not in stored:
        return found[0]
    return torch.stack(found) if found else torch.empty(part.local_shape)


def _linear_weights(model: nn.Module) -> Iterator[torch.Tensor | Int4Weight]:
    for module in model.modules():
        if isinstance(module, ColumnParallelLinear | RowParallelLinear):
            yield module.local_weight


def _keep_int4(
    source: WeightSource, owner: nn.Module, attribute: str, stored: str, parameter: LocalParameter, device: torch.device
) -> bool:
    """Put the stored 4-bit blocks in the parameter's place, where there are such. -> whether it was done."""
    if attribute != "local_weight" or not isinstance(owner, ColumnParallelLinear | RowParallelLinear):
        return False
    kept = source.int4(stored, parameter.part, device)
    if kept is None:
        return False
    for scales in (kept.scale, kept.minimum):
        if scales is not None:
            _check_finite(scales, stored, source.file_of(stored))
    del owner.local_weight  # a module takes no other type in place of a parameter
    owner.local_weight = kept
    return True


def _check_finite(local: torch.Tensor, stored_name: str, path: Path) -> None:
    # A sum is one fast pass; it is finite unless an element is not, or it overflows: only then look closer.
    if not torch.isfinite(local.sum(dtype=torch.float64)):
        count = int((~torch.isfinite(local)).sum())
        if count:
            raise WeightsError(path, f"{count} of the {local.numel()} values read are NaN or infinite", stored_name)

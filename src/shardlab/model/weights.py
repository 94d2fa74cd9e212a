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
from shardlab.layers.parameter import LocalParameter, full_name
from shardlab.mesh import Mesh
from shardlab.model.config import ModelConfig
from shardlab.model.safetensors_source import SafetensorsSource
from shardlab.model.source import WeightsError, WeightSource, refuse_pickle
from shardlab.model.transformer import Transformer
from shardlab_kernels.int4 import Int4Weight

__all__ = ["WeightsError", "load", "open_source", "read_model_config"]


def open_source(path: Path) -> WeightSource:
    """A model folder or a GGUF file -> its checkpoint, headers read. Raises ConfigError or WeightsError."""
    if path.is_dir():
        return SafetensorsSource(path)
    refuse_pickle(path)
    if path.suffix.lower() == ".safetensors":
        raise WeightsError(path, "give the folder that holds it and its config.json")
    from shardlab.model.gguf_source import GGUFSource  # needs the package gguf, as no other model does

    return GGUFSource(path)


def read_model_config(path: str | Path) -> ModelConfig:
    """A model folder or a GGUF file -> what the model is. Reads headers only. Raises ConfigError or WeightsError."""
    return open_source(Path(path)).config


def load(path: Path, mesh: Mesh, dtype: torch.dtype, *, int4: bool = False) -> Transformer:
    """-> the model with this rank's weights. `int4`: linear layers that the file holds as Q4_1 stay 4 bits a weight.

    Raises ValueError for axes other than dp and tp, ConfigError, WeightsError.
    """
    for name in ("pp", "cp"):
        if mesh[name].size > 1:
            raise ValueError(f"{name}={mesh[name].size}: a Transformer is split over tp only; {name} must be 1")
    source = open_source(path)
    layers = source.config.shape.num_layers
    if layers > len(source.shapes):  # or a config that lies would have us build layers for ever
        raise WeightsError(path, f"the config says {layers} layers; there are {len(source.shapes)} tensors")
    model = Transformer(source.config, mesh["tp"], dtype=dtype, device="meta")
    parameters = dict(model.named_parameters())
    check(source, path, model)
    for local_name, parameter in parameters.items():
        assert isinstance(parameter, LocalParameter)
        stored = source.name_of(full_name(local_name))
        module, _, attribute = local_name.rpartition(".")
        owner = model.get_submodule(module)
        if int4 and _keep_int4(source, owner, attribute, stored, parameter, mesh):
            continue
        local = source.read(stored, parameter.part)
        _check_finite(local, stored, source.file_of(stored))
        setattr(owner, attribute, LocalParameter.of(local.to(device=mesh.device, dtype=dtype), parameter.part))
    model.tie()
    if int4 and not any(isinstance(weight, Int4Weight) for weight in _linear_weights(model)):
        raise WeightsError(path, "none of its linear layers is stored as Q4_1 in blocks that these ranks can share")
    return model


def _linear_weights(model: nn.Module) -> Iterator[torch.Tensor | Int4Weight]:
    for module in model.modules():
        if isinstance(module, ColumnParallelLinear | RowParallelLinear):
            yield module.local_weight


def _keep_int4(
    source: WeightSource, owner: nn.Module, attribute: str, stored: str, parameter: LocalParameter, mesh: Mesh
) -> bool:
    """Put the stored 4-bit blocks in the parameter's place, where there are such. -> whether it was done."""
    if attribute != "local_weight" or not isinstance(owner, ColumnParallelLinear | RowParallelLinear):
        return False
    kept = None if isinstance(source, SafetensorsSource) else _int4(source, stored, parameter, mesh)
    if kept is None:
        return False
    for scales in (kept.scale, kept.minimum):
        if scales is not None:
            _check_finite(scales, stored, source.file_of(stored))
    del owner.local_weight  # a module takes no other type in place of a parameter
    owner.local_weight = kept
    return True


def _int4(source: WeightSource, stored: str, parameter: LocalParameter, mesh: Mesh) -> Int4Weight | None:
    from shardlab.model.gguf_source import GGUFSource

    assert isinstance(source, GGUFSource)
    return source.int4(stored, parameter.part, mesh.device)


def check(source: WeightSource, path: Path, model: Transformer) -> None:
    """Raises WeightsError for a tensor that is missing, has another shape, or that the model does not know."""
    used = set()
    for local_name, parameter in model.named_parameters():
        assert isinstance(parameter, LocalParameter)
        stored, wanted = source.name_of(full_name(local_name)), parameter.part.full_shape
        used.add(stored)
        if stored not in source.shapes:
            raise WeightsError(path, f"missing; shape {wanted} is expected", stored)
        if source.shapes[stored] != wanted:
            reason = f"its shape is {source.shapes[stored]}; the config expects {wanted}"
            raise WeightsError(source.file_of(stored), reason, stored)
    for stored in sorted(source.shapes.keys() - used):
        if not source.may_ignore(stored):
            raise WeightsError(source.file_of(stored), "the model has no such tensor", stored)


def _check_finite(local: torch.Tensor, stored_name: str, path: Path) -> None:
    # A sum is one fast pass; it is finite unless an element is not, or it overflows: only then look closer.
    if not torch.isfinite(local.sum(dtype=torch.float64)):
        count = int((~torch.isfinite(local)).sum())
        if count:
            raise WeightsError(path, f"{count} of the {local.numel()} values read are NaN or infinite", stored_name)

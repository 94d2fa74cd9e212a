"""Filling a model: check every name and shape against the checkpoint's headers, then read this rank's parts.

A parameter knows its part of the full tensor, so the loop below knows no rule of sharding. A rank never holds
more than its own shards and the one tensor being read.
"""

from __future__ import annotations

from pathlib import Path

import torch

from shardlab.layers.parameter import LocalParameter, full_name
from shardlab.mesh import Mesh
from shardlab.model.config import ModelConfig
from shardlab.model.gguf_source import GGUFSource
from shardlab.model.safetensors_source import SafetensorsSource
from shardlab.model.source import WeightsError, WeightSource, refuse_pickle
from shardlab.model.transformer import Transformer

__all__ = ["WeightsError", "load", "open_source", "read_model_config"]


def open_source(path: Path) -> WeightSource:
    """A model folder or a GGUF file -> its checkpoint, headers read. Raises ConfigError or WeightsError."""
    if path.is_dir():
        return SafetensorsSource(path)
    refuse_pickle(path)
    if path.suffix.lower() == ".safetensors":
        raise WeightsError(path, "give the folder that holds it and its config.json")
    return GGUFSource(path)


def read_model_config(path: str | Path) -> ModelConfig:
    """A model folder or a GGUF file -> what the model is. Reads headers only. Raises ConfigError or WeightsError."""
    return open_source(Path(path)).config


def load(path: Path, mesh: Mesh, dtype: torch.dtype) -> Transformer:
    """-> the model with this rank's weights. Raises ValueError for axes other than dp and tp, ConfigError,
    WeightsError.
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
        local = source.read(stored, parameter.part)
        _check_finite(local, stored, source.file_of(stored))
        module, _, attribute = local_name.rpartition(".")
        filled = LocalParameter.of(local.to(device=mesh.device, dtype=dtype), parameter.part)
        setattr(model.get_submodule(module), attribute, filled)
    model.tie()
    return model


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

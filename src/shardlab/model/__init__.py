"""A real model: configuration, the sharded transformer, its weights, and generation."""

from __future__ import annotations

from shardlab.model.config import ConfigError, ModelConfig
from shardlab.model.generate import Sampling
from shardlab.model.load import WeightsError
from shardlab.model.transformer import Transformer

__all__ = ["ConfigError", "ModelConfig", "Sampling", "Transformer", "WeightsError"]

"""The sharded layers. Each is given the Axis that it is split over, and knows nothing of the rest of the mesh."""

from __future__ import annotations

from shardlab.layers.attention import Attention
from shardlab.layers.embedding import VocabParallelEmbedding, VocabParallelLogits
from shardlab.layers.kv_cache import AnyKVCache, AnyLayerCache, DeviceKVCache, KVCache, LayerCache
from shardlab.layers.linear import ColumnParallelLinear, RowParallelLinear, gather_columns
from shardlab.layers.mlp import MLP
from shardlab.layers.norm import RMSNorm

__all__ = [
    "MLP",
    "AnyKVCache",
    "AnyLayerCache",
    "Attention",
    "ColumnParallelLinear",
    "DeviceKVCache",
    "KVCache",
    "LayerCache",
    "RMSNorm",
    "RowParallelLinear",
    "VocabParallelEmbedding",
    "VocabParallelLogits",
    "gather_columns",
]

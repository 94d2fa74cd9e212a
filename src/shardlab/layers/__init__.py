"""The sharded layers. Each is given the Axis that it is split over, and knows nothing of the rest of the mesh."""

from __future__ import annotations

from shardlab.layers.attention import Attention
from shardlab.layers.embedding import VocabParallelEmbedding, VocabParallelLogits
from shardlab.layers.kv_cache import Cache, DeviceKVCache, KVCache, LayerCache, LayerSlot
from shardlab.layers.linear import ColumnParallelLinear, RowParallelLinear, gather_columns, reduce_partial
from shardlab.layers.mlp import MLP
from shardlab.layers.norm import RMSNorm

__all__ = [
    "MLP",
    "Attention",
    "Cache",
    "ColumnParallelLinear",
    "DeviceKVCache",
    "KVCache",
    "LayerCache",
    "LayerSlot",
    "RMSNorm",
    "RowParallelLinear",
    "VocabParallelEmbedding",
    "VocabParallelLogits",
    "gather_columns",
    "reduce_partial",
]

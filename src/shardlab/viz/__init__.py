"""Figures: pure functions from plain numbers to a matplotlib Figure, and the widgets around them. No
torch here."""

from __future__ import annotations

from shardlab.viz.display import Picture, show
from shardlab.viz.heads import heads_on_ranks
from shardlab.viz.kv import kv_cache
from shardlab.viz.paying import decode_step
from shardlab.viz.split import mlp_split
from shardlab.viz.time import Timed, forward_time
from shardlab.viz.traffic import ring, traffic
from shardlab.viz.volume import Sweep, volume

__all__ = [
    "Picture",
    "Sweep",
    "Timed",
    "decode_step",
    "forward_time",
    "heads_on_ranks",
    "kv_cache",
    "mlp_split",
    "ring",
    "show",
    "traffic",
    "volume",
]

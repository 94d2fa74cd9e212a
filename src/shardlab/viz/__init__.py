"""Figures: pure functions from plain numbers to a matplotlib Figure, and the widgets around them. No
torch here."""

from __future__ import annotations

from shardlab.viz.bars import Bar, bars
from shardlab.viz.curves import Curve, Panel, curves
from shardlab.viz.decode_step import decode_step
from shardlab.viz.display import Picture, show
from shardlab.viz.forecast import Forecast, forecasts
from shardlab.viz.gallery import traffic_gallery
from shardlab.viz.heads import heads_on_ranks
from shardlab.viz.kernels.attention import attention_tiles
from shardlab.viz.kernels.blocks import Busy, Splits, busy_sms, split_times
from shardlab.viz.kernels.experts import expert_rows
from shardlab.viz.kernels.int4 import q4_1_block
from shardlab.viz.kernels.passes import Passes, passes
from shardlab.viz.kernels.roofline import Reach, roofline
from shardlab.viz.kernels.shots import shots
from shardlab.viz.knobs.all_reduce import all_reduce_knobs
from shardlab.viz.knobs.bandwidth import bandwidth_knobs
from shardlab.viz.knobs.explore import explore
from shardlab.viz.knobs.plan import plan_knobs
from shardlab.viz.kv import kv_cache
from shardlab.viz.logbars import LogBar, log_bars
from shardlab.viz.machine.topology import topology
from shardlab.viz.memory import Filled, memory
from shardlab.viz.source import source
from shardlab.viz.split import mlp_split
from shardlab.viz.swept import signed_errors, swept, swept_busbw
from shardlab.viz.time import Timed, forward_time, timed
from shardlab.viz.traffic import traffic
from shardlab.viz.volume import Sweep, volume

__all__ = [
    "Bar",
    "Busy",
    "Curve",
    "Filled",
    "Forecast",
    "LogBar",
    "Panel",
    "Passes",
    "Picture",
    "Reach",
    "Splits",
    "Sweep",
    "Timed",
    "all_reduce_knobs",
    "attention_tiles",
    "bandwidth_knobs",
    "bars",
    "busy_sms",
    "curves",
    "decode_step",
    "expert_rows",
    "explore",
    "forecasts",
    "forward_time",
    "heads_on_ranks",
    "kv_cache",
    "log_bars",
    "memory",
    "mlp_split",
    "passes",
    "plan_knobs",
    "q4_1_block",
    "roofline",
    "shots",
    "show",
    "signed_errors",
    "source",
    "split_times",
    "swept",
    "swept_busbw",
    "timed",
    "topology",
    "traffic",
    "traffic_gallery",
    "volume",
]

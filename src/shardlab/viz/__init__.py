"""Figures: pure functions from plain numbers to a matplotlib Figure, and the widgets around them. No
torch here."""

from __future__ import annotations

from shardlab.viz.bars import Bar, bars
from shardlab.viz.curves import Curve, Panel, curves
from shardlab.viz.display import Picture, show
from shardlab.viz.forecast import Forecast, forecasts
from shardlab.viz.gallery import traffic_gallery
from shardlab.viz.heads import heads_on_ranks
from shardlab.viz.knobs import all_reduce_knobs
from shardlab.viz.kv import kv_cache
from shardlab.viz.link_knobs import bandwidth_knobs
from shardlab.viz.logbars import LogBar, log_bars
from shardlab.viz.memory import Filled, memory
from shardlab.viz.paying import decode_step
from shardlab.viz.plan_knobs import plan_knobs
from shardlab.viz.source import source
from shardlab.viz.split import mlp_split
from shardlab.viz.swept import signed_errors, swept, swept_busbw
from shardlab.viz.time import Timed, forward_time, timed
from shardlab.viz.topology import topology
from shardlab.viz.traffic import traffic
from shardlab.viz.volume import Sweep, volume
from shardlab.viz.widgets import explore

__all__ = [
    "Bar",
    "Curve",
    "Filled",
    "Forecast",
    "LogBar",
    "Panel",
    "Picture",
    "Sweep",
    "Timed",
    "all_reduce_knobs",
    "bandwidth_knobs",
    "bars",
    "curves",
    "decode_step",
    "explore",
    "forecasts",
    "forward_time",
    "heads_on_ranks",
    "kv_cache",
    "log_bars",
    "memory",
    "mlp_split",
    "plan_knobs",
    "show",
    "signed_errors",
    "source",
    "swept",
    "swept_busbw",
    "timed",
    "topology",
    "traffic",
    "traffic_gallery",
    "volume",
]

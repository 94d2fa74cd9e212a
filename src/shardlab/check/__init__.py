"""Checks of the labs' exercises: an attempt runs on real ranks, and the answer is the error, the bytes and a hint."""

from shardlab.check.cost import expert_bytes, int4_bytes, stops_paying
from shardlab.check.links import crossover_bytes, reduce_scatter, ring_all_gather
from shardlab.check.tensor import forward_bytes, row_parallel, vocab_embedding
from shardlab.check.verdict import Verdict

__all__ = [
    "Verdict",
    "crossover_bytes",
    "expert_bytes",
    "forward_bytes",
    "int4_bytes",
    "reduce_scatter",
    "ring_all_gather",
    "row_parallel",
    "stops_paying",
    "vocab_embedding",
]

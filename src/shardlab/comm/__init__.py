"""What ranks say to each other: the mesh and its axes, the collectives, the record of what they sent.

`from shardlab import comm` gives the collectives: comm.all_reduce(partial, mesh["tp"]). They are in `collectives`, the
rank grid as one rank sees it in `mesh`, what is written down of each call in `recorder`, and who is in which collective
in `table`, which all ranks of a machine share.
"""

from shardlab.comm.collectives import (
    all_gather,
    all_reduce,
    all_to_all,
    backend_reduce_scatter,
    barrier,
    broadcast,
    exchange,
    recv,
    reduce_scatter,
    send,
)

__all__ = [
    "all_gather",
    "all_reduce",
    "all_to_all",
    "backend_reduce_scatter",
    "barrier",
    "broadcast",
    "exchange",
    "recv",
    "reduce_scatter",
    "send",
]

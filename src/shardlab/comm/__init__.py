"""What ranks say to each other: the mesh and its axes, the collectives, the record of what they sent.

`from shardlab import comm` gives the operations: comm.all_reduce(partial, mesh["tp"]). The collectives are in
`collectives`, send, recv and exchange in `point_to_point`; those to post now and wait for later, comm.post_..., are in
`posted`. The rank grid as one rank sees it is in `mesh`, what is written down of each call in `recorder`, and who is in
which collective in `table`, which all ranks of a machine share; a rank's own row of it is written in `flight`.
"""

from shardlab.comm.collectives import (
    all_gather,
    all_reduce,
    all_to_all,
    backend_reduce_scatter,
    barrier,
    broadcast,
    reduce_scatter,
)
from shardlab.comm.point_to_point import (
    exchange,
    post_exchange,
    post_recv,
    post_send,
    recv,
    send,
)
from shardlab.comm.posted import (
    Pending,
    post_all_gather,
    post_all_reduce,
    post_all_to_all,
    post_broadcast,
)

__all__ = [
    "Pending",
    "all_gather",
    "all_reduce",
    "all_to_all",
    "backend_reduce_scatter",
    "barrier",
    "broadcast",
    "exchange",
    "post_all_gather",
    "post_all_reduce",
    "post_all_to_all",
    "post_broadcast",
    "post_exchange",
    "post_recv",
    "post_send",
    "recv",
    "reduce_scatter",
    "send",
]

"""Ranks: run one program on every rank of a warm pool, and leave nothing behind.

`pool` is what a notebook sees. `client` and `server` start the processes, `boot` is what each of them does,
`gather` waits for them, `report` says what went wrong.
"""

from shardlab.launch.errors import Failure, LaunchError, RankDied, RankError, RanksError, RankTimeout
from shardlab.launch.pool import Ranks

__all__ = ["Failure", "LaunchError", "RankDied", "RankError", "RankTimeout", "Ranks", "RanksError"]

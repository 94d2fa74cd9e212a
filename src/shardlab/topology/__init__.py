"""The topology of this machine: who is joined to whom, by what, and how fast. As a networkx graph and in words.

`viz.topology` draws it. Neither torch nor triton is needed, and no GPU: what cannot be read is left out.
"""

from __future__ import annotations

from shardlab.topology.describe import describe
from shardlab.topology.graph import of_kind
from shardlab.topology.read import read

__all__ = ["describe", "of_kind", "read"]

"""Our own collectives, beside the backend's: from send and recv, and over shared memory.

An implementation is named by three strings: the operation, the algorithm (theory.collectives.ALGORITHMS) and the
transport. Transports: "backend" is torch.distributed's own call, under the name of what gloo runs (NCCL chooses for
itself); "send_recv" is ours, made of comm.exchange; "shared_memory" is ours, for ranks of one host;
"symmetric_memory" is a Triton kernel, for GPUs that reach each other's memory (SYMMETRIC).

All are exact on integers, give every rank the same bits, take any number of ranks and any length, and leave their
input alone.

An axis may carry its collectives by some of them (carriers). The names below load on first use (PEP 562), so that a
rank which needs shared memory alone does not load Triton: that would be three quarters of what it takes.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["IMPLEMENTATIONS", "SYMMETRIC", "Implementation", "SharedMemory", "available", "run"]

if TYPE_CHECKING:  # for type checkers and editors; nothing is imported at run time
    from shardlab.algorithms.memfd import available as available
    from shardlab.algorithms.registry import IMPLEMENTATIONS as IMPLEMENTATIONS
    from shardlab.algorithms.registry import SYMMETRIC as SYMMETRIC
    from shardlab.algorithms.registry import Implementation as Implementation
    from shardlab.algorithms.registry import run as run
    from shardlab.algorithms.shared_memory import SharedMemory as SharedMemory

# public name -> the module that has it
_LAZY = {
    "IMPLEMENTATIONS": "registry",
    "SYMMETRIC": "registry",
    "Implementation": "registry",
    "SharedMemory": "shared_memory",
    "available": "memfd",
    "run": "registry",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'shardlab.algorithms' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"shardlab.algorithms.{_LAZY[name]}"), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Closed forms: what the book predicts. Standard library only, so that a browser's Python can run it too.

The submodules load on first use: `from shardlab import theory; theory.collectives.wire_bytes(...)`.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for editors and type checkers
    from shardlab.theory import capacity as capacity
    from shardlab.theory import claims as claims
    from shardlab.theory import collectives as collectives
    from shardlab.theory import composite as composite
    from shardlab.theory import cost as cost
    from shardlab.theory import decode as decode
    from shardlab.theory import hardware as hardware
    from shardlab.theory import hugging_face as hugging_face
    from shardlab.theory import ledger as ledger
    from shardlab.theory import nccl as nccl
    from shardlab.theory import per_rank as per_rank
    from shardlab.theory import plan as plan
    from shardlab.theory import precision as precision
    from shardlab.theory import roofline as roofline
    from shardlab.theory import split as split
    from shardlab.theory import strategies as strategies
    from shardlab.theory import transformer as transformer
    from shardlab.theory import units as units
    from shardlab.theory import work as work

__all__ = [
    "capacity",
    "claims",
    "collectives",
    "composite",
    "cost",
    "decode",
    "hardware",
    "hugging_face",
    "ledger",
    "nccl",
    "per_rank",
    "plan",
    "precision",
    "roofline",
    "split",
    "strategies",
    "transformer",
    "units",
    "work",
]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module 'shardlab.theory' has no attribute {name!r}; it has {', '.join(__all__)}")
    return importlib.import_module(f"shardlab.theory.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

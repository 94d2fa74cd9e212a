"""Plans: what one is (Plan), and which one to run (search)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from shardlab.theory.plan.degrees import AXES as AXES
from shardlab.theory.plan.degrees import Plan as Plan

if TYPE_CHECKING:  # for editors and type checkers
    from shardlab.theory.plan.fits import Dropped as Dropped
    from shardlab.theory.plan.forecast import Forecast as Forecast
    from shardlab.theory.plan.planner import Outcome as Outcome
    from shardlab.theory.plan.planner import search as search
    from shardlab.theory.plan.workload import Workload as Workload

# Loaded on first use: the ledger needs Plan, and these need the ledger.
_LATER = {"Dropped": "fits", "Forecast": "forecast", "Outcome": "planner", "search": "planner", "Workload": "workload"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'shardlab.theory.plan' has no attribute {name!r}")
    return getattr(importlib.import_module(f"shardlab.theory.plan.{_LATER[name]}"), name)

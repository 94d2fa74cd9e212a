"""The planner: which plan to run. (What a plan is: theory.degrees.)"""

from shardlab.theory.plan.fits import Dropped
from shardlab.theory.plan.forecast import Forecast
from shardlab.theory.plan.planner import Outcome, search
from shardlab.theory.plan.workload import Workload

__all__ = ["Dropped", "Forecast", "Outcome", "Workload", "search"]

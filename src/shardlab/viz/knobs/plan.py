"""The knobs of lab 07: which plan the search picks when precision, promise and prompt change."""

from __future__ import annotations

from functools import cache

from shardlab.theory import hardware
from shardlab.theory.plan import Forecast, Outcome, Workload, search
from shardlab.theory.transformer import MODELS
from shardlab.theory.units import seconds_text
from shardlab.viz.bars import Bar, bars

PROMISES = {"15 ms": 0.015, "30 ms": 0.030, "100 ms": 0.100}
_SHOWN = 4


def plan_knobs(
    weights: str, TPOT: str, prompt: int, *, model: str = "llama-3-70b", cluster: str = "dgx-h100:2", output: int = 256
) -> str:
    """The four plans with most tokens a second a GPU that keep the promise, as HTML bars. Forecast, not measured.

    Raises ValueError for an unknown precision, promise, model or cluster.
    """
    if TPOT not in PROMISES:
        raise ValueError(f"TPOT={TPOT!r}; allowed: {', '.join(PROMISES)}")
    outcome = _searched(model, cluster, prompt, output, weights, PROMISES[TPOT])
    caption = (
        f"{model}, {weights} weights, on {cluster}: prompts of {prompt:,} tokens, a token within {TPOT}. Predicted."
    )
    if outcome.nearest is not None:
        near = outcome.nearest
        return bars(
            [Bar(f"{_name(near)}: nearest", near.tokens_per_s_per_gpu, seconds_text(near.tpot_s), 1, 1e4)],
            f"{caption} No plan keeps it; the nearest needs {seconds_text(near.tpot_s)}.",
        )
    rows = [
        Bar(_name(one), one.tokens_per_s_per_gpu, f"{one.tokens_per_s_per_gpu:,.0f} tok/s", 1, 1e4)
        for one in outcome.ranked[:_SHOWN]
    ]
    best = outcome.ranked[0]
    return bars(rows, f"{caption} Tokens a second for each GPU; the first is bound by {best.bound}.")


@cache
def _searched(model: str, cluster: str, prompt: int, output: int, weights: str, promise_s: float) -> Outcome:
    asked = Workload(prompt, output, slo_tpot_s=promise_s, stored=weights)
    return search(MODELS[model], hardware.cluster(cluster), asked)


def _name(one: Forecast) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in one.plan.sizes.items() if size > 1) or "1 GPU"

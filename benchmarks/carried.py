"""SmolLM2's decode with the collectives that its axis chooses, against the same decode over gloo.

Both models are on the same ranks, and decode in turns. What is compared is the time from the first new token to the
last, round by round, as the slowest rank saw it. The tokens of both must be the same.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from benchmarks import Row
from shardlab import Plan, Ranks, Transformer
from shardlab.algorithms import available, carriers
from shardlab.comm.mesh import Mesh
from shardlab.measure.machine import num_cores
from shardlab.measure.timer import Stats, ratio, slowest
from shardlab.model.checkpoint.fetch import cached_path

WANTED = {2: (1.25, 1.5), 3: (1.4, 2.0), 4: (1.6, 3.0)}  # ranks -> least, aim
ROUNDS, STEPS, PROMPT = 7, 24, 16

Timed = tuple[list[float], list[float], bool]  # gloo's seconds a token, the chosen ones', whether the tokens are alike


def rows() -> list[Row]:
    """One row a number of ranks; where there is no model, or no shared memory, it says so."""
    path, (fine, why) = cached_path("smollm2"), available()
    if not path.is_file():
        why = "not measured: `shardlab weights smollm2` fetches the model (98 MB)"
    found = []
    for tp, (least, aim) in WANTED.items():
        what = f"SmolLM2 135M decode by the axis's chosen collectives against gloo, {tp} ranks on {num_cores()} cores"
        wanted = f">= {least:g}x, aim {aim:g}x"
        if not (fine and path.is_file()):
            found.append(Row("C19", what, why, wanted))
            continue
        gloo, chosen = measure(path, tp)
        gain = ratio(gloo, chosen).median_s
        found.append(Row("C19", what, f"{gain:.2f}x: {chosen}, gloo {gloo} a token", wanted, gain >= least))
    return found


def measure(path: Path, tp: int, rounds: int = ROUNDS, steps: int = STEPS) -> tuple[Stats, Stats]:
    """Seconds a token, (over gloo, by the chosen collectives), one sample a round. RuntimeError for other tokens."""
    with Ranks(tp, "gloo", timeout_s=600.0) as ranks:
        per_rank = ranks.run(decode, str(path), rounds, steps, plan=Plan(tp=tp), check=False)
    if not all(alike for _, _, alike in per_rank):
        raise RuntimeError(f"{tp} ranks: the chosen collectives gave other tokens than gloo's")
    gloo, chosen = (Stats(tuple(map(slowest, zip(*(one[which] for one in per_rank), strict=True)))) for which in (0, 1))
    return gloo, chosen


def decode(mesh: Mesh, path: str, rounds: int, steps: int) -> Timed:
    """On every rank: both models in turns, one generation a turn, the first round not counted."""
    models = [Transformer.from_pretrained(path, one) for one in (mesh, mesh.carried(carriers.cheapest))]
    prompt = torch.arange(1000, 1000 + PROMPT).unsqueeze(0)
    seconds: tuple[list[float], list[float]] = ([], [])
    tokens: list[list[int]] = [[], []]
    for number in range(rounds + 1):
        for which in (0, 1) if number % 2 else (1, 0):
            taken_s, tokens[which] = _generation(models[which], prompt, steps)
            if number:
                seconds[which].append(taken_s)
    return *seconds, tokens[0] == tokens[1]


def _generation(model: Transformer, prompt: torch.Tensor, steps: int) -> tuple[float, list[int]]:
    """(seconds a token after the first, the tokens)."""
    found, started = [], 0.0
    for token in model.stream(prompt, steps + 1, eos_ids=()):
        started = started or time.perf_counter()
        found.append(int(token))
    return (time.perf_counter() - started) / steps, found

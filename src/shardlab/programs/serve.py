"""A dp x tp plan at work: replicas that answer their share of a batch, with a clock beside them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from shardlab import comm
from shardlab.comm.mesh import Mesh
from shardlab.layers import KVCache
from shardlab.model import ModelConfig, Transformer
from shardlab.model.generate import Choice, choose
from shardlab.programs.tensor import torch_dtype
from shardlab.theory.hugging_face import read_shape
from shardlab.theory.split import even_split
from shardlab.theory.transformer import MODELS, Shape

# Large enough that its weights come from memory and not from a cache, small enough for a laptop.
TOY = Shape(2, 1024, 4096, 16, 8, 64, 4096, name="toy")


@dataclass(frozen=True)
class Served:
    """What one rank saw. Its replica answered `sequences` (0: it had nothing to do)."""

    sequences: int
    output_tokens: int  # of one sequence
    ttft_s: float  # until every sequence of the replica had its first token
    total_s: float  # until every one had its last

    @property
    def tpot_s(self) -> float:
        """Seconds of one decode step."""
        return (self.total_s - self.ttft_s) / (self.output_tokens - 1)

    def __str__(self) -> str:
        if not self.sequences:
            return "no sequence for this replica"
        rate = self.sequences * self.output_tokens / self.total_s
        what = "1 sequence" if self.sequences == 1 else f"{self.sequences} sequences"
        return f"{what}: TTFT {self.ttft_s:.4g} s, TPOT {self.tpot_s:.4g} s, {rate:.4g} tokens/s from this replica"


def tokens_per_s(per_rank: Sequence[Served], dp: int) -> float:
    """Output tokens a second of the whole job, which ends with its slowest replica. Ranks in the mesh's order."""
    width = len(per_rank) // dp
    tokens = sum(one.sequences * one.output_tokens for one in per_rank[::width])
    return tokens / max(one.total_s for one in per_rank)


def clock(
    mesh: Mesh,
    model: str = "toy",
    batch: int = 8,
    input_tokens: int = 128,
    output_tokens: int = 16,
    prompts_at_once: int = 0,
    dtype: str = "float32",
) -> Served:
    """Answer `batch` prompts with random weights: each dp replica its share, split over its tp ranks.

    All replicas start together; one prompt and one step go before the clock starts.

    model: "toy", a name of theory.transformer.MODELS, or a config.json. prompts_at_once: how many prompts a replica
    prefills in one forward (0: its whole share).
    Raises ValueError for a model without dense layers, fewer than 2 output tokens, and pp or cp in the plan.
    """
    _check(mesh, batch, input_tokens, output_tokens)
    transformer = random_model(shape_of(model), mesh, torch_dtype(dtype))
    dealt = even_split(batch, mesh["dp"].size)
    rows, most = len(dealt[mesh["dp"].rank]), len(dealt[0])
    with torch.inference_mode():
        _answer(transformer, min(rows, 1), 1, input_tokens, 2, 1, mesh)
        comm.barrier(mesh["dp"])
        comm.barrier(mesh["tp"])
        return _answer(transformer, rows, most, input_tokens, output_tokens, prompts_at_once or most, mesh)


def shape_of(model: str) -> Shape:
    """The Shape of a model's name or config.json. Raises ValueError naming what there is."""
    if model == "toy":
        return TOY
    if model in MODELS:
        return MODELS[model]
    if not Path(model).expanduser().exists():
        raise ValueError(f"model={model!r}: no such file; allowed: toy, a config.json, or one of {', '.join(MODELS)}")
    return read_shape(model)


def random_model(shape: Shape, mesh: Mesh, dtype: torch.dtype = torch.float32) -> Transformer:
    """A model of this shape whose weights are small random numbers, made where they stay: no rank has them all."""
    if shape.moe is not None or shape.mla is not None:
        raise ValueError(f"{shape.name or 'the model'} has experts or latent attention; only dense layers can be run")
    transformer = Transformer(ModelConfig(shape), mesh, dtype=dtype, device=mesh.device)
    torch.manual_seed(mesh["pp"].rank * mesh["tp"].size + mesh["tp"].rank)  # replicas are alike
    for parameter in transformer.parameters():
        parameter.data.normal_(0.0, 0.02)
    return transformer


def _answer(
    model: Transformer, rows: int, most: int, prompt: int, output_tokens: int, at_once: int, mesh: Mesh
) -> Served:
    """Prefill `rows` prompts, `at_once` in a forward, and decode them together, greedily.

    `most` are the rows of the fullest replica: where replicas share experts, every one makes as many forwards as that.
    """
    started, together = time.perf_counter(), mesh.plan.experts_span_replicas
    if not rows and not together:
        return Served(0, output_tokens, 0.0, 0.0)
    token_ids = (torch.arange(rows * prompt) % model.shape.vocab_size).reshape(rows, prompt)
    cache = model.new_cache(rows, prompt + output_tokens)
    firsts = [
        _chosen(model, token_ids[first : first + at_once], cache.rows(min(first, rows), min(first + at_once, rows)))
        for first in range(0, most if together else rows, at_once)
    ]
    new = torch.cat(firsts)
    _finish(mesh)
    ttft_s = time.perf_counter() - started
    for _ in range(output_tokens - 1):
        new = _chosen(model, new.unsqueeze(1), cache)
    _finish(mesh)
    return Served(rows, output_tokens, ttft_s, time.perf_counter() - started)


def _chosen(model: Transformer, token_ids: torch.Tensor, cache: KVCache) -> torch.Tensor:
    """token_ids[B,S] -> the likeliest next tokens[B]."""
    rows = range(len(token_ids))
    return choose(model.next_logits(token_ids, cache), rows, Choice(None, rows), model)


def _finish(mesh: Mesh) -> None:
    """A GPU works on after the call that started it has returned."""
    if mesh.device.type == "cuda":
        torch.cuda.synchronize(mesh.device)


def _check(mesh: Mesh, batch: int, input_tokens: int, output_tokens: int) -> None:
    for name, value, least in (
        ("batch", batch, 1),
        ("input_tokens", input_tokens, 1),
        ("output_tokens", output_tokens, 2),
    ):
        if value < least:
            raise ValueError(f"{name}={value}: {least} or more is needed")
    for axis in ("pp", "cp"):
        if mesh[axis].size > 1:
            raise ValueError(f"{axis}={mesh[axis].size}: replicas (dp) and tensor parallelism (tp) can be run so far")

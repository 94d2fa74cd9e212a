"""Decode of a whole model on our kernels, in a CUDA graph, one sequence. Needs a GPU.

The weights are random and the context is as given: what a step reads and computes does not depend on the numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks import Row
from shardlab import ops
from shardlab.comm.mesh import Mesh
from shardlab.layers import ColumnParallelLinear, KVCache, RowParallelLinear
from shardlab.layers.rope import cos_sin
from shardlab.measure.device_clock import seconds_on
from shardlab.measure.timer import interleave, ratio
from shardlab.model import Transformer
from shardlab.model.decoder import Decoder
from shardlab.programs.serve import random_model
from shardlab.theory.transformer import MODELS, Shape
from shardlab_kernels.int4 import Int4Weight, quantize

MODEL, CONTEXT = "llama-3-8b", 1024
ROUNDS, STEPS = 7, 16
WANTED = {
    "G14": ("decoder layer, batch 1: share of the time that reading its weights takes at copy bandwidth", "65 %", 0.65),
    "G15": ("decode on our kernels against cuBLAS and SDPA, tokens/s", "0.85x", 0.85),
    "G16": ("decode with INT4 weights (groups of 128) against bf16, tokens/s", "1.8x", 1.8),
}
_COPY_BYTES = 1 << 30

Step = Callable[[], object]


def rows() -> list[Row]:
    """One row a goal; where there is no GPU they say so."""
    if not torch.cuda.is_available():
        return [Row(goal, what, "not measured: no GPU here", wanted) for goal, (what, wanted, _) in WANTED.items()]
    return rows_on(torch.device("cuda"), MODELS[MODEL], CONTEXT)


def rows_on(
    device: torch.device, shape: Shape, context: int, *, rounds: int = ROUNDS, steps: int = STEPS, group: int = 128
) -> list[Row]:
    """The same for any model of this shape that fits the device. On a CPU the times mean nothing."""
    contenders = Contenders.of(shape, device, context, calls=(rounds + 3) * steps, group=group)
    sources = torch.empty(2, _COPY_BYTES if device.type == "cuda" else 1 << 16, dtype=torch.uint8, device=device)
    timed = interleave(
        {
            "copy": lambda: seconds_on(device, lambda: sources[0].copy_(sources[1]), 4),
            "layers": lambda: seconds_on(device, contenders.layers, steps),
            "ours": lambda: seconds_on(device, contenders.ours, steps),
            "torch": lambda: seconds_on(device, contenders.rival, steps),
            "int4": lambda: seconds_on(device, contenders.int4, steps),
        },
        rounds,
    )
    copy_Bps = 2 * sources[0].nbytes / timed["copy"].median_s
    found = {
        "G14": contenders.layer_bytes / copy_Bps / timed["layers"].median_s,
        "G15": ratio(timed["torch"], timed["ours"]).median_s,
        "G16": ratio(timed["ours"], timed["int4"]).median_s,
    }
    where = f"{shape.name or 'model'}, {context} cached tokens"
    scored = []
    for goal, (what, wanted, least) in WANTED.items():
        measured = f"{found[goal]:.0%}" if "%" in wanted else f"{found[goal]:.2f}x"
        scored.append(Row(goal, f"{what}; {where}", measured, wanted, found[goal] >= least))
    step = Row("", f"a step on our kernels; {where}", str(timed["ours"]))
    return [*scored, step, Row("", "a step with INT4 weights", str(timed["int4"]))]


@dataclass
class Contenders:
    """Steps to be timed; each is a replay of a graph on a GPU."""

    layers: Step  # all decoder layers, without embedding and logits
    layer_bytes: int  # of their weights
    ours: Step
    rival: Step
    int4: Step

    @classmethod
    def of(cls, shape: Shape, device: torch.device, context: int, calls: int, group: int) -> Contenders:
        model = random_model(shape, Mesh.single(device), torch.bfloat16)
        light = random_model(shape, Mesh.single(device), torch.bfloat16)
        keep_int4(light, group)
        return cls(
            layers=layers_step(model, context),
            layer_bytes=sum(parameter.nbytes for parameter in model.layers.parameters()),
            ours=decoder_step(model, context, calls),
            rival=torch_step(model, context),
            int4=decoder_step(light, context, calls),
        )


def decoder_step(model: Transformer, context: int, calls: int) -> Callable[[], torch.Tensor]:
    """One step of our Decoder, from `context` cached positions on, good for so many calls."""
    decoder = Decoder(model, _cache(model, context, context + calls))
    tokens = torch.zeros(1, dtype=torch.int64, device=model.device)
    decoder.step(tokens)
    return lambda: decoder.step(tokens)


def torch_step(model: Transformer, context: int) -> Callable[[], torch.Tensor]:
    """The same step by cuBLAS and SDPA, over a cache of fixed length so that SDPA may take its flash backend."""
    device = model.device
    cache = _cache(model, context, context + 1)
    tokens = torch.zeros(1, 1, dtype=torch.int64, device=device)

    def body() -> torch.Tensor:
        cache.rewind(context)
        with ops.plain_torch():
            logits = model.next_logits(tokens, cache)
        assert logits is not None
        return logits

    return _graphed(body, device)


def layers_step(model: Transformer, context: int) -> Callable[[], torch.Tensor]:
    """All layers of a step, one after the other, so that each finds the cache of the chip full of others' weights."""
    step = _cache(model, context, context + 1).next(1, 1)
    x = torch.randn(1, 1, model.shape.d_model, dtype=model.dtype, device=model.device)
    cos, sin = cos_sin(model.frequencies(model.device), step.positions, model.dtype)

    def body() -> torch.Tensor:
        out = x
        for slot, block in zip(step.layers, model.layers.values(), strict=True):
            out = block(out, cos, sin, slot)
        return out

    return _graphed(body, model.device)


def keep_int4(model: Transformer, group: int) -> None:
    """Every linear layer's weight in 4 bits, in place."""
    for module in model.modules():
        if isinstance(module, ColumnParallelLinear | RowParallelLinear):
            full = module.local_weight
            assert not isinstance(full, Int4Weight)
            del module.local_weight
            module.local_weight = quantize(full.data, group, minimum=False)


def _cache(model: Transformer, length: int, capacity: int) -> KVCache:
    cache = model.new_cache(1, capacity)
    for layer in cache.layers:
        layer.k.normal_()
        layer.v.normal_()
    cache.advance(length)
    return cache


def _graphed(body: Callable[[], torch.Tensor], device: torch.device) -> Callable[[], torch.Tensor]:
    """`body` as a replay of a CUDA graph; as it is on a CPU."""

    plain = torch.inference_mode()(body)
    if device.type != "cuda":
        return plain
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            plain()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = plain()

    def replay(_alive: object = body) -> torch.Tensor:  # the graph reads what `body` holds: it must live as long
        graph.replay()
        return out

    return replay

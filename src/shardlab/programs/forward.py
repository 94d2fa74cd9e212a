"""Lab 03, the whole model: an answer, its KV cache, its transfers, its times. A file name goes in, numbers come out."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from shardlab.comm.mesh import Mesh
from shardlab.model import ModelConfig, Transformer
from shardlab.model.checkpoint.fetch import fetch as fetch_model
from shardlab.model.generate import Choice, choose
from shardlab.programs.machine import samples_s
from shardlab.theory.ledger import Transfer
from shardlab.theory.transformer import Shape


def fetch(name: str) -> str:
    """The model's file: from the user's cache, or fetched into it once. See model.fetch.fetch."""
    return str(fetch_model(name))


@dataclass(frozen=True)
class Answer:
    """What one rank saw of prompt -> new tokens, greedy."""

    token_ids: tuple[int, ...]
    num_kv_heads: int
    kv_bytes: int
    weight_bytes: int
    prefill: tuple[Transfer, ...]
    decode: tuple[Transfer, ...]  # of the first decode step; all are alike


def answer(mesh: Mesh, source: str, prompt_ids: list[int], num_tokens: int = 16) -> Answer:
    """prompt_ids[S] -> the next `num_tokens` tokens, on every rank. `source` is a folder or a GGUF file."""
    model = Transformer.from_pretrained(source, mesh=mesh)
    cache = model.new_cache(1, len(prompt_ids) + num_tokens)
    tokens, chosen, marks = torch.tensor([prompt_ids]), [], []
    row = range(1)
    for _ in range(num_tokens):
        new = choose(model.next_logits(tokens, cache), row, Choice(None, row), model)
        marks.append(len(mesh.recorder.transfers))
        chosen.append(int(new))
        tokens = new.unsqueeze(1)
    record = mesh.recorder.transfers
    return Answer(
        token_ids=tuple(chosen),
        num_kv_heads=cache.layers[0].k.shape[1],
        kv_bytes=cache.num_bytes,
        weight_bytes=sum(p.nbytes for p in model.parameters()),
        prefill=tuple(record[: marks[0]]),
        decode=tuple(record[marks[0] : marks[1]]) if len(marks) > 1 else (),
    )


@dataclass(frozen=True)
class Clocked:
    """Seconds of each round on one rank."""

    prefill_s: tuple[float, ...]
    decode_s: tuple[float, ...]


def clock(mesh: Mesh, source: str, num_prompt: int = 128, rounds: int = 7) -> Clocked:
    """Time a prefill of `num_prompt` tokens, and one decode step after it: the work, not the choice of a token."""
    model = Transformer.from_pretrained(source, mesh=mesh)
    prompt = torch.arange(num_prompt).unsqueeze(0) % model.shape.vocab_size
    cache = model.new_cache(1, num_prompt + rounds + 1)
    model.hidden(prompt, cache)
    tp = mesh["tp"]
    with torch.inference_mode():
        decode = samples_s(mesh, tp, lambda: model.next_logits(prompt[:, :1], cache), rounds)
        prefill = samples_s(mesh, tp, lambda: model.next_logits(prompt), rounds)
    return Clocked(tuple(prefill), tuple(decode))


def forward_transfers(mesh: Mesh, shape: Shape, batch: int, seq: int) -> list[Transfer]:
    """One forward of a model of this shape with weights of zero: what it sends depends on sizes alone."""
    model = Transformer(ModelConfig(shape), mesh, device=mesh.device)
    for parameter in model.parameters():
        parameter.zero_()
    model(torch.zeros(batch, seq, dtype=torch.int64))
    return list(mesh.recorder.transfers)

"""What our layers cost on one rank, against the same maths in plain torch, in turns in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import Row
from shardlab.comm.mesh import Axis
from shardlab.layers import MLP, Attention
from shardlab.layers.rope import cos_sin, frequencies
from shardlab.measure.timer import interleave, ratio

D, FF, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 576, 1536, 9, 3, 64  # a layer of SmolLM2-135M
Q_WIDTH, KV_WIDTH = NUM_HEADS * HEAD_DIM, NUM_KV_HEADS * HEAD_DIM
ROUNDS = 21
SAMPLE_S = 0.02  # one sample repeats its work for about so long
Work = Callable[[], torch.Tensor]


def rows() -> list[Row]:
    """MLP and attention, prefill and decode, against two readings of "plain torch": modules, and bare functions.

    Bare functions are the stricter one: what an nn.Module's own calls cost counts against our layer as well.
    """
    with one_thread(), torch.inference_mode():
        found = []
        for phase, seq in (("prefill of 256 tokens", 256), ("decode, batch 1", 1)):
            for name, (ours, plain, bare) in {"gated MLP": mlp(seq), "attention": attention(seq)}.items():
                found.append(_row(f"{name}, {phase}: our layer against nn.Linear modules", ours, plain))
                found.append(_row(f"{name}, {phase}: our layer against bare functions", ours, bare))
        return found


class PlainMLP(nn.Module):
    """The gated MLP as anybody would write it for one device."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(D, FF, bias=False), nn.Linear(D, FF, bias=False)
        self.down = nn.Linear(FF, D, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class PlainAttention(nn.Module):
    """Grouped-query attention with rotary embedding, as anybody would write it for one device."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.o = nn.Linear(D, Q_WIDTH, bias=False), nn.Linear(Q_WIDTH, D, bias=False)
        self.k, self.v = nn.Linear(D, KV_WIDTH, bias=False), nn.Linear(D, KV_WIDTH, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        q, k, v = (project(x).unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2) for project in (self.q, self.k, self.v))
        q, k = (turn(heads, cos, sin) for heads in (q, k))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=x.shape[1] > 1, enable_gqa=True)
        return self.o(out.transpose(1, 2).flatten(2))


def turn(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((-second, first), dim=-1) * sin


def mlp(seq: int) -> tuple[Work, Work, Work]:
    """(our layer, the same maths as modules, as bare functions) on x[1,seq,D]."""
    plain, x = PlainMLP(), torch.randn(1, seq, D)
    ours = MLP.from_full(plain.state_dict(), Axis.single())
    gate, up, down = (project.weight for project in (plain.gate, plain.up, plain.down))

    def bare() -> torch.Tensor:
        return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)

    return lambda: ours(x), lambda: plain(x), bare


def attention(seq: int) -> tuple[Work, Work, Work]:
    """(our layer, the same maths as modules, as bare functions) on x[1,seq,D], causal."""
    plain, x = PlainAttention(), torch.randn(1, seq, D)
    ours = Attention.from_full(plain.state_dict(), Axis.single(), num_heads=NUM_HEADS, num_kv_heads=NUM_KV_HEADS)
    cos, sin = cos_sin(frequencies(HEAD_DIM, 1e4), torch.arange(seq), x.dtype)
    wq, wk, wv, wo = (project.weight for project in (plain.q, plain.k, plain.v, plain.o))

    def bare() -> torch.Tensor:
        q = F.linear(x, wq).view(1, seq, NUM_HEADS, HEAD_DIM).transpose(1, 2)
        k = F.linear(x, wk).view(1, seq, NUM_KV_HEADS, HEAD_DIM).transpose(1, 2)
        v = F.linear(x, wv).view(1, seq, NUM_KV_HEADS, HEAD_DIM).transpose(1, 2)
        q, k = turn(q, cos, sin), turn(k, cos, sin)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=seq > 1, enable_gqa=True)
        return F.linear(out.transpose(1, 2).flatten(2), wo)

    return lambda: ours(x, cos, sin), lambda: plain(x, cos, sin), bare


def _row(what: str, ours: Work, plain: Work) -> Row:
    error = (ours() - plain()).abs().max().item()
    assert error < 1e-4, f"{what}: not the same maths, they differ by {error}"
    times = interleave({"ours": _sample(ours), "plain": _sample(plain)}, ROUNDS)
    cost = ratio(times["ours"], times["plain"])
    percent = [100 * (value - 1) for value in (cost.median_s, cost.p10_s, cost.p90_s)]
    micros = 1e6 * times["plain"].median_s
    text = f"{percent[0]:+.1f} % ({percent[1]:+.1f} to {percent[2]:+.1f}) of {micros:.0f} us of processor time"
    return Row("C17", what, text, "at most +5 %, aim +2 %", percent[0] <= 5)


def _sample(work: Work) -> Callable[[], float]:
    """Repeat `work` long enough for the clock; returns the processor seconds of one: neighbours do not count."""
    started = time.thread_time()
    for _ in range(3):
        work()
    times = max(1, round(SAMPLE_S * 3 / (time.thread_time() - started)))

    def sample() -> float:
        started = time.thread_time()
        for _ in range(times):
            work()
        return (time.thread_time() - started) / times

    return sample


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

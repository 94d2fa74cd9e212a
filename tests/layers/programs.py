"""What each rank runs: a sharded layer on this rank's axis, and the same layer whole. Both are returned."""

from __future__ import annotations

import torch

from shardlab.comm.mesh import Axis, Mesh
from shardlab.layers import (
    MLP,
    Attention,
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    VocabParallelLogits,
)
from shardlab.layers.rope import cos_sin, frequencies
from shardlab.theory.split import even_split

Pair = tuple[torch.Tensor, torch.Tensor]
B, S = 2, 5


def draw(seed: int, *shape: int) -> torch.Tensor:
    """Scaled by fan_in ** -0.5, so that sums stay near 1 and a tolerance means something."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * shape[-1] ** -0.5


def column(mesh: Mesh, d: int, f: int, bias: bool) -> Pair:
    """-> this rank's columns, and the same columns of the whole product."""
    x, weight = draw(0, B, S, d), draw(1, f, d)
    full_bias = draw(2, f) if bias else None
    whole = torch.nn.functional.linear(x, weight, full_bias)
    held = even_split(f, mesh["tp"].size)[mesh["tp"].rank]
    return ColumnParallelLinear.from_full(weight, mesh["tp"], full_bias)(x), whole[..., held.start : held.stop]


def row(mesh: Mesh, d: int, f: int, bias: bool) -> Pair:
    """x[B,S,F] is cut as a column-parallel layer would have left it."""
    x, weight = draw(0, B, S, f), draw(1, d, f)
    full_bias = draw(2, d) if bias else None
    held = even_split(f, mesh["tp"].size)[mesh["tp"].rank]
    layer = RowParallelLinear.from_full(weight, mesh["tp"], full_bias)
    return layer(x[..., held.start : held.stop]), torch.nn.functional.linear(x, weight, full_bias)


def mlp(mesh: Mesh, d: int, f: int, bias: bool) -> Pair:
    full = {"gate.weight": draw(1, f, d), "up.weight": draw(2, f, d), "down.weight": draw(3, d, f)}
    if bias:
        full |= {"gate.bias": draw(4, f), "up.bias": draw(5, f), "down.bias": draw(6, d)}
    x = draw(0, B, S, d)
    return MLP.from_full(full, mesh["tp"])(x), MLP.from_full(full, Axis.single())(x)


def embedding(mesh: Mesh, vocab: int, d: int) -> Pair:
    table = draw(0, vocab, d)
    tokens = torch.randint(0, vocab, (B, S), generator=torch.Generator().manual_seed(1))
    tokens[0, 0], tokens[1, 1] = 0, vocab - 1
    return VocabParallelEmbedding.from_full(table, mesh["tp"])(tokens), table[tokens]


def logits(mesh: Mesh, vocab: int, d: int) -> Pair:
    table, x = draw(0, vocab, d), draw(1, B, S, d)
    return VocabParallelLogits.from_full(table, mesh["tp"])(x), x @ table.T


def attention(mesh: Mesh, heads: int, kv_heads: int, head_dim: int, bias: bool, window: int | None) -> Pair:
    """Both layers take the same window; tests of `attend` hold it to the formula."""
    d = heads * head_dim + 2  # D is not N*H in every model
    full = {
        "q.weight": draw(1, heads * head_dim, d),
        "k.weight": draw(2, kv_heads * head_dim, d),
        "v.weight": draw(3, kv_heads * head_dim, d),
        "o.weight": draw(4, d, heads * head_dim),
    }
    if bias:
        full |= {f"{name}.bias": draw(5, full[f"{name}.weight"].shape[0]) for name in "qkvo"}
    x = draw(0, B, S, d)
    cos, sin = cos_sin(frequencies(head_dim, 1e4), torch.arange(S), x.dtype)
    outs = []
    for axis in (mesh["tp"], Axis.single()):
        layer = Attention.from_full(full, axis, num_heads=heads, num_kv_heads=kv_heads)
        layer.window = window
        outs.append(layer(x, cos, sin))
    return outs[0], outs[1]

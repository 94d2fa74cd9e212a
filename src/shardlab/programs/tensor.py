"""Lab 03, layer by layer: what each rank runs to split a product, an MLP, an attention, and to send bytes.

Every program makes the whole layer from a seed, takes its own shard, and reports how far the sharded layer is from
the whole one. No rank needs another's weights, so the only bytes on the wire are the layer's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from shardlab import comm
from shardlab.comm.mesh import Axis, Mesh
from shardlab.layers import MLP, Attention, ColumnParallelLinear, RowParallelLinear, gather_columns
from shardlab.layers.rope import cos_sin, frequencies
from shardlab.theory.ledger import Transfer
from shardlab.theory.transformer import Shape

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Parity:
    """One rank's report: how far its output is from the whole layer's, and the shapes on the way."""

    largest_error: float
    shapes: dict[str, tuple[int, ...]]

    @property
    def equal(self) -> bool:
        """Within what fp32 sums in another order may differ."""
        return self.largest_error < 1e-5


def linear_pair(mesh: Mesh, batch: int = 2, seq: int = 3, d_model: int = 6, d_ff: int = 10, seed: int = 0) -> Parity:
    """x[B,S,D] . up[D,F_tp] -> h[B,S,F_tp] . down[F_tp,D] -> [B,S,D]{tp} -> all_reduce. One transfer for both."""
    tp = mesh["tp"]
    full = random_tensors({"x": (batch, seq, d_model), "up": (d_ff, d_model), "down": (d_model, d_ff)}, seed)
    h = ColumnParallelLinear.from_full(full["up"], tp)(full["x"])
    y = RowParallelLinear.from_full(full["down"], tp)(h)
    wanted = full["x"] @ full["up"].T @ full["down"].T
    return Parity(_error(y, wanted), {"x": (*full["x"].shape,), "h": (*h.shape,), "y": (*y.shape,)})


def gather_between(mesh: Mesh, batch: int = 2, seq: int = 3, d_model: int = 6, d_ff: int = 10, seed: int = 0) -> Parity:
    """The same two products, both split by columns: h must be gathered between them, and y after them."""
    tp = mesh["tp"]
    full = random_tensors({"x": (batch, seq, d_model), "up": (d_ff, d_model), "down": (d_model, d_ff)}, seed)
    h = gather_columns(ColumnParallelLinear.from_full(full["up"], tp)(full["x"]), d_ff, tp)
    y = gather_columns(ColumnParallelLinear.from_full(full["down"], tp)(h), d_model, tp)
    wanted = full["x"] @ full["up"].T @ full["down"].T
    return Parity(_error(y, wanted), {"x": (*full["x"].shape,), "h": (*h.shape,), "y": (*y.shape,)})


def mlp_forward(mesh: Mesh, batch: int = 2, seq: int = 3, d_model: int = 6, d_ff: int = 10, seed: int = 0) -> Parity:
    """The gated MLP on T ranks against the same MLP on one."""
    tp = mesh["tp"]
    sizes = {"gate.weight": (d_ff, d_model), "up.weight": (d_ff, d_model), "down.weight": (d_model, d_ff)}
    full, x = random_tensors(sizes, seed), random_tensors({"x": (batch, seq, d_model)}, seed + 1)["x"]
    y = MLP.from_full(full, tp)(x)
    wanted = MLP.from_full(full, Axis.single())(x)
    return Parity(_error(y, wanted), {"x": (*x.shape,), "y": (*y.shape,)})


def attention_forward(
    mesh: Mesh,
    num_heads: int = 9,
    num_kv_heads: int = 3,
    head_dim: int = 4,
    batch: int = 2,
    seq: int = 5,
    seed: int = 0,
) -> Parity:
    """Attention by heads on T ranks against the same attention on one."""
    tp = mesh["tp"]
    d_model, q, kv = num_heads * head_dim, num_heads * head_dim, num_kv_heads * head_dim
    sizes = {
        "q.weight": (q, d_model),
        "k.weight": (kv, d_model),
        "v.weight": (kv, d_model),
        "o.weight": (d_model, q),
    }
    full, x = random_tensors(sizes, seed), random_tensors({"x": (batch, seq, d_model)}, seed + 1)["x"]
    cos, sin = cos_sin(frequencies(head_dim, 1e4), torch.arange(seq), x.dtype)
    layer = Attention.from_full(full, tp, num_heads=num_heads, num_kv_heads=num_kv_heads)
    whole = Attention.from_full(full, Axis.single(), num_heads=num_heads, num_kv_heads=num_kv_heads)
    y = layer(x, cos, sin)
    shapes = {"q": (*layer.q.local_weight.shape,), "k": (*layer.k.local_weight.shape,), "y": (*y.shape,)}
    return Parity(_error(y, whole(x, cos, sin)), shapes)


def all_reduce(mesh: Mesh, num_bytes: int, dtype: str = "float32") -> list[Transfer]:
    """Sum a tensor of about `num_bytes` over the tp axis. Raises ValueError for a dtype that torch does not have."""
    tp = mesh["tp"]
    kind = torch_dtype(dtype)
    partial = torch.full((num_bytes // kind.itemsize,), float(tp.rank), dtype=kind, device=mesh.device)
    total = comm.all_reduce(partial, tp)
    expected = tp.size * (tp.size - 1) / 2
    assert total.numel() == 0 or (total[0].item(), total[-1].item()) == (expected, expected)
    return list(mesh.recorder.transfers)


def layer_forward(mesh: Mesh, batch: int, seq: int, d_model: int, d_ff: int, dtype: str = "float32") -> list[Transfer]:
    """One MLP at its real size, for its bytes: zeros weigh as much as numbers on the wire, and cost less to make."""
    kind = torch_dtype(dtype)
    mlp = MLP(d_model, d_ff, mesh["tp"], dtype=kind, device=mesh.device)
    for parameter in mlp.parameters():
        parameter.zero_()
    mlp(torch.ones(batch, seq, d_model, dtype=kind, device=mesh.device))
    return list(mesh.recorder.transfers)


def random_tensors(sizes: dict[str, tuple[int, ...]], seed: int) -> Tensors:
    """Normal numbers scaled by fan_in ** -0.5: sums of any length stay near 1. The same on every rank."""
    seeded = torch.Generator().manual_seed(seed)
    return {name: torch.randn(size, generator=seeded) * size[-1] ** -0.5 for name, size in sizes.items()}


def torch_dtype(name: str) -> torch.dtype:
    """'float32' -> torch.float32. Raises ValueError naming those that the labs use."""
    allowed = {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
        "float64": torch.float64,
    }
    if name not in allowed:
        raise ValueError(f"dtype={name!r}; allowed: {', '.join(allowed)}")
    return allowed[name]


def toy_shape(vocab_size: int = 11) -> Shape:
    """A model small enough to run in a blink, with every size odd enough to show a mistake."""
    return Shape(2, 12, 10, 3, 1, 4, vocab_size, name="toy")


def _error(out: torch.Tensor, wanted: torch.Tensor) -> float:
    return (out - wanted).abs().max().item()

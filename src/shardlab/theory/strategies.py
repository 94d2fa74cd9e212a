"""What each way of parallelism sends: the chapter's cost table (7.7), recomputed with its dimensions right.

S = tokens * D * element_bytes is the hidden state of `tokens` tokens. Every number is a rank's own. The ledger lists
the same transfers one by one; tests/theory/test_strategies.py holds the two together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from shardlab.theory import roofline
from shardlab.theory.collectives import time_s, wire_bytes
from shardlab.theory.hardware import Accelerator, Link
from shardlab.theory.transformer import Shape


@dataclass(frozen=True)
class Row:
    """One strategy on T ranks. Where a forward has ops of several sizes, size and sent bytes are the average one's."""

    strategy: str
    collective: str
    per_layer: str  # ops a layer, as a formula
    formula: str  # bytes that a rank sends for one op
    num_ops: int  # of one forward, on the rank that has most
    op_bytes: float  # S of one op, as nccl-tests count it
    sent_bytes: float  # what a rank sends for one op

    @property
    def forward_bytes(self) -> float:
        """What a rank sends in one forward."""
        return self.num_ops * self.sent_bytes


def table(shape: Shape, degree: int, *, tokens: int, element_bytes: int = 2) -> tuple[Row, ...]:
    """All rows for T = degree and `tokens` tokens of a forward. EP needs experts, Ulysses K and V heads.

    tokens: those of a batch, b * S. CP and SP split them; for EP they are the rank's own. Embedding and logits are left
    out, as in the chapter (TP: one all_reduce and one all_gather more).
    """
    sizes = {"tokens": tokens, "element_bytes": element_bytes}
    rows = [
        tensor_parallel(shape, degree, **sizes),
        sequence_parallel(shape, degree, **sizes),
        pipeline(shape, degree, **sizes),
    ]
    if shape.moe is not None:
        rows.append(expert_parallel(shape, degree, **sizes))
    rows.append(ring(shape, degree, **sizes))
    if shape.mla is None:
        rows.append(ulysses(shape, degree, **sizes))
    return (*rows, data_parallel())


def tensor_parallel(shape: Shape, degree: int, *, tokens: int, element_bytes: int = 2) -> Row:
    """Two all_reduces of the hidden state a layer."""
    size = tokens * shape.d_model * element_bytes
    sent = wire_bytes("all_reduce", num_bytes=size, world_size=degree)
    formula = "2(T-1)/T * tokens * D * element"
    return Row("TP", "all_reduce", "2", formula, 2 * shape.num_layers, size, sent)


def sequence_parallel(shape: Shape, degree: int, *, tokens: int, element_bytes: int = 2) -> Row:
    """Megatron's: each of TP's all_reduces as a reduce_scatter and an all_gather. As many bytes in twice the ops."""
    size = tokens * shape.d_model * element_bytes
    sent = wire_bytes("all_gather", num_bytes=size, world_size=degree)
    formula = "(T-1)/T * tokens * D * element"
    return Row("SP", "all_gather, reduce_scatter", "2 + 2", formula, 4 * shape.num_layers, size, sent)


def pipeline(shape: Shape, degree: int, *, tokens: int, element_bytes: int = 2) -> Row:
    """One send of the hidden state at each of P-1 boundaries: a rank sends once a forward, the last not at all."""
    size = tokens * shape.d_model * element_bytes
    return Row("PP", "send", "(P-1)/L in all", "tokens * D * element", min(1, degree - 1), size, float(size))


def boundaries(degree: int) -> int:
    """Sends of a whole pipeline in one forward of one microbatch: P - 1."""
    return degree - 1


def expert_parallel(shape: Shape, degree: int, *, tokens: int, element_bytes: int = 2) -> Row:
    """Dispatch and combine in every layer with experts: k copies of each of the rank's own tokens, (T-1)/T leave."""
    if shape.moe is None:
        raise ValueError(f"{shape.name or 'the model'} has no experts")
    size = tokens * shape.moe.experts_per_token * shape.d_model * element_bytes
    sent = wire_bytes("all_to_all", num_bytes=size, world_size=degree)
    formula = "k(T-1)/T * tokens * D * element"
    return Row("EP", "all_to_all", "2", formula, 2 * shape.num_moe_layers, size, sent)


def ring(shape: Shape, degree: int, *, tokens: int, element_bytes: int = 2) -> Row:
    """T-1 sends a layer of the K and V of a rank's share of the tokens."""
    size = -(-tokens // degree) * shape.kv_numbers_per_layer * element_bytes
    num_ops = shape.num_layers * (degree - 1)
    return Row("CP ring", "send", "T-1", "2 * tokens/T * K * H * element", num_ops, size, float(size))


def ulysses(shape: Shape, degree: int, *, tokens: int, element_bytes: int = 2) -> Row:
    """Four all_to_alls a layer (q, k, v, out), or two where q, k and v travel together: the average of the four.

    Where T is above K, K and V are copied until each rank has a head. Raises ValueError for a latent cache.
    """
    if shape.mla is not None:
        raise ValueError(f"{shape.name or 'the model'} keeps a latent cache: it has no K and V heads to exchange")
    heads = 2 * shape.num_heads + 2 * (max(shape.num_kv_heads, degree) if degree > 1 else shape.num_kv_heads)
    size = -(-tokens // degree) * heads * shape.head_dim * element_bytes / 4
    sent = wire_bytes("all_to_all", num_bytes=size, world_size=degree)
    formula = "(T-1)/T * tokens/T * (2N+2K)/4 * H * element"
    return Row("CP Ulysses", "all_to_all", "4 (2 fused)", formula, 4 * shape.num_layers, size, sent)


def data_parallel() -> Row:
    """Replicas of a dense model send nothing."""
    return Row("DP", "none", "0", "0", 0, 0.0, 0.0)


# ------------------------------------------------------------------------------ when one more rank stops helping


@dataclass(frozen=True)
class Slopes:
    """Of one decode step at T ranks, in seconds a rank: what one more rank takes off memory time and puts on comms."""

    memory_s: float  # d(memory time)/dT: negative
    comms_s: float  # d(communication)/dT

    @property
    def helps(self) -> bool:
        """True where one more rank makes the step shorter."""
        return self.memory_s + self.comms_s < 0


def decode_bytes(shape: Shape, *, batch: int = 1, past: int = 0, dtype_bytes: int = 2) -> float:
    """Bytes that a decode step reads and writes on one rank: weights, and the cache of `batch` sequences."""
    return roofline.hbm_bytes(shape, 1, batch=batch, seq=1, past=past, dtype_bytes=dtype_bytes)


def slopes(
    shape: Shape, degree: float, accelerator: Accelerator, link: Link, *, batch: int = 1, past: int = 0
) -> Slopes:
    """Derivatives of a bf16 decode step with T as a real number: memory M/(W T), and 2L+1 ring all_reduces.

    A ring takes 2(T-1) alpha + 2(T-1)/T S/b, so each has the slope 2 alpha + 2 S/(b T^2).
    """
    if not degree >= 1:
        raise ValueError(f"degree={degree}: 1 or more ranks")
    moved = decode_bytes(shape, batch=batch, past=past)
    size = batch * shape.d_model * 2
    one = 2 * link.alpha_s + 2 * size / (link.bandwidth_Bps * degree**2)
    return Slopes(-moved / (accelerator.hbm_Bps * degree**2), (2 * shape.num_layers + 1) * one)


def best_degree(shape: Shape, accelerator: Accelerator, link: Link, *, batch: int = 1, past: int = 0) -> float:
    """The real T at which the slopes cancel: sqrt((M/W - 2n S/b) / (2n alpha)), n = 2L+1 all_reduces; at least 1.

    inf without latency, as long as memory falls faster than the bytes on the wire grow: only latency sets an end.
    """
    number = 2 * shape.num_layers + 1
    gain_s = decode_bytes(shape, batch=batch, past=past) / accelerator.hbm_Bps
    gain_s -= 2 * number * batch * shape.d_model * 2 / link.bandwidth_Bps
    if gain_s <= 0:
        return 1.0
    return max(1.0, math.sqrt(gain_s / (2 * number * link.alpha_s))) if link.alpha_s else math.inf


def decode_step_s(
    shape: Shape,
    degree: int,
    accelerator: Accelerator,
    link: Link,
    *,
    batch: int = 1,
    past: int = 0,
    all_reduce_s: Callable[[int], float] | None = None,
) -> float:
    """The step whose slopes these are, at a whole T: every byte split evenly, nothing hidden.

    all_reduce_s(T) in place of the ring: a measurement, or another model. theory.decode.token_s splits by heads.
    """
    comms_s = 0.0
    if degree > 1:
        size = batch * shape.d_model * 2
        ring_s = time_s("all_reduce", num_bytes=size, world_size=degree, link=link)
        comms_s = (2 * shape.num_layers + 1) * (ring_s if all_reduce_s is None else all_reduce_s(degree))
    return decode_bytes(shape, batch=batch, past=past) / degree / accelerator.hbm_Bps + comms_s


def best_whole_degree(
    shape: Shape, accelerator: Accelerator, link: Link, *, most: int, batch: int = 1, past: int = 0
) -> int:
    """The T in 1..most with the shortest decode_step_s; the smaller of equals."""
    if most < 1:
        raise ValueError(f"most={most}: 1 or more ranks")

    def step_s(degree: int) -> float:
        return decode_step_s(shape, degree, accelerator, link, batch=batch, past=past)

    return min(range(1, most + 1), key=step_s)

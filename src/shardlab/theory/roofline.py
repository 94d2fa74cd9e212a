"""How long a forward takes at best: arithmetic, memory and wire, and the two bounds that they give."""

from __future__ import annotations

from dataclasses import dataclass

from shardlab.theory import ledger, per_rank
from shardlab.theory.collectives import time_s
from shardlab.theory.hardware import Accelerator, Link
from shardlab.theory.plan import Plan
from shardlab.theory.transformer import Shape


def flops(shape: Shape, tp: int, *, batch: int, seq: int, past: int = 0, logit_positions: int | None = None) -> float:
    """FLOPs of the busiest rank for one forward of `seq` new tokens after `past` cached ones (prefill: past=0).

    Two FLOPs a weight and token in every matrix, plus causal attention: token i reads past + i + 1 keys, with
    2 FLOPs for the score and 2 for the value, a head and element. Norms, RoPE and softmax are left out.
    """
    _check(batch=batch, seq=seq)
    heads = max(len(one) for one in per_rank.query_heads(shape, tp))
    groups = max(len(one) for one in per_rank.kv_heads(shape, tp))
    matrices = shape.d_model * shape.head_dim * (2 * heads + 2 * groups)
    matrices += 3 * shape.d_model * -(-shape.d_ff // tp)
    positions = seq if logit_positions is None else logit_positions
    keys_read = seq * past + seq * (seq + 1) // 2
    per_sequence = 2.0 * seq * shape.num_layers * matrices
    per_sequence += 4.0 * shape.num_layers * heads * shape.head_dim * keys_read
    per_sequence += 2.0 * positions * shape.d_model * -(-shape.vocab_size // tp)
    return batch * per_sequence


def hbm_bytes(shape: Shape, tp: int, *, batch: int, seq: int, past: int = 0, dtype_bytes: int = 2) -> float:
    """Bytes that the busiest rank must move: every weight once, the cached K and V, and the new ones written.

    The embedding is a lookup: only the rows of the tokens are read, unless the output matrix is tied to it.
    Activations stay in cache in this count, so it is a floor.
    """
    _check(batch=batch, seq=seq)
    weights = max(per_rank.weight_bytes(shape, tp, dtype_bytes))
    if not shape.tied_embeddings:
        rows = -(-shape.vocab_size // tp)
        weights -= max(0, rows - batch * seq) * shape.d_model * dtype_bytes
    kv = max(per_rank.kv_bytes_per_token(shape, tp, dtype_bytes))
    return float(weights + batch * (past + seq) * kv)


@dataclass(frozen=True)
class Times:
    """Seconds of one forward on the busiest rank."""

    math_s: float  # T_math: FLOPs / peak
    hbm_s: float  # bytes moved / HBM bandwidth
    comms_s: float  # T_comms: the ledger's transfers, one after the other

    @property
    def on_chip_s(self) -> float:
        """Arithmetic and memory overlap inside a kernel: the longer one counts."""
        return max(self.math_s, self.hbm_s)

    @property
    def lower_s(self) -> float:
        """T_lower: communication hidden behind work as far as it goes."""
        return max(self.on_chip_s, self.comms_s)

    @property
    def upper_s(self) -> float:
        """T_upper: nothing hidden; what a plain tensor-parallel forward does."""
        return self.on_chip_s + self.comms_s


def comms_s(transfers: list[ledger.Transfer], *, world_size: int, link: Link) -> float:
    """T_comms: the alpha-beta times of these transfers added up, each with its default algorithm."""
    return sum(time_s(one.op, num_bytes=one.num_bytes, world_size=world_size, link=link) for one in transfers)


def forward_times(
    shape: Shape,
    tp: int,
    accelerator: Accelerator,
    *,
    batch: int,
    seq: int,
    past: int = 0,
    dtype_bytes: int = 2,
    logit_positions: int | None = None,
) -> Times:
    """T_math, the memory time and T_comms of one forward at data-sheet speed: bounds, not a forecast."""
    transfers = ledger.forward(
        shape,
        Plan(tp=tp),
        batch=batch,
        seq=seq,
        dtype_bytes=dtype_bytes,
        logit_positions=logit_positions,
    )
    return Times(
        math_s=flops(shape, tp, batch=batch, seq=seq, past=past, logit_positions=logit_positions)
        / accelerator.bf16_flops,
        hbm_s=hbm_bytes(shape, tp, batch=batch, seq=seq, past=past, dtype_bytes=dtype_bytes) / accelerator.hbm_Bps,
        comms_s=comms_s(transfers, world_size=tp, link=accelerator.link),
    )


def _check(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name}={value}: 1 or more is needed")

"""How long a forward takes at best: arithmetic, memory and wire, and the two bounds that they give."""

from __future__ import annotations

from dataclasses import dataclass

from shardlab.theory import ledger, work
from shardlab.theory.collectives import time_s
from shardlab.theory.degrees import Plan
from shardlab.theory.hardware import Accelerator, Link
from shardlab.theory.precision import KVPrecision, Precision
from shardlab.theory.transformer import Shape


def flops(shape: Shape, tp: int, *, batch: int, seq: int, past: int = 0, logit_positions: int | None = None) -> float:
    """FLOPs of the busiest tensor-parallel rank for one forward of `seq` new tokens after `past` cached ones.

    work.stage_flops has the rules, and whole plans.
    """
    found = work.stage_flops(shape, Plan(tp=tp), batch=batch, seq=seq, past=past, logit_positions=logit_positions)
    return found[0]


def hbm_bytes(shape: Shape, tp: int, *, batch: int, seq: int, past: int = 0, dtype_bytes: int = 2) -> float:
    """Bytes that the busiest tensor-parallel rank must move: its weights once, the cached K and V, the new ones.

    Weights and cache at dtype_bytes a number. work.stage_hbm_bytes has the rules, whole plans and other precisions.
    """
    stored, kv = Precision("", 8 * dtype_bytes, 8 * dtype_bytes), KVPrecision("", dtype_bytes)
    return work.stage_hbm_bytes(shape, Plan(tp=tp), stored, kv, batch=batch, seq=seq, past=past)[0]


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

"""The operations of the layers: a Triton kernel for a tensor on a GPU (dispatch), else plain torch (reference)."""

from shardlab.ops.dispatch import (
    add_rms_norm,
    attention,
    interpreted,
    linear,
    plain_torch,
    rms_norm,
    rope,
    silu_mul,
)
from shardlab.ops.parts import attention_lse, merge

__all__ = [
    "add_rms_norm",
    "attention",
    "attention_lse",
    "interpreted",
    "linear",
    "merge",
    "plain_torch",
    "rms_norm",
    "rope",
    "silu_mul",
]

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

__all__ = ["add_rms_norm", "attention", "interpreted", "linear", "plain_torch", "rms_norm", "rope", "silu_mul"]

"""How many tokens of KV cache fit beside the weights, on the rank that fills up first."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from shardlab.theory import per_rank, work
from shardlab.theory.degrees import Plan
from shardlab.theory.precision import KVPrecision, Precision
from shardlab.theory.transformer import Shape

# What an engine leaves alone of an accelerator's memory: the context, CUDA graphs, other buffers, fragments. vLLM uses
# 0.92 of it (gpu_memory_utilization, vllm/config/cache.py at 002f10e0) and used 0.90 before (vllm/engine/arg_utils.py
# at 001999d2).
RESERVE = 0.1
# Tokens of the largest forward: vLLM's DEFAULT_MAX_NUM_BATCHED_TOKENS (vllm/config/scheduler.py at 01230b40). A server
# on a large GPU takes more.
BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Memory:
    """The memory of one rank, in bytes: what it may use, and what takes it."""

    stage: int
    tp_rank: int
    usable_bytes: float
    weight_bytes: float
    activation_bytes: float
    kv_bytes_per_token: float  # of a sequence: with cp, the average over its tokens

    @property
    def free_bytes(self) -> float:
        """Left for the KV cache; negative where the weights and activations alone do not fit."""
        return self.usable_bytes - self.weight_bytes - self.activation_bytes

    @property
    def kv_tokens(self) -> int:
        """Tokens whose part of the cache fits on this rank; 0 where nothing is left."""
        return max(0, int(self.free_bytes // self.kv_bytes_per_token))


def tightest(
    shape: Shape,
    plan: Plan,
    memory_bytes: float,
    stored: Precision,
    kv: KVPrecision,
    *,
    reserve: float = RESERVE,
    batch_tokens: int = BATCH_TOKENS,
) -> Memory:
    """The rank that has room for the fewest tokens, or, where some rank cannot hold its weights, the fullest one.

    memory_bytes is one accelerator's. Raises ValueError for a reserve outside 0..1, no memory, or a plan that the
    shape does not allow.
    """
    if not 0 <= reserve < 1:
        raise ValueError(f"reserve={reserve}; allowed: a fraction of the memory, 0 <= reserve < 1")
    if not 0 < memory_bytes < inf:
        raise ValueError(f"memory_bytes={memory_bytes}; allowed: above 0 bytes")
    held = per_rank.weights(shape, plan)
    cached = per_rank.plan_kv_bytes_per_token(shape, plan, kv)
    activations = activation_bytes(shape, plan, batch_tokens, stored.activation_bytes)
    ranks = [
        Memory(stage, rank, memory_bytes * (1 - reserve), one.num_bytes(stored), activations, cached[stage][rank])
        for stage, ranks_of in enumerate(held)
        for rank, one in enumerate(ranks_of)
    ]
    return min(ranks, key=lambda one: (one.kv_tokens, one.free_bytes))


def activation_bytes(shape: Shape, plan: Plan, tokens: int, number_bytes: int) -> float:
    """A floor for the activations of a forward of `tokens` tokens on a rank.

    Alive at once at the widest point of a layer: the residual and its norm, [tokens,D] each, and on top the largest of
    q, k, v and the attention's output; gate and up; or the experts' copies of the tokens, in and out, with their gate
    and up. Temporary copies, logits and workspaces come on top: an engine measures them with a trial forward.
    """
    work.check_sizes(tokens=tokens, number_bytes=number_bytes)
    heads = max(len(one) for one in per_rank.query_heads(shape, plan.tp))
    groups = max(len(one) for one in per_rank.kv_heads(shape, plan.tp))
    if shape.mla:
        widest = heads * (2 * shape.mla.head_dim + 2 * shape.mla.v_dim)
    else:
        widest = shape.head_dim * (2 * heads + 2 * groups)
    if shape.num_moe_layers < shape.num_layers:
        widest = max(widest, 2 * -(-shape.d_ff // plan.tp))
    if shape.moe:
        split = per_rank.expert_ranks(shape, plan)
        visits = max(1, plan.ep // plan.tp) * shape.moe.experts_per_token / plan.ep
        widest = max(widest, visits * 2 * (shape.d_model + -(-shape.moe.d_ff // split)))
    return number_bytes * tokens * (2 * shape.d_model + widest)

"""What one forward asks of the busiest rank of each stage: floating-point operations, and bytes moved through HBM."""

from __future__ import annotations

from math import gcd

from shardlab.theory import per_rank
from shardlab.theory.degrees import Plan
from shardlab.theory.precision import KVPrecision, Precision
from shardlab.theory.transformer import Shape


def stage_flops(
    shape: Shape,
    plan: Plan,
    *,
    batch: int,
    seq: int,
    past: int = 0,
    logit_positions: int | None = None,
) -> tuple[float, ...]:
    """FLOPs of the busiest rank of each stage: `batch` sequences a replica, `seq` new tokens after `past` cached ones.

    Two FLOPs a weight and token in every matrix, plus attention (attention_flops). Norms, RoPE, softmax and the choice
    of experts are left out. logit_positions a sequence reach the output matrix (None: all). cp: a rank has
    ceil(seq / cp) tokens of a sequence and 1 / cp of the pairs of tokens, as a zigzag split gives them; a single new
    token is on every cp rank, with its share of the keys. Experts: every one is chosen equally often, on average.
    """
    check_sizes(batch=batch, seq=seq)
    heads = max(len(one) for one in per_rank.query_heads(shape, plan.tp))
    groups = max(len(one) for one in per_rank.kv_heads(shape, plan.tp))
    tokens = -(-seq // plan.cp)
    token = shape.attention_matrices_of(heads, groups)
    attention = 2 * tokens * token + attention_flops(shape, heads, seq=seq, past=past) / plan.cp
    mlp = 2 * tokens * 3 * shape.d_model * -(-shape.d_ff // plan.tp)
    experts = _expert_flops(shape, plan, batch=batch, seq=seq)
    positions = seq if logit_positions is None else logit_positions
    head = 2 * -(-positions // plan.cp) * shape.d_model * -(-shape.vocab_size // plan.tp)
    found = []
    for stage, num_moe in zip(per_rank.stages(shape, plan.pp), moe_layers(shape, plan), strict=True):
        flops = batch * (len(stage) * attention + (len(stage) - num_moe) * mlp) + num_moe * experts
        found.append(float(flops + (batch * head if stage.stop == shape.num_layers else 0)))
    return tuple(found)


def attention_flops(shape: Shape, heads: int, *, seq: int, past: int = 0) -> float:
    """FLOPs of causal attention in one layer, for `heads` query heads and one sequence; the projections not counted.

    Token i reads past + i + 1 keys: 2 FLOPs a head and element for the score and 2 for the value. Latent attention has
    two forms, and the one with fewer FLOPs counts. Expanded (prefill): K and V of each head, nope + rope and v wide;
    cached latents are expanded first. Absorbed (decode): every head reads the latent itself, kv_rank + rope wide for
    the score and kv_rank for the value, and the two halves of the second kv matrix move to the query and the output
    (DeepSeek-AI 2024, arXiv 2405.04434, section 2.1; both forms written out in vLLM, mla_attention.py). That matrix
    costs a new token the same in both.
    """
    pairs = seq * past + seq * (seq + 1) // 2
    if shape.mla is None:
        return 4 * heads * shape.head_dim * pairs
    mla = shape.mla
    expanded = 2 * heads * (mla.head_dim + mla.v_dim) * pairs
    expanded += 2 * past * mla.kv_rank * heads * (mla.nope_dim + mla.v_dim)
    absorbed = 2 * heads * (mla.cached_dim + mla.kv_rank) * pairs
    return min(expanded, absorbed)


def stage_hbm_bytes(
    shape: Shape,
    plan: Plan,
    stored: Precision,
    kv: KVPrecision,
    *,
    batch: int,
    seq: int,
    past: int = 0,
) -> tuple[float, ...]:
    """Bytes that the busiest rank of each stage must move: its weights once, the cached K and V, the new ones written.

    The embedding is a lookup: only the rows of the tokens are read, unless the same rank's output matrix is tied to
    it. Of the routed experts, those that some token goes to: expected_experts. Activations stay in cache in this
    count, so it is a floor. The largest weights and the largest cache are added: where heads do not divide they may be
    on different ranks.
    """
    check_sizes(batch=batch, seq=seq)
    held = per_rank.weights(shape, plan)
    cached = per_rank.plan_kv_bytes_per_token(shape, plan, kv)
    inactive = _inactive_weights(shape, plan, batch=batch, seq=seq)
    found = []
    for index, num_moe in enumerate(moe_layers(shape, plan)):
        read = max(one.num_bytes(stored) for one in held[index]) - num_moe * stored.matrix_bytes(inactive)
        if index == 0 and not (shape.tied_embeddings and plan.pp == 1):
            rows = -(-shape.vocab_size // plan.tp) - batch * -(-seq // plan.cp)
            read -= stored.kept_bytes(max(0, rows) * shape.d_model)
        found.append(float(read + batch * (past + seq) * max(cached[index])))
    return tuple(found)


def expected_experts(num_experts: int, experts_per_token: int, tokens: float) -> float:
    """How many of E experts some token goes to, each token choosing k at random: E * (1 - (1 - k/E) ** tokens).

    An expectation for balanced, independent choices. Real tokens of one text agree more, so they use fewer.
    """
    return num_experts * (1 - (1 - experts_per_token / num_experts) ** tokens)


def moe_layers(shape: Shape, plan: Plan) -> tuple[int, ...]:
    """Layers with experts in each stage."""
    dense = shape.num_layers - shape.num_moe_layers
    return tuple(stage.stop - max(min(stage.stop, dense), stage.start) for stage in per_rank.stages(shape, plan.pp))


def dispatched_tokens(shape: Shape, plan: Plan, *, batch: int, seq: int) -> int:
    """Tokens that enter the experts of one ep group in one layer: those of every replica and cp rank that it spans.

    A group inside one tp axis sees that axis' tokens. A token that several cp ranks have (decode) counts once.
    """
    per_rank.expert_ranks(shape, plan)
    coordinates = max(1, plan.ep // plan.tp)
    along_cp = gcd(plan.cp, coordinates)
    return coordinates // along_cp * batch * min(seq, along_cp * -(-seq // plan.cp))


def check_sizes(**sizes: int) -> None:
    """Raises ValueError, naming it, for a size below 1."""
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name}={value}: 1 or more is needed")


def _expert_flops(shape: Shape, plan: Plan, *, batch: int, seq: int) -> float:
    """One MoE layer on a rank: its router, its part of the shared experts, its average part of the routed ones."""
    split = per_rank.expert_ranks(shape, plan)
    moe = shape.moe
    if moe is None:
        return 0.0
    tokens = batch * -(-seq // plan.cp)
    own = shape.router_parameters + 3 * shape.d_model * -(-(moe.num_shared * moe.d_ff) // plan.tp)
    visits = dispatched_tokens(shape, plan, batch=batch, seq=seq) * moe.experts_per_token / plan.ep
    return 2 * tokens * own + 2 * visits * 3 * shape.d_model * -(-moe.d_ff // split)


def _inactive_weights(shape: Shape, plan: Plan, *, batch: int, seq: int) -> float:
    """Weights of a rank's routed experts in one layer that no token is expected to need."""
    split = per_rank.expert_ranks(shape, plan)
    moe = shape.moe
    if moe is None:
        return 0.0
    tokens = dispatched_tokens(shape, plan, batch=batch, seq=seq)
    inactive = (moe.num_experts - expected_experts(moe.num_experts, moe.experts_per_token, tokens)) / plan.ep
    return inactive * 3 * shape.d_model * -(-moe.d_ff // split)

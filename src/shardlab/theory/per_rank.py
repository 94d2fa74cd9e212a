"""What one rank of a plan holds: its parameters, its weight bytes, its KV cache."""

from __future__ import annotations

from dataclasses import dataclass

from shardlab.theory.degrees import Plan
from shardlab.theory.precision import KVPrecision, Precision
from shardlab.theory.split import check_tp, even_split, kv_heads_of
from shardlab.theory.transformer import Experts, Shape


@dataclass(frozen=True)
class Weights:
    """A count of weights: `matrices` are those that a quantised model stores in few bits, `kept` the others."""

    matrices: int
    kept: int

    def __add__(self, other: Weights) -> Weights:
        return Weights(self.matrices + other.matrices, self.kept + other.kept)

    def __mul__(self, times: int) -> Weights:
        return Weights(self.matrices * times, self.kept * times)

    @property
    def total(self) -> int:
        return self.matrices + self.kept

    def num_bytes(self, stored: Precision) -> float:
        """Their bytes in this precision, scales included."""
        return stored.matrix_bytes(self.matrices) + stored.kept_bytes(self.kept)


def check_plan(shape: Shape, plan: Plan) -> None:
    """Raises ValueError, naming the value, the degree and those that work, where a plan cannot share this model."""
    check_tp(shape, plan.tp)
    stages(shape, plan.pp)
    expert_ranks(shape, plan)


def query_heads(shape: Shape, tp: int) -> tuple[range, ...]:
    """The query heads of each rank. 9 over 4 ranks: 3, 2, 2, 2."""
    check_tp(shape, tp)
    return even_split(shape.num_heads, tp)


def kv_heads(shape: Shape, tp: int) -> tuple[range, ...]:
    """The KV heads of each rank: those that its query heads read. Replicated heads are in several ranks."""
    return tuple(kv_heads_of(heads, shape.num_heads, shape.num_kv_heads) for heads in query_heads(shape, tp))


def stages(shape: Shape, pp: int) -> tuple[range, ...]:
    """The layers of each pipeline stage, as evenly as they go, the larger stages first.

    The first stage also has the embedding, the last the final norm and the output matrix.
    Raises ValueError for more stages than layers.
    """
    if isinstance(pp, bool) or not isinstance(pp, int) or not 1 <= pp <= shape.num_layers:
        raise ValueError(
            f"pp={pp} cannot split num_layers={shape.num_layers}: a stage needs at least one; "
            f"degrees that work: 1..{shape.num_layers}"
        )
    return even_split(shape.num_layers, pp)


def expert_ranks(shape: Shape, plan: Plan) -> int:
    """How many ranks share one expert's columns: tp / ep where ep divides tp, 1 where ep is a multiple of tp.

    An ep group is `ep` neighbours among a stage's dp x cp x tp ranks, tp fastest, and each holds E / ep experts. Up to
    ep = tp the groups lie inside one tp axis, whose ranks see the same tokens: those with the same place in their
    groups split an expert's columns, as an MLP's are. Beyond, a group spans several tp axes and every expert is whole.
    Groups on other dp and cp coordinates hold copies. ep=1 is plain tensor parallelism in every replica.
    Raises ValueError for ep > 1 without experts, and for experts that ep does not divide.
    """
    ep, tp = plan.ep, plan.tp
    if shape.moe is None:
        if ep > 1:
            raise ValueError(f"ep={ep}: {shape.name or 'the model'} has no experts; allowed: 1")
        return 1
    if shape.moe.num_experts % ep:
        works = [d for d in range(1, shape.moe.num_experts + 1) if shape.moe.num_experts % d == 0]
        raise ValueError(
            f"ep={ep} does not divide num_experts={shape.moe.num_experts}; degrees that work: "
            f"{', '.join(map(str, works))}"
        )
    split = max(tp // ep, 1)
    if split > shape.moe.d_ff:
        raise ValueError(f"tp={tp}, ep={ep}: {split} ranks cannot share an expert of d_ff={shape.moe.d_ff} columns")
    return split


def weights(shape: Shape, plan: Plan) -> tuple[tuple[Weights, ...], ...]:
    """Weights that each rank holds, as [stage][tp rank]; ranks that differ in dp or cp alone hold as many.

    Split over tp: q and o by query head, k and v by the KV heads read, gate, up and down by F, both embeddings by V.
    On every tp rank whole: norms, the biases of the row-parallel o and down (added after the reduce), the router, and
    with latent attention the two compressions. Experts: see expert_ranks. A tied table is one tensor on a single
    stage, and two copies, first and last, where there are more.
    """
    layers = stages(shape, plan.pp)
    dense = shape.num_layers - shape.num_moe_layers  # these come first
    attention = _attention(shape, plan.tp)
    mlp = tuple(_mlp(shape, len(columns)) for columns in even_split(shape.d_ff, plan.tp))
    experts = _experts(shape, plan)
    tables = tuple(Weights(0, len(rows) * shape.d_model) for rows in even_split(shape.vocab_size, plan.tp))
    held = []
    for index, stage in enumerate(layers):
        num_dense = max(0, min(stage.stop, dense) - stage.start)
        first, last = index == 0, index == plan.pp - 1
        num_tables = 1 if first and last and shape.tied_embeddings else first + last
        final_norm = Weights(0, shape.d_model if last else 0)
        held.append(
            tuple(
                attention[rank] * len(stage)
                + mlp[rank] * num_dense
                + experts[rank] * (len(stage) - num_dense)
                + tables[rank] * num_tables
                + final_norm
                for rank in range(plan.tp)
            )
        )
    return tuple(held)


def plan_kv_bytes_per_token(shape: Shape, plan: Plan, kv: KVPrecision) -> tuple[tuple[float, ...], ...]:
    """Bytes of KV cache that a token of a sequence costs each rank, as [stage][tp rank].

    pp: a rank keeps its stage's layers. tp: the KV heads that its query heads read, never less than one whole head;
    latent attention has nothing to split by head, so every tp rank keeps all of it. cp: a rank keeps one token in cp,
    so a sequence's token costs it 1 / cp on average. dp and ep change nothing.
    """
    rows = [kv.layer_bytes(shape, len(groups)) for groups in kv_heads(shape, plan.tp)]
    return tuple(tuple(len(stage) * row / plan.cp for row in rows) for stage in stages(shape, plan.pp))


def num_parameters(shape: Shape, tp: int) -> tuple[int, ...]:
    """Weights that each tensor-parallel rank holds; uneven splits and replicated KV heads included.

    The sum over ranks is above shape.num_parameters by what every rank has whole: see `weights`.
    """
    return tuple(one.total for one in weights(shape, Plan(tp=tp))[0])


def weight_bytes(shape: Shape, tp: int, dtype_bytes: int) -> tuple[int, ...]:
    """Bytes of each rank's weights."""
    return tuple(count * dtype_bytes for count in num_parameters(shape, tp))


def kv_bytes_per_token(shape: Shape, tp: int, dtype_bytes: int) -> tuple[int, ...]:
    """Bytes of KV cache that each rank keeps for one token, in all layers.

    Falls as 1/T up to T = K. Beyond, a rank cannot hold less than one whole KV head, so the floor is
    2 * L * H * dtype_bytes and ranks keep copies. (Splitting by sequence goes below: context parallelism.) Latent
    attention is at its floor from the start.
    """
    stored = KVPrecision("", dtype_bytes)
    return tuple(shape.num_layers * stored.layer_bytes(shape, len(groups)) for groups in kv_heads(shape, tp))


def _attention(shape: Shape, tp: int) -> tuple[Weights, ...]:
    """One layer's attention and two norms on each tp rank."""
    d, h = shape.d_model, shape.head_dim
    held = []
    for heads, groups in zip(query_heads(shape, tp), kv_heads(shape, tp), strict=True):
        kept = 2 * d + (d if shape.attention_bias else 0)
        if shape.mla:
            compressed = (shape.mla.q_rank or 0) + shape.mla.kv_rank
            kept += compressed + (compressed + shape.mla.rope_dim if shape.attention_bias else 0)
        else:
            kept += h * (len(heads) + 2 * len(groups)) if shape.attention_bias or shape.qkv_bias else 0
            kept += 2 * h if shape.qk_norm else 0
        held.append(Weights(shape.attention_matrices_of(len(heads), len(groups)), kept))
    return tuple(held)


def _mlp(shape: Shape, columns: int) -> Weights:
    """gate, up and down on a rank with this many columns."""
    return Weights(3 * shape.d_model * columns, 2 * columns + shape.d_model if shape.mlp_bias else 0)


def _experts(shape: Shape, plan: Plan) -> tuple[Weights, ...]:
    """The router, the shared and the routed experts of one layer on each tp rank."""
    split = expert_ranks(shape, plan)
    moe = shape.moe
    if moe is None:
        return (Weights(0, 0),) * plan.tp
    columns = even_split(moe.d_ff, split)
    shared = even_split(moe.num_shared * moe.d_ff, plan.tp)
    return tuple(
        Weights(3 * shape.d_model * _routed_columns(moe, plan, columns, rank), shape.router_parameters)
        + (_mlp(shape, len(shared[rank])) if moe.num_shared else Weights(0, 0))
        for rank in range(plan.tp)
    )


def _routed_columns(moe: Experts, plan: Plan, columns: tuple[range, ...], rank: int) -> int:
    """Columns of all the experts that this tp rank holds. Its place in the split is rank // ep: ep is fastest."""
    return moe.num_experts // plan.ep * len(columns[rank // plan.ep if plan.ep < plan.tp else 0])

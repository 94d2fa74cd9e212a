"""What one tensor-parallel rank holds: its parameters, its weight bytes, its KV cache."""

from __future__ import annotations

from shardlab.theory.split import check_tp, even_split, kv_heads_of
from shardlab.theory.transformer import Shape


def query_heads(shape: Shape, tp: int) -> tuple[range, ...]:
    """The query heads of each rank. 9 over 4 ranks: 3, 2, 2, 2."""
    check_tp(shape, tp)
    return even_split(shape.num_heads, tp)


def kv_heads(shape: Shape, tp: int) -> tuple[range, ...]:
    """The KV heads of each rank: those that its query heads read. Replicated heads are in several ranks."""
    return tuple(kv_heads_of(heads, shape.num_heads, shape.num_kv_heads) for heads in query_heads(shape, tp))


def num_parameters(shape: Shape, tp: int) -> tuple[int, ...]:
    """Weights that each rank holds; uneven splits and replicated KV heads included.

    Split: q and o by query head, k and v by the KV heads read, gate, up and down by F, both embeddings by V.
    On every rank whole: the norms, q/k norms, and the biases of the row-parallel o and down (added after the
    reduce). The sum over ranks is above shape.num_parameters by those copies.
    """
    replicated = shape.d_model * (2 * shape.num_layers + 1)
    if shape.qk_norm:
        replicated += 2 * shape.head_dim * shape.num_layers
    if shape.attention_bias:
        replicated += shape.d_model * shape.num_layers
    if shape.mlp_bias:
        replicated += shape.d_model * shape.num_layers
    columns = shape.d_model + (1 if shape.attention_bias else 0)  # a column of q, k, v and its bias
    tables = 1 if shape.tied_embeddings else 2
    counts = []
    for heads, groups, ff, vocab in zip(
        query_heads(shape, tp),
        kv_heads(shape, tp),
        even_split(shape.d_ff, tp),
        even_split(shape.vocab_size, tp),
        strict=True,
    ):
        attention = shape.head_dim * (len(heads) * (columns + shape.d_model) + 2 * len(groups) * columns)
        mlp = len(ff) * (3 * shape.d_model + (2 if shape.mlp_bias else 0))
        counts.append(replicated + shape.num_layers * (attention + mlp) + tables * len(vocab) * shape.d_model)
    return tuple(counts)


def weight_bytes(shape: Shape, tp: int, dtype_bytes: int) -> tuple[int, ...]:
    """Bytes of each rank's weights."""
    return tuple(count * dtype_bytes for count in num_parameters(shape, tp))


def kv_bytes_per_token(shape: Shape, tp: int, dtype_bytes: int) -> tuple[int, ...]:
    """Bytes of KV cache that each rank keeps for one token, in all layers.

    Falls as 1/T up to T = K. Beyond, a rank cannot hold less than one whole KV head, so the floor is
    2 * L * H * dtype_bytes and ranks keep copies. (Splitting by sequence goes below: context parallelism.)
    """
    one_head = 2 * shape.num_layers * shape.head_dim * dtype_bytes
    return tuple(len(groups) * one_head for groups in kv_heads(shape, tp))

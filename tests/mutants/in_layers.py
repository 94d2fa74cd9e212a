"""Mistakes in the sharding code and the sharded layers."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

SHARDING = "tests/layers/test_sharding.py::"
LAYERS = "tests/layers/test_parity.py::"
ALONE = "tests/layers/test_alone.py::"
MODEL = "tests/model/test_parity.py::test_a_tiny_model_says_what_transformers_says"

CUTTING = [
    Mutant(
        "kv_heads_of_the_first_rank",
        "layers/sharding.py",
        "kv = kv_heads_of(query, num_heads, num_kv_heads)",
        "kv = range(len(kv_heads_of(query, num_heads, num_kv_heads)))",
        (f"{SHARDING}test_nine_heads_on_four_ranks", f"{LAYERS}test_attention[3-9-3--]"),
        elsewhere=True,
    ),
    Mutant(
        "every_query_head_reads_the_first_kv_head",
        "layers/sharding.py",
        "tuple(head // group - kv.start for head in query)",
        "tuple(0 for head in query)",
        (f"{SHARDING}test_nine_heads_on_four_ranks", f"{LAYERS}test_attention[2-4-4--]"),
    ),
    Mutant(
        "query_heads_dealt_round",
        "layers/sharding.py",
        "tuple(head // group - kv.start for head in query)",
        "tuple((head // group - kv.start + query.start) % len(kv) for head in query)",
        (f"{SHARDING}test_nine_heads_on_four_ranks",),
        elsewhere=True,
    ),
    Mutant(
        "a_shard_from_the_beginning",
        "layers/sharding.py",
        "slice(held.start, held.stop) for held in self.held",
        "slice(0, len(held)) for held in self.held",
        (f"{SHARDING}test_shard_then_unshard_is_the_tensor", f"{LAYERS}test_column[2-12-]"),
        elsewhere=True,
    ),
    Mutant(
        "rows_of_a_head_from_its_number",
        "layers/sharding.py",
        "return range(heads.start * head_dim, heads.stop * head_dim)",
        "return range(heads.start, heads.start + len(heads) * head_dim)",
        (f"{SHARDING}test_heads_are_where_the_plan_says", f"{LAYERS}test_attention[2-4-4--]"),
        elsewhere=True,
    ),
    Mutant(
        "copies_that_differ_are_joined",
        "layers/sharding.py",
        "if not torch.equal(full[part.index][known], local[known]):",
        "if local.numel() == 0:",
        (f"{SHARDING}test_unshard_refuses_gaps_and_copies_that_differ",),
        elsewhere=True,
    ),
]

LINEAR = [
    Mutant(
        "no_reduce_after_a_row_parallel_product",
        "layers/linear.py",
        "out = comm.all_reduce(partial, axis)",
        "out = partial",
        (f"{LAYERS}test_row[2-12-]", f"{LAYERS}test_mlp[3-37-]"),
    ),
    Mutant(
        "bias_before_the_reduce",
        "layers/linear.py",
        "    out = comm.all_reduce(partial, axis)\n    return out if bias is None else out.add_(bias)",
        "    return comm.all_reduce(partial if bias is None else partial + bias, axis)",
        (f"{LAYERS}test_row[2-12-bias]",),
    ),
    Mutant(
        "bias_forgotten",
        "layers/linear.py",
        "return out if bias is None else out.add_(bias)",
        "return out",
        (f"{LAYERS}test_row[1-12-bias]", f"{MODEL}[qwen3-bias-2]"),
    ),
    Mutant(
        "columns_of_the_neighbour",
        "layers/linear.py",
        "held = even_split(d_out, axis.size)[axis.rank] if held is None else held",
        "held = even_split(d_out, axis.size)[-axis.rank] if held is None else held",
        (f"{LAYERS}test_mlp[3-37-]",),
        elsewhere=True,
    ),
    Mutant(
        "padding_left_in_the_logits",
        "layers/linear.py",
        "    if widths[0] == widths[-1]:\n        return gathered\n",
        "    if widths[0] == widths[-1] or width:\n        return gathered[..., :width]\n",
        (f"{LAYERS}test_logits[4-101]",),
    ),
]

ENDS = [
    Mutant(
        "no_reduce_of_the_embedding",
        "layers/embedding.py",
        "return comm.all_reduce(self.partial(tokens), self.axis)",
        "return self.partial(tokens)",
        (f"{LAYERS}test_embedding[2-12]",),
    ),
    Mutant(
        "rows_of_the_table_without_offset",
        "layers/embedding.py",
        "rows = (tokens - self.held.start).masked_fill_(elsewhere, 0)",
        "rows = (tokens % len(self.held)).masked_fill_(elsewhere, 0)",
        (f"{LAYERS}test_embedding[3-101]",),
        elsewhere=True,
    ),
    Mutant(
        "tokens_of_others_not_masked",
        "layers/embedding.py",
        "F.embedding(rows, self.local_weight).masked_fill_(elsewhere.unsqueeze(-1), 0)",
        "F.embedding(rows, self.local_weight)",
        (f"{LAYERS}test_embedding[2-12]",),
    ),
    Mutant(
        "the_first_token_of_a_shard_is_nobodys",
        "layers/embedding.py",
        "elsewhere = (tokens < self.held.start)",
        "elsewhere = (tokens <= self.held.start) & (tokens > 0)",
        (f"{LAYERS}test_embedding[2-12]",),
        elsewhere=True,
    ),
    Mutant(
        "the_last_row_of_a_shard_is_nobodys",
        "layers/embedding.py",
        "(tokens >= self.held.stop)",
        "(tokens >= self.held.stop - 1)",
        (f"{LAYERS}test_embedding[2-12]", f"{LAYERS}test_embedding[3-101]"),
    ),
]

ATTENTION = [
    Mutant(
        "output_rows_of_other_heads",
        "layers/attention.py",
        "self.o = RowParallelLinear(q_width, d_model, axis, bias=bias, held=q,",
        "early = max(q.start - 1, 0)\n        held = range(early, early + len(q))\n"
        "        self.o = RowParallelLinear(q_width, d_model, axis, bias=bias, held=held,",
        (f"{LAYERS}test_attention[2-4-4--]",),
        elsewhere=True,
    ),
    Mutant(
        "the_window_is_forgotten",
        "layers/attention.py",
        "self.heads.kv_index, self.window, lengths",
        "self.heads.kv_index, None, lengths",
        (f"{MODEL}[mistral-window-2]",),
    ),
    Mutant(
        "a_window_one_too_wide",
        "ops/positions.py",
        "mask & (key > query - window)",
        "mask & (key >= query - window)",
        (f"{ALONE}test_attend_is_the_formula", f"{MODEL}[mistral-window-2]"),
    ),
    Mutant(
        "chunks_see_the_future",
        "ops/positions.py",
        "    mask = key <= query\n",
        "    mask = key >= 0 * query\n",
        (f"{ALONE}test_attend_is_the_formula", f"{MODEL}[llama-gqa-2]"),
    ),
    Mutant(
        "the_newest_position_is_not_seen",
        "layers/kv_cache.py",
        "return self.cache.k[:, :, :stop], self.cache.v[:, :, :stop], None",
        "stop -= k.shape[2] == 1\n        return self.cache.k[:, :, :stop], self.cache.v[:, :, :stop], None",
        (f"{MODEL}[qwen3-2]",),
    ),
    Mutant(
        "the_cache_is_written_from_its_start",
        "layers/kv_cache.py",
        "self.cache.k[:, :, self.start : stop] = k",
        "self.cache.k[:, :, : k.shape[2]] = k",
        (f"{MODEL}[llama-gqa-2]",),
    ),
    Mutant(
        "every_row_is_as_long_as_the_fullest",
        "layers/kv_cache.py",
        "positions = (self.lengths.unsqueeze(1) + torch.arange(num_new)).to(device)",
        "positions = (self.lengths.clamp(min=fullest).unsqueeze(1) + torch.arange(num_new)).to(device)",
        ("tests/layers/test_kv_cache.py::test_rows_have_lengths_of_their_own",),
    ),
    Mutant(
        "norm_of_queries_and_keys_forgotten",
        "layers/attention.py",
        "q, k = self.q_norm(q), self.k_norm(k)",
        "q, k = q, k",
        (f"{MODEL}[qwen3-2]",),
    ),
]

MUTANTS = CUTTING + LINEAR + ENDS + ATTENTION

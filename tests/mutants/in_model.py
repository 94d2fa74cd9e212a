"""Mistakes in the model, in generation, and in what carries a stage's results to the next."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MODEL = "tests/model/test_parity.py::test_a_tiny_model_says_what_transformers_says"
POINT = "tests/lattice/test_conformance.py::test_a_point"
TWO_STAGES, THREE_STAGES = f"{POINT}[llama-gqa on pp2]", f"{POINT}[llama-gqa on pp3]"
REPLICAS = f"{POINT}[llama-gqa on dp2 pp2]"
SAMPLED = "tests/lattice/test_sampled.py::test_what_a_row_draws_depends_on_no_plan"

PIPELINE = [
    Mutant(
        "a_middle_stage_hands_on_what_it_was_given",
        "parallel/pipeline.py",
        "comm.send(after, pp, dst=pp.rank + 1)",
        "comm.send(after if before is None else before, pp, dst=pp.rank + 1)",
        (THREE_STAGES,),
        elsewhere=True,
    ),
    Mutant(
        "what_was_received_is_lost",
        "parallel/pipeline.py",
        "before = None if pp.rank == 0 else comm.recv(empty(), pp, src=pp.rank - 1)",
        "before = None if pp.rank == 0 else comm.recv(empty(), pp, src=pp.rank - 1).zero_()",
        (TWO_STAGES,),
        elsewhere=True,
    ),
    Mutant(
        "the_first_stage_chooses",
        "parallel/pipeline.py",
        "return comm.broadcast(tensor, pp, src=pp.size - 1)",
        "return comm.broadcast(tensor.clamp(0, 9), pp, src=0)",
        (TWO_STAGES,),
    ),
    Mutant(
        "only_the_last_stage_knows_the_token",
        "parallel/pipeline.py",
        "return comm.broadcast(tensor, pp, src=pp.size - 1)",
        "comm.broadcast(tensor.clone(), pp, src=pp.size - 1)\n    return tensor.clamp(0, 9)",
        (TWO_STAGES,),
    ),
    Mutant(
        "a_boundary_in_half_precision",
        "parallel/pipeline.py",
        "comm.send(after, pp, dst=pp.rank + 1)",
        "comm.send(after.bfloat16().float(), pp, dst=pp.rank + 1)",
        (TWO_STAGES,),
    ),
    Mutant(
        "rows_change_places_at_a_boundary",
        "parallel/pipeline.py",
        "comm.send(after, pp, dst=pp.rank + 1)",
        "comm.send(after.flip(0), pp, dst=pp.rank + 1)",
        (TWO_STAGES,),
    ),
]

STAGES = [
    Mutant(
        "every_stage_has_the_first_layers_weights",
        "model/transformer.py",
        "{str(index): Block(config, index, mesh, **where) for index in layers}",
        "{str(index - layers.start): Block(config, index, mesh, **where) for index in layers}",
        (TWO_STAGES,),
        elsewhere=True,
    ),
    Mutant(
        "the_last_stage_looks_for_a_table_of_its_own",
        "model/transformer.py",
        'table = "embedding.weight" if shape.tied_embeddings else None',
        "table = None",
        (TWO_STAGES,),
        elsewhere=True,
    ),
    Mutant(
        "no_offset_in_decode",
        "model/transformer.py",
        "positions = torch.arange(num_new, device=self.device) if step is None else step.positions",
        "positions = torch.arange(num_new, device=self.device)",
        (f"{MODEL}[qwen3-2]", TWO_STAGES),
    ),
    Mutant(
        "only_the_last_stage_counts_positions",
        "model/transformer.py",
        "        if cache is not None:\n            cache.advance(num_new)",
        "        if cache is not None and out is not None:\n            cache.advance(num_new)",
        (TWO_STAGES,),
    ),
    Mutant(
        "the_token_after_the_first_one",
        "model/transformer.py",
        "self.logits(x[:, -1:])[:, 0]",
        "self.logits(x[:, :1])[:, 0]",
        (f"{MODEL}[qwen3-2]",),
    ),
    Mutant(
        "the_residual_is_reduced_too",
        "model/block.py",
        "return x + self._reduce(self.mlp.partial(normed), self.mlp.bias)",
        "return self._reduce(x + self.mlp.partial(normed), self.mlp.bias)",
        (f"{MODEL}[llama-gqa-2]",),
    ),
    Mutant(
        "a_bias_of_attention_forgotten",
        "model/block.py",
        "self.mlp_norm.add(self._reduce(partial, self.attention.bias), x)",
        "self.mlp_norm.add(self._reduce(partial, None), x)",
        (f"{MODEL}[qwen3-bias-2]",),
    ),
]

GENERATION = [
    Mutant(
        "every_replica_answers_the_first_rows",
        "model/generate.py",
        "rows = even_split(batch, dp.size)[dp.rank]",
        "rows = even_split(batch, dp.size)[0]",
        (REPLICAS,),
        elsewhere=True,
    ),
    Mutant(
        "every_replica_answers_all_rows",
        "model/generate.py",
        "rows = even_split(batch, dp.size)[dp.rank]",
        "rows = range(batch)",
        (REPLICAS,),
    ),
    Mutant(
        "rows_dealt_round_robin",
        "model/generate.py",
        "tokens = token_ids[rows.start : rows.stop]",
        "tokens = token_ids[dp.rank :: dp.size]",
        (REPLICAS,),
    ),
    Mutant(
        "the_rows_of_a_replica_draw_as_the_first_ones_do",
        "model/generate.py",
        "[sampling.seed + row for row in rows]",
        "[sampling.seed + row for row in range(len(rows))]",
        (SAMPLED,),
        elsewhere=True,
    ),
    Mutant(
        "an_ended_row_goes_on",
        "model/generate.py",
        "new = torch.where(ended, new, choose(logits, rows, choice, model))",
        "new = choose(logits, rows, choice, model)",
        ("tests/model/test_generate.py::test_an_ended_sequence_repeats_its_end_until_all_have_ended",),
    ),
]

MUTANTS = PIPELINE + STAGES + GENERATION

"""Mistakes in the rank grid, the splits and the ledger."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

DEGREES = "tests/theory/test_degrees.py::"
SPLIT = "tests/theory/test_split.py::"
RANKS = "tests/theory/test_ledger_ranks.py::"
AXES = "tests/theory/test_ledger_axes.py::"
POINT = "tests/lattice/test_conformance.py::test_a_point"

GRID = [
    Mutant(
        "tp_slowest",
        "theory/degrees.py",
        "for axis in reversed(AXES):",
        "for axis in AXES:",
        (f"{DEGREES}test_tp_is_fastest_and_dp_slowest",),
        elsewhere=True,
    ),
    Mutant(
        "ep_groups_are_strided",
        "theory/degrees.py",
        "_place_in_stage(place, plan) // plan.ep)",
        "_place_in_stage(place, plan) % (plan.world_size // plan.pp // plan.ep))",
        (f"{DEGREES}test_ep_groups_are_neighbours_of_one_stage",),
    ),
    Mutant(
        "ep_groups_cross_stages",
        "theory/degrees.py",
        'key = (place["pp"], _place_in_stage',
        'key = (0, place["pp"] * 0 + _place_in_stage',
        (f"{DEGREES}test_an_ep_group_stays_in_its_stage_and_keeps_tp_ranks_together",),
    ),
    Mutant(
        "ep_place_is_its_group",
        "theory/degrees.py",
        "_place_in_stage(position, plan) % plan.ep",
        "_place_in_stage(position, plan) // plan.ep",
        (f"{DEGREES}test_the_lines_of_an_axis_divide_the_ranks",),
        elsewhere=True,
    ),
    Mutant(
        "cp_before_dp_in_a_stage",
        "theory/degrees.py",
        '(place["dp"] * plan.cp + place["cp"]) * plan.tp',
        '(place["cp"] * plan.dp + place["dp"]) * plan.tp',
        (f"{DEGREES}test_the_lines_of_an_axis_divide_the_ranks",),
        elsewhere=True,
    ),
    Mutant(
        "an_ep_that_cuts_tp_lines_is_let_through",
        "theory/degrees.py",
        "and (self.tp % ep == 0 or ep % self.tp == 0)",
        "",
        (f"{DEGREES}test_ep_that_does_not_fit_names_those_that_do",),
    ),
    Mutant(
        "larger_parts_last",
        "theory/split.py",
        "min(part, larger)",
        "max(0, part - parts + larger)",
        (f"{SPLIT}test_nine_heads_on_four_ranks",),
    ),
    Mutant(
        "the_remainder_goes_to_the_last",
        "theory/split.py",
        "starts = [part * size + min(part, larger) for part in range(parts + 1)]",
        "starts = [*(part * size for part in range(parts)), total]",
        (f"{SPLIT}test_a_split_covers_everything_once_and_evenly",),
    ),
    Mutant(
        "kv_heads_as_if_aligned",
        "theory/split.py",
        "return range(first, (query_heads.stop - 1) // group + 1)",
        "return range(first, first + -(-len(query_heads) // group))",
        (f"{SPLIT}test_kv_heads_are_exactly_those_that_the_query_heads_read",),
        elsewhere=True,
    ),
    Mutant(
        "a_rank_more_than_heads",
        "theory/split.py",
        "or not 1 <= tp <= most:",
        "or not 1 <= tp <= most + 1:",
        (f"{SPLIT}test_a_degree_above_the_heads_is_refused_with_those_that_work",),
    ),
]

LEDGER = [
    Mutant(
        "every_replica_has_the_whole_batch",
        "theory/ledger.py",
        'len(even_split(batch, plan.dp)[place["dp"]])',
        "batch",
        (f"{RANKS}test_rows_that_dp_does_not_divide", f"{RANKS}test_a_replica_without_rows_sends_nothing"),
    ),
    Mutant(
        "every_replica_has_the_first_ones_rows",
        "theory/ledger.py",
        'len(even_split(batch, plan.dp)[place["dp"]])',
        "len(even_split(batch, plan.dp)[0])",
        (f"{RANKS}test_rows_that_dp_does_not_divide", f"{POINT}[llama-gqa on dp2 tp2]"),
        elsewhere=True,
    ),
    Mutant(
        "tokens_travel_as_int32",
        "theory/ledger.py",
        "TOKEN_BYTES = 8",
        "TOKEN_BYTES = 4",
        (f"{RANKS}test_a_middle_stage_only_passes_on", f"{POINT}[llama-gqa on pp2]"),
    ),
    Mutant(
        "a_decode_step_too_many",
        "theory/ledger.py",
        "* (new_tokens - 1)",
        "* new_tokens",
        (f"{RANKS}test_a_generation_on_two_stages_of_two",),
    ),
    Mutant(
        "the_last_token_is_not_told",
        "theory/ledger.py",
        "return sent + chosen + (step + chosen) * (new_tokens - 1)",
        "return sent + (chosen + step) * (new_tokens - 1)",
        (f"{RANKS}test_every_rank_has_the_list_of_its_place",),
    ),
    Mutant(
        "every_stage_has_an_embedding",
        "theory/ledger.py",
        "sent = list(reduce) if stage == 0 else []",
        "sent = list(reduce)",
        (f"{AXES}test_a_pipeline_by_hand",),
        elsewhere=True,
    ),
    Mutant(
        "the_last_stage_sends_too",
        "theory/ledger.py",
        "if stage < plan.pp - 1:",
        "if stage < plan.pp and plan.pp > 1:",
        (f"{AXES}test_a_pipeline_by_hand",),
        elsewhere=True,
    ),
    Mutant(
        "a_send_round_the_ring_too_many",
        "theory/layer_messages.py",
        'return [Transfer("send", "cp", chunk)] * (plan.cp - 1)',
        'return [Transfer("send", "cp", chunk)] * plan.cp',
        (f"{AXES}test_ring_attention_passes_k_and_v_of_a_chunk",),
    ),
    Mutant(
        "copies_of_all_tokens_are_sent",
        "theory/layer_messages.py",
        "own = -(-tokens // plan.tp)",
        "own = tokens",
        (f"{AXES}test_copies_are_of_a_ranks_own_tokens_rounded_up",),
    ),
]

MUTANTS = GRID + LEDGER

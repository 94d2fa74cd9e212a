"""Mistakes in the collectives and in the mesh."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

COMM = "tests/comm/test_comm.py::"
EXACT = f"{COMM}test_exactly_what_it_says"
POINT = "tests/lattice/test_conformance.py::test_a_point"

MUTANTS = [
    Mutant(
        "mean_for_sum",
        "comm/collectives.py",
        "        dist.all_reduce(partial, group=axis.group)\n    return partial",
        "        dist.all_reduce(partial, group=axis.group)\n    return partial // axis.size",
        (f"{EXACT}[all_reduce-3]",),
    ),
    Mutant(
        "a_strided_sum_is_written_to_a_copy",
        "comm/collectives.py",
        "        dist.all_reduce(partial, group=axis.group)\n    return partial",
        "        dist.all_reduce(partial.clone(), group=axis.group)\n    return partial",
        (f"{EXACT}[all_reduce_strided-2]",),
    ),
    Mutant(
        "gathered_from_the_last_rank_on",
        "comm/calls.py",
        "torch.cat(gathered.view(axis.size, *local.shape).unbind(0), dim=dim)",
        "torch.cat(gathered.view(axis.size, *local.shape).flip(0).unbind(0), dim=dim)",
        (f"{EXACT}[all_gather_last-3]",),
    ),
    Mutant(
        "a_gather_counts_its_shard",
        "comm/collectives.py",
        'with recorded("all_gather", axis, local, gathered.nbytes, carrier=carrier):',
        'with recorded("all_gather", axis, local, local.nbytes, carrier=carrier):',
        (f"{COMM}test_one_transfer_with_its_size_and_time[all_gather_last-]",),
    ),
    Mutant(
        "mean_for_sum_in_reduce_scatter",
        "comm/collectives.py",
        "return received.sum(0, dtype=received.dtype)",
        "return received.sum(0, dtype=received.dtype) // axis.size",
        (f"{EXACT}[reduce_scatter-3]",),
    ),
    Mutant(
        "a_broadcast_from_the_first_rank",
        "comm/collectives.py",
        "dist.broadcast(tensor, src=axis.ranks[src], group=axis.group)",
        "dist.broadcast(tensor, src=axis.ranks[0], group=axis.group)",
        (f"{EXACT}[broadcast_from_the_last-3]",),
    ),
    Mutant(
        "a_broadcast_from_the_global_rank",
        "comm/collectives.py",
        "dist.broadcast(tensor, src=axis.ranks[src], group=axis.group)",
        "dist.broadcast(tensor, src=src, group=axis.group)",
        (f"{POINT}[llama-gqa on dp2 pp2]",),
        elsewhere=True,
    ),
    Mutant(
        "concatenated_along_the_split_dim",
        "comm/collectives.py",
        "return torch.cat(received.unbind(0), dim=concat_dim)",
        "return torch.cat(received.unbind(0), dim=split_dim)",
        (f"{EXACT}[all_to_all-3]",),
    ),
    Mutant(
        "a_receive_is_counted_too",
        "comm/recorder.py",
        'sent = [] if op == "recv" else [Transfer(op, axis, num_bytes, route=route)]',
        "sent = [Transfer(op, axis, num_bytes or 1, route=route)]",
        (f"{COMM}test_send_and_recv",),
        elsewhere=True,
    ),
    Mutant(
        "the_axis_wraps_around",
        "comm/calls.py",
        "if rank != axis.rank and 0 <= rank < axis.size:",
        "if rank != axis.rank and rank < axis.size:",
        ("tests/comm/test_posted.py::test_a_rank_off_the_axis_or_oneself_is_refused",),
    ),
    Mutant(
        "what_is_never_waited_for_is_let_go",
        "comm/recorder.py",
        "        if self.open:",
        "        if not self.open:",
        ("tests/comm/test_posted.py::test_what_is_never_waited_for_is_an_error_that_names_it",),
    ),
    Mutant(
        "every_axis_is_the_whole_pool",
        "launch/recorded.py",
        "line = axis_ranks(rank, plan, axis)",
        "line = tuple(range(plan.world_size))",
        ("tests/wire/test_run.py::test_messages_are_counted_with_their_framing",),
        elsewhere=True,
    ),
    Mutant(
        "a_send_to_the_global_rank",
        "comm/point_to_point.py",
        "dist.send(tensor, dst=axis.ranks[dst], group=axis.group)",
        "dist.send(tensor, dst=axis.ranks[0] + dst, group=axis.group)",
        (f"{POINT}[llama-gqa on pp2 tp2]",),
    ),
    Mutant(
        "a_broadcast_is_recorded_as_from_rank_0",
        "comm/collectives.py",
        "carrier=carrier, route=route_of_peer(src))",
        "carrier=carrier, route=route_of_peer(0))",
        (f"{POINT}[llama-gqa on pp2]",),
    ),
    Mutant(
        "an_axis_begins_at_rank_0",
        "comm/mesh.py",
        "axes[name] = Axis(name, ranks.index(rank), len(ranks), ranks,",
        "axes[name] = Axis(name, min(rank, len(ranks) - 1), len(ranks), ranks,",
        ("tests/comm/test_mesh.py::test_every_axis_of_a_plan_communicates_ep_included",),
        elsewhere=True,
    ),
]

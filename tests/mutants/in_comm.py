"""Mistakes in the collectives and in the mesh."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

COMM = "tests/comm/test_comm.py::"
EXACT = f"{COMM}test_exactly_what_it_says"

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
        "comm/collectives.py",
        "gathered.view(axis.size, *local.shape).unbind(0)",
        "gathered.view(axis.size, *local.shape).flip(0).unbind(0)",
        (f"{EXACT}[all_gather_last-3]",),
    ),
    Mutant(
        "a_gather_counts_its_shard",
        "comm/collectives.py",
        'with _recorded("all_gather", axis, local, gathered.nbytes):',
        'with _recorded("all_gather", axis, local, local.nbytes):',
        (f"{COMM}test_one_transfer_with_its_size_and_time[all_gather_last-]",),
    ),
    Mutant(
        "mean_for_sum_in_reduce_scatter",
        "comm/collectives.py",
        "return received.sum(0)",
        "return received.sum(0) // axis.size",
        (f"{EXACT}[reduce_scatter-3]",),
    ),
    Mutant(
        "a_broadcast_from_the_global_rank",
        "comm/collectives.py",
        "dist.broadcast(tensor, src=axis.ranks[src], group=axis.group)",
        "dist.broadcast(tensor, src=axis.ranks[0], group=axis.group)",
        (f"{EXACT}[broadcast_from_the_last-3]",),
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
        "comm/collectives.py",
        'with _recorded("recv", axis, tensor, 0):',
        'with _recorded("recv", axis, tensor, tensor.nbytes):',
        (f"{COMM}test_send_and_recv",),
        elsewhere=True,
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

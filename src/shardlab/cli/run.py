"""`shardlab run PROGRAM`: a program of shardlab.programs on ranks of this machine, or as a rank of a torchrun job."""

from __future__ import annotations

import importlib
import os
import textwrap
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shardlab.cli.plain import Mistake, positive
from shardlab.cli.programs import arguments, find, programs
from shardlab.theory.degrees import Plan

if TYPE_CHECKING:
    from shardlab.launch.run import Run
    from shardlab.theory.ledger import Transfer


def run(
    program: Annotated[str, typer.Argument(help="MODULE.FUNCTION of shardlab.programs; without one: list them.")] = "",
    tp: Annotated[
        int | None,
        typer.Option(parser=positive, metavar="INTEGER", help="Ranks (2). Under torchrun: all of the job's."),
    ] = None,
    dp: Annotated[
        int | None,
        typer.Option(parser=positive, metavar="INTEGER", help="Replicas (1), of --tp ranks each."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A parameter of the program; repeatable."),
    ] = None,
) -> None:
    """Run a program on every rank, and print what each returned and sent.

    Also as a job of many machines: torchrun --nnodes=2 --nproc-per-node=8 -m shardlab run tensor.mlp_forward
    """
    if not program:
        for known in programs().values():
            about = textwrap.shorten(known.about, 80, placeholder=" ...")
            typer.echo(f"{known.name:26} {about}")
        return
    given = arguments(find(program), settings or [])
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        _as_one_rank(program, dp, tp, given)
    else:
        _on_ranks(program, Plan(dp=dp or 1, tp=tp or (1 if dp else 2)), given)


def _on_ranks(program: str, plan: Plan, given: dict[str, Any]) -> None:
    from shardlab import Ranks

    with Ranks(plan.world_size) as ranks:
        # bound to the program, so that a parameter of it that run() has too is not taken for run()'s
        results = ranks.run(partial(_function(program), **given), plan=plan, wire=True)
        for rank, result in enumerate(results):
            typer.echo(f"rank {rank}: {result}")
        alike: dict[str, list[int]] = {}
        for rank, sent in enumerate(ranks.last.transfers):
            alike.setdefault(_transfers(sent), []).append(rank)
        for sent, of in alike.items():
            typer.echo(f"recorded, rank{'s' * (len(of) > 1)} {', '.join(map(str, of))}: {sent}")
        _say_wire(ranks.last)


def _say_wire(last: Run) -> None:
    """The busiest rank's bytes, and whether they are those that were recorded; or why nothing was measured."""
    try:
        said = "as recorded" if last.agrees() else "not as recorded: " + "; ".join(last.differences()[:3])
    except ValueError as reason:
        typer.echo(str(reason))
    else:
        typer.echo(f"on the wire, the busiest rank: {last.sent_bytes:,} bytes sent, every pair of ranks {said}")


def _as_one_rank(program: str, dp: int | None, tp: int | None, given: dict[str, Any]) -> None:
    """torchrun has started this process as one rank of a job: be that rank, and print what it found."""
    plan = _plan_of_job(int(os.environ["WORLD_SIZE"]), dp, tp)
    from shardlab.launch import torchrun

    with torchrun.join(plan) as mesh:
        result = _function(program)(mesh, **given)
        # one write a rank, so that the lines of ranks on one terminal stay whole
        os.write(1, f"rank {mesh.rank}: {result}\n".encode())
        if mesh.rank == 0:
            os.write(1, f"recorded, rank 0: {_transfers(mesh.recorder.transfers)}\n".encode())


def _plan_of_job(world_size: int, dp: int | None, tp: int | None) -> Plan:
    """What is left away takes the ranks that are there. Raises Mistake where the degrees do not come to world_size."""
    if dp is None and tp is not None and tp != world_size:
        raise Mistake(f"--tp {tp}: torchrun started {world_size} ranks; leave --tp away, or give {world_size}")
    dp = dp or 1
    if world_size % dp or tp not in (None, world_size // dp):
        raise Mistake(f"--dp {dp}{f' --tp {tp}' if tp else ''}: torchrun started {world_size} ranks, which is dp x tp")
    return Plan(dp=dp, tp=world_size // dp)


def _function(program: str) -> Callable[..., Any]:
    module, _, name = program.rpartition(".")
    return getattr(importlib.import_module(f"shardlab.programs.{module}"), name)


def _transfers(transfers: list[Transfer]) -> str:
    """[...] -> "61 x all_reduce on tp of 2,304 bytes, ...", most first."""
    if not transfers:
        return "nothing sent"
    counts = Counter((transfer.op, transfer.axis, transfer.num_bytes) for transfer in transfers)
    return ", ".join(f"{n} x {op} on {axis} of {size:,} bytes" for (op, axis, size), n in counts.most_common())

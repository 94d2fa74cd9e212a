"""`shardlab sweep`: every collective by every implementation, over sizes and numbers of ranks, as a table and a CSV."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shardlab.cli.plain import Mistake, positive
from shardlab.cli.units import seconds, size_bytes
from shardlab.theory.collectives import ALGORITHMS
from shardlab.theory.units import bytes_text

if TYPE_CHECKING:
    from shardlab.measure.point import Point

# What shardlab.algorithms.IMPLEMENTATIONS has, transport by transport; that one cannot be asked without loading torch.
IMPLEMENTED = {
    "backend": {
        "all_reduce": ("ring",),
        "all_gather": ("ring",),
        "reduce_scatter": ("all_reduce", "one_shot"),
        "all_to_all": ("one_shot",),
        "broadcast": ("binomial_tree",),
        "send": ("one_shot",),
    },
    "send_recv": {
        "all_reduce": ("ring", "recursive_doubling", "binomial_tree", "one_shot", "two_shot"),
        "all_gather": ("ring", "one_shot"),
        "reduce_scatter": ("ring", "one_shot"),
        "all_to_all": ("one_shot",),
        "broadcast": ("binomial_tree", "one_shot"),
    },
    "shared_memory": {
        "all_reduce": ("one_shot", "two_shot"),
        "all_gather": ("one_shot",),
        "reduce_scatter": ("one_shot",),
        "all_to_all": ("one_shot",),
        "broadcast": ("one_shot",),
        "send": ("one_shot",),
    },
}
TRANSPORTS = tuple(IMPLEMENTED)
MOST_RANKS, MOST_ROUNDS = 64, 1000
_LARGEST = {"gloo": 64 << 20, "nccl": 1 << 30}
_CROWD, _LARGEST_IN_A_CROWD = 8, 1 << 20  # more ranks than this on one CPU: a call of 64 MB would take minutes
_RANK_BYTES = 40e6  # what a rank takes before it holds a tensor: measured, 26 MB, Triton loaded

_Names = list[str] | None


def sweep(
    op: Annotated[_Names, typer.Option(help=f"Repeatable, or with commas (all): {', '.join(ALGORITHMS)}.")] = None,
    algorithm: Annotated[_Names, typer.Option(help="The same (all that the ops have).")] = None,
    transport: Annotated[_Names, typer.Option(help=f"The same (all): {', '.join(TRANSPORTS)}.")] = None,
    ranks: Annotated[str, typer.Option(help=f"Numbers of ranks, 2 to {MOST_RANKS}, with commas.")] = "2,4",
    smallest: Annotated[
        int | None, typer.Option("--min", parser=size_bytes, metavar="SIZE", help="Smallest size S (1K).")
    ] = None,
    largest: Annotated[
        int | None,
        typer.Option("--max", parser=size_bytes, metavar="SIZE", help="64M on CPUs (1M from 9 ranks on), 1G on GPUs."),
    ] = None,
    step: Annotated[
        int | None, typer.Option(parser=positive, metavar="FACTOR", help="From one size to the next (4).")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(parser=positive, metavar="INTEGER", help="Samples of each time (7).")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Append the points to this file.")] = None,
    budget: Annotated[
        float | None, typer.Option(parser=seconds, metavar="TIME", help="Time for timing, as in 60s: fewer rounds.")
    ] = None,
) -> None:
    """Time and count send, all_reduce, all_gather, reduce_scatter, all_to_all and broadcast over sizes and ranks.

    Median, p10 and p90 of one call, algbw and busbw as nccl-tests defines them, steps, and what the busiest rank
    sent beside the formula. Every result is checked to be exact first. Ctrl-C keeps what was measured.
    """
    chosen = _chosen(op, algorithm, transport)
    degrees = _degrees(ranks)
    if step == 1:
        raise Mistake("--step 1; allowed: 2 or more")
    if rounds is not None and rounds > MOST_ROUNDS:
        raise Mistake(f"--rounds {rounds}; allowed: 1..{MOST_ROUNDS}")
    first = smallest or 1 << 10
    if largest is not None and largest < first:
        raise Mistake(f"--min is {first} bytes and --max {largest}; allowed: a --max of --min or more")
    _check_room(max(degrees), largest or first, "--max" if largest else "--min")
    if csv is not None:
        _check_csv(csv)

    from shardlab import Ranks
    from shardlab.cli.sweep_report import progress
    from shardlab.sweep.driver import runnable
    from shardlab.sweep.driver import sweep as measure

    points: list[Point] = []
    with redirect_stdout(sys.stderr):  # what the ranks say goes beside the progress bar, not into the table
        with Ranks(max(degrees)) as pool:
            wanted = [one for one in runnable(pool.backend) if (one.op, one.algorithm, one.transport) in chosen]
            if not wanted:
                raise Mistake(f"--transport shared_memory: not on {pool.backend}; allowed: backend, send_recv")
            sizes = _sizes(first, max(first, largest or _default_largest(max(degrees), pool.backend)), step or 4)
            pool.start()
            try:
                with progress() as tell:
                    measure(
                        pool,
                        wanted,
                        sizes,
                        degrees,
                        rounds=rounds or 7,
                        budget_s=budget,
                        on_progress=tell,
                        on_points=points.extend,
                    )
            finally:
                _keep(points, csv)


def _keep(points: Sequence[Point], csv: Path | None) -> None:
    """Print and write what was measured, be it everything or, after an interrupt, a part."""
    from rich.console import Console

    from shardlab.cli.sweep_report import tables

    if not points:
        return
    if csv is not None:
        from shardlab.measure import machine, point

        written = point.write(csv, points, machine.provenance(points[0].backend, _command()))
        typer.echo(f"{written} rows written to {csv}", err=True)
    tty = sys.__stdout__ is not None and sys.__stdout__.isatty()
    console = Console(file=sys.__stdout__, width=None if tty else 150)
    for table in tables(points):
        console.print(table)


def _names(given: _Names, option: str, allowed: Sequence[str]) -> tuple[str, ...]:
    """["a,b", "c"] -> ("a", "b", "c"), each of them allowed; all that are allowed where none was given."""
    names = [name.strip() for text in given or () for name in text.split(",")]
    for name in names:
        if name not in allowed:
            raise Mistake(f"--{option} {name}; allowed: {', '.join(allowed)}")
    return tuple(names) or tuple(allowed)


def _chosen(op: _Names, algorithm: _Names, transport: _Names) -> set[tuple[str, str, str]]:
    """The implementations asked for. Raises Mistake for names that do not exist or do not go together."""
    ops = _names(op, "op", tuple(ALGORITHMS))
    algorithms = _names(algorithm, "algorithm", tuple(dict.fromkeys(name for one in ops for name in ALGORITHMS[one])))
    transports = _names(transport, "transport", TRANSPORTS)
    there = {(one, name, over) for over in TRANSPORTS for one in IMPLEMENTED[over] for name in IMPLEMENTED[over][one]}
    chosen = {names for names in there if names[0] in ops and names[1] in algorithms and names[2] in transports}
    if not chosen:
        of_ops = ", ".join(sorted(f"{name} over {over}" for one, name, over in there if one in ops))
        raise Mistake(f"--algorithm {','.join(algorithms)} --transport {','.join(transports)}; allowed: {of_ops}")
    return chosen


def _degrees(text: str) -> tuple[int, ...]:
    """ "2,4" -> (2, 4), each once."""
    try:
        degrees = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        degrees = ()
    if not degrees or not all(2 <= degree <= MOST_RANKS for degree in degrees):
        raise Mistake(f"--ranks {text}; allowed: numbers from 2 to {MOST_RANKS}, with commas between, like 2,4")
    return degrees


def _sizes(smallest: int, largest: int, step: int) -> list[int]:
    sizes = [smallest]
    while sizes[-1] * step <= largest:
        sizes.append(sizes[-1] * step)
    return sizes


def _default_largest(num_ranks: int, backend: str) -> int:
    """As large as is usual, as the memory of a CPU's ranks allows, and as the patience of whoever waits for many."""
    if backend != "gloo":
        return _LARGEST[backend]
    usual = _LARGEST[backend] if num_ranks <= _CROWD else _LARGEST_IN_A_CROWD
    return min(usual, _most_bytes(num_ranks))


def _check_room(num_ranks: int, num_bytes: int, option: str) -> None:
    """Raises Mistake for a size that the ranks have no memory for."""
    if num_bytes > _most_bytes(num_ranks):
        most = bytes_text(_most_bytes(num_ranks))
        raise Mistake(f"{option} {num_bytes} bytes: {num_ranks} ranks have memory for sizes up to {most} here")


def _most_bytes(num_ranks: int) -> int:
    """The largest size. A rank holds its tensor, the result, and of a direct algorithm what every other rank sends."""
    import psutil

    room = psutil.virtual_memory().available - num_ranks * _RANK_BYTES
    return int(max(room, 0) // (num_ranks * (num_ranks + 4)))


def _check_csv(path: Path) -> None:
    """Find out before measuring whether the points can be written."""
    folder = path.parent
    if path.is_dir():
        raise Mistake(f"--csv {path} is a folder; allowed: a file in a folder that exists")
    if not folder.is_dir():
        raise Mistake(f"--csv {path}: there is no folder {folder}; allowed: a file in a folder that exists")
    if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.R_OK)):
        raise Mistake(f"--csv {path}: no permission to write there; allowed: a file in a folder that you can write to")
    if path.exists():
        from shardlab.measure import point

        try:
            point.check(path)
        except ValueError as error:
            raise Mistake(f"--csv {path}: {error}; allowed: a new file, or one that a sweep has written") from None


def _command() -> str:
    return " ".join(["shardlab", *sys.argv[1:]])

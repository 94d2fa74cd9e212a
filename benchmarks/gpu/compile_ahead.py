"""Compile all kernels of the bench on all cores, before the GPU has to wait for them.

A bench compiles a configuration, times it, and compiles the next: seconds each, one core at work. Here the cases are
drawn with tensors that nobody fills, the launches are collected instead of started, and as many processes as there are
cores compile them into Triton's cache on disk. What a case would compile later it then finds there.

    python -m benchmarks.gpu.compile_ahead [--arch sm_90] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from unittest import mock

import torch
from torch.nn import functional

from shardlab_kernels import compile_only
from shardlab_kernels.bench.__main__ import chosen
from shardlab_kernels.bench.case import Case, Place
from shardlab_kernels.bench.cases import CASES

Unit = Callable[[], object]  # compiles one configuration of one kernel
_units: list[Unit] = []  # a forked worker finds them here: they hold tensors and kernels, which do not pickle well


@dataclass(frozen=True)
class Drawn(Place):
    """Sizes and ranks of a GPU, on a CPU: memory is asked for and not filled."""

    def ranks(self, full: int) -> int:
        return full

    def randn(self, *shape: int, seed: int, fan_in: int = 1, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype)


def collect(cases: Sequence[Case], arch: str) -> list[Unit]:
    """What these cases launch, one unit a kernel and configuration; drawing the inputs launches kernels too."""
    place, units = Drawn(torch.device("cpu"), smoke=False), []
    with compile_only.collected(arch) as launches, mock.patch.object(functional, "linear", _no_product):
        for case in cases:
            try:
                problem = case.make(place)
                problem.ours(*problem.draw(0))
            except Exception as error:  # the bench itself will say it better
                print(f"{case.label}: not compiled ahead ({type(error).__name__}: {error})", flush=True)
        for one in launches:
            units += one
    return units


def _no_product(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """A CPU would take minutes for products of these sizes, and nobody reads them."""
    return x.new_empty(*x.shape[:-1], w.shape[0])


def compile_all(units: Sequence[Unit], arch: str, processes: int) -> int:
    """-> how many of them could not be compiled."""
    _units[:] = units
    with multiprocessing.get_context("fork").Pool(processes, _become, [arch]) as pool:
        return sum(pool.imap_unordered(_compile, range(len(units))))


def _become(arch: str) -> None:
    torch.set_num_threads(1)
    compile_only.stand_in(arch)


def _compile(number: int) -> int:
    try:
        _units[number]()
    except Exception as error:  # one configuration that ptxas refuses is tuning's business
        print(f"{type(error).__name__}: {error}"[:300], flush=True)
        return 1
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile the bench's kernels on all cores, without a GPU.")
    parser.add_argument("--arch", default="sm_90")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="only this kernel; repeatable")
    options = parser.parse_args()
    started = time.monotonic()
    units = collect(chosen(CASES, options.only), options.arch)
    drawn_s = time.monotonic() - started
    failed = compile_all(units, options.arch, max(1, (os.cpu_count() or 2) - 2))
    print(
        f"{len(units) - failed} of {len(units)} configurations compiled for {options.arch}: {drawn_s:.0f} s to draw, "
        f"{time.monotonic() - started:.0f} s in all"
    )


if __name__ == "__main__":
    main()

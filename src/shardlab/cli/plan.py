"""`shardlab plan`: which plan to run on a cluster, what it would reach, and how to start it. No torch, no GPU."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from shardlab.cli.plain import Mistake, positive
from shardlab.cli.units import seconds

MOST_GPUS = 1024  # the search grows with the square of the cluster, and its answer does not


def plan(
    model: Annotated[str, typer.Option(help="A model's name, a config.json, or the folder that it is in.")],
    cluster: Annotated[str, typer.Option(metavar="NAME[:NODES]", help="Such as dgx-h100:2.")],
    input_tokens: Annotated[int, typer.Option("--input", parser=positive, metavar="TOKENS", help="A prompt's tokens.")],
    output_tokens: Annotated[
        int, typer.Option("--output", parser=positive, metavar="TOKENS", help="An answer's tokens, 2 or more.")
    ],
    slo_tpot: Annotated[
        float | None, typer.Option(parser=seconds, metavar="TIME", help="Most time a token: 50ms.")
    ] = None,
    slo_ttft: Annotated[
        float | None, typer.Option(parser=seconds, metavar="TIME", help="Most time to the first token: 1s.")
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(parser=positive, metavar="SEQUENCES", help="Sequences in flight. Left out: as many as can be."),
    ] = None,
    precision: Annotated[str, typer.Option(help="Of the weights: bf16, fp8, int4, ...")] = "bf16",
    kv: Annotated[str, typer.Option(help="Of the KV cache: bf16, fp8, int8.")] = "bf16",
    top: Annotated[int, typer.Option(parser=positive, metavar="PLANS", help="Plans to show.")] = 8,
    every: Annotated[
        bool, typer.Option("--all", help="Show every plan that fits, and every one that does not.")
    ] = False,
) -> None:
    """Rank every dp x pp x cp x tp x ep plan of a cluster by output tokens a second, among those that meet the SLO.

    A forecast from data sheets and from NCCL's own model of its collectives: what the labs measure decides.
    """
    from rich.console import Console

    from shardlab.cli.plan_report import report
    from shardlab.theory import hardware
    from shardlab.theory.plan import Workload, search

    shape, machines = shape_of(model), hardware.cluster(cluster)
    if machines.world_size > MOST_GPUS:
        raise Mistake(
            f"--cluster {cluster}: {machines.world_size:,} GPUs; allowed: up to {MOST_GPUS:,}. "
            "A larger cluster runs more replicas of a smaller one's plan"
        )
    workload = Workload(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        concurrency=concurrency,
        slo_ttft_s=slo_ttft,
        slo_tpot_s=slo_tpot,
        stored=precision,
        kv=kv,
    )
    with Console(stderr=True).status("searching ..."):  # a thousand GPUs take twenty seconds
        outcome = search(shape, machines, workload)
    report(model, shape, machines, workload, outcome, None if every else top, _console())


def shape_of(model: str) -> Any:
    """A Shape by its name, or from a config.json. Raises Mistake naming what is allowed, ConfigError for a bad file."""
    from pathlib import Path

    from shardlab.theory.hugging_face import read_shape
    from shardlab.theory.transformer import MODELS

    if model in MODELS:
        return MODELS[model]
    if not Path(model).expanduser().exists():
        raise Mistake(f"--model {model}: no such file or folder; allowed: a config.json, or one of {', '.join(MODELS)}")
    return read_shape(model)


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120, highlight=False, soft_wrap=False)

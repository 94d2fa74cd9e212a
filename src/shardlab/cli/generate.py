"""`shardlab generate "prompt"`: the answer as it comes, from a model split over the ranks of a plan."""

from __future__ import annotations

import os
import select
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from shardlab.cli import models
from shardlab.cli.plain import Mistake, degree, positive
from shardlab.theory.degrees import Plan

COLLECTIVES = ("backend", "cheapest", "shared_memory")  # launch.carried.NAMES, which cannot be asked without torch


def generate(
    prompt: Annotated[str, typer.Argument(help="What to ask.", show_default=False)],
    tp: Annotated[int, degree("Ranks that share every layer.")] = 1,
    pp: Annotated[int, degree("Stages that share the layers.")] = 1,
    dp: Annotated[int, degree("Replicas; one prompt is answered by the first.")] = 1,
    cp: Annotated[int, degree("Ranks that share a sequence: 1, so far.")] = 1,
    ep: Annotated[int, degree("Ranks that share the experts, of a model that has some.")] = 1,
    model: Annotated[str, typer.Option(help="smollm2, a Hugging Face folder, or a GGUF file.")] = "smollm2",
    max_tokens: Annotated[
        int, typer.Option(parser=positive, metavar="INTEGER", help="Stop after so many new tokens.")
    ] = 128,
    chat: Annotated[bool, typer.Option(help="Put the prompt into the model's chat template.")] = True,
    int4: Annotated[bool, typer.Option("--int4", help="Keep weights that the file holds in 4 bits (Q4_1).")] = False,
    collectives: Annotated[
        str, typer.Option(metavar="NAME", help=f"What runs the collectives: {', '.join(COLLECTIVES)}.")
    ] = "backend",
) -> None:
    """Answer a prompt on the ranks of a plan. The answer goes to stdout, the rest to stderr: no plan changes it."""
    if not prompt.strip():
        raise Mistake("the prompt is empty: give a question, in quotes")
    if collectives not in COLLECTIVES:
        raise Mistake(f"--collectives {collectives}; allowed: {', '.join(COLLECTIVES)}")
    plan = Plan(dp=dp, pp=pp, cp=cp, tp=tp, ep=ep)
    if cp > 1:
        raise Mistake(f"--cp {cp}: sequences are not split yet; allowed: 1")
    models.check(model, plan, int4=int4)
    source = models.locate(model)
    from shardlab import Ranks
    from shardlab.model.load import read_model_config
    from shardlab.programs.generate import generate as program

    config = read_model_config(source)
    models.check_shape(config.shape, plan, max_tokens, config.max_positions)
    limit_s = 120.0 + 5.0 * max_tokens  # a limit for what hangs, not for what is slow
    with _echoed() as pipe, redirect_stdout(sys.stderr), Ranks(plan.world_size, timeout_s=limit_s) as ranks:
        # check=False: the program is ours and tested, and the check would cost a little on each of its
        # collectives
        results = ranks.run(
            program,
            str(source),
            prompt,
            max_tokens,
            plan=plan,
            chat=chat,
            int4=int4,
            stream_to=str(pipe),
            check=False,
            collectives=collectives,
        )
    typer.echo()
    answer = results[0]
    typer.echo(
        f"\n{len(answer.token_ids)} tokens on {plan.world_size} {'rank' if plan.world_size == 1 else 'ranks'}: "
        f"{answer.tokens_per_s:.1f} tokens/s, first after {answer.prefill_s:.2f} s "
        f"({len(answer.prompt_ids)} tokens of prompt), weights read in {answer.load_s:.1f} s",
        err=True,
    )


@contextmanager
def _echoed() -> Iterator[Path]:
    """A pipe in a private folder: what a rank writes to it appears on this process's stdout at once."""
    out = sys.stdout
    with tempfile.TemporaryDirectory(prefix="shardlab-stream-") as folder:
        pipe = Path(folder) / "text"
        os.mkfifo(pipe, 0o600)
        # Open for writing too: the reader then waits for ranks that have not started, rather than see an end.
        descriptor = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
        done = threading.Event()

        def copy() -> None:
            while True:
                last = done.is_set()  # asked first: what was written before it was set is still copied
                ready, _, _ = select.select([descriptor], [], [], 0.0 if last else 0.05)
                if ready:
                    out.buffer.write(os.read(descriptor, 65536))
                    out.flush()
                elif last:
                    return

        thread = threading.Thread(target=copy, name="shardlab-stream", daemon=True)
        thread.start()
        try:
            yield pipe
        finally:
            done.set()
            thread.join()
            os.close(descriptor)

"""Run notebooks in place, cell by cell, with a progress bar, and leave no process behind.

    python book/run_labs.py labs/03_tensor.ipynb ...     # what `make labs` calls; `make book` runs copies

A failing cell stops everything. Lab, cell, source and traceback are printed; the exit code is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from tqdm import tqdm

CELL_TIMEOUT_S = 600
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class LabFailed(Exception):
    """A cell raised, took too long or took its kernel down. The message is made for a terminal."""


async def run_notebook(path: Path, on_cell: Callable[[], object], kernel: str = "python3") -> NotebookNode:
    """Execute every code cell of `path` in its own folder and return the notebook with its outputs.

    Raises LabFailed. Cancelling the task, like every other way out, kills the kernel's whole process group.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        kernel_name=kernel,
        record_timing=False,  # no time stamps: running a lab again changes only what it computed
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=["--log-level=ERROR"],  # not a word about the transport, which is loopback
    )
    client.reset_execution_trackers()
    manager = client.create_kernel_manager()
    index = 0
    try:
        await client.async_start_new_kernel()
        await client.async_start_new_kernel_client()
        for index, cell in enumerate(notebook.cells):  # noqa: B007 - the handlers below name the cell
            if cell.cell_type == "code":
                await client.async_execute_cell(cell, index, execution_count=client.code_cells_executed + 1)
                on_cell()
        client.set_widgets_metadata()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # nbclient takes a cancelled wait for a dead kernel
            raise asyncio.CancelledError from None
        reason = "" if isinstance(error, CellExecutionError) else f"\n{notebook.cells[index].source}\n"
        raise LabFailed(f"{path.name}, cell {index + 1} of {len(notebook.cells)}:{reason}\n{error}") from error
    finally:
        if client.kc is not None:
            client.kc.stop_channels()
        pgid = getattr(manager.provisioner, "pgid", None)
        if pgid:  # first the group, at once and together: ranks that the kernel started are in it
            with suppress(ProcessLookupError):
                os.killpg(pgid, signal.SIGKILL)
        if manager.has_kernel:
            await manager.shutdown_kernel(now=True)  # reaps it and closes the sockets
    # The machine's own versions do not belong in a file that is compared.
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


async def _run_all(paths: Sequence[Path], *, keep_widgets: bool) -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):  # one Ctrl-C: cancel, clean up, end
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    cells = {path: sum(c.cell_type == "code" for c in nbformat.read(path, 4).cells) for path in paths}
    form = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} cells, {elapsed}"
    first = paths[0].stem
    with tqdm(total=sum(cells.values()), desc=first, bar_format=form, file=sys.stdout, dynamic_ncols=True) as bar:
        for path in paths:
            bar.set_description_str(path.stem)
            notebook = await run_notebook(path, bar.update)
            if not keep_widgets:
                notebook.metadata.pop("widgets", None)
            nbformat.write(notebook, path)


def run_labs(paths: Sequence[Path], *, keep_widgets: bool) -> None:
    """Run the notebooks one after the other and write each back with its outputs.

    keep_widgets: store the widgets' state, which a static page needs and a notebook in the tree does not.
    Raises LabFailed, or KeyboardInterrupt after SIGINT or SIGTERM.
    """
    if not paths:
        return
    # Figures go into the page: a backend that the shell asks for would keep them out.
    os.environ.pop("MPLBACKEND", None)
    try:
        asyncio.run(_run_all(paths, keep_widgets=keep_widgets))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def plain(text: str) -> str:
    """The text without colours, where nothing shows colours."""
    return text if sys.stdout.isatty() else _ANSI.sub("", text)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run notebooks in place and keep their outputs.")
    parser.add_argument("notebooks", nargs="+", type=Path)
    paths = [path.resolve() for path in parser.parse_args().notebooks if path.exists()]
    try:
        run_labs(paths, keep_widgets=False)
    except LabFailed as error:
        print(plain(f"\n{error}"))
        return 1
    except KeyboardInterrupt:
        print("\nstopped")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

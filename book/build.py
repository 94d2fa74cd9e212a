"""Build the book of this machine: run the labs, render them, say what was predicted and what was measured.

    python book/build.py        # what `make book` calls

Everything happens in a copy below build/, so the tree stays clean. Nothing is fetched: the scripts and fonts
of the pages are in third_party/, and each page names only files of the book itself.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from rich.console import Console

import architecture_page
import hardware_page
import headlines
import kernels_page
import ledger_page
from run_labs import LabFailed, plain, run_labs

ROOT = Path(__file__).resolve().parent.parent
_NOISE = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.py", "README.md", "integrity.json")


def copy_sources(root: Path, labs: Path, source: Path) -> list[Path]:
    """Copy all that the book is made of to `source`, write the generated pages, return the labs in order."""
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    shutil.copy(root / "_config.yml", source)
    for folder in ("book", "third_party"):
        shutil.copytree(root / folder, source / folder, ignore=_NOISE)
    if labs.is_dir():
        # a lab may import a module beside it, so here *.py comes along
        shutil.copytree(labs, source / "labs", ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    notebooks = sorted((source / "labs").glob("*.ipynb"))
    ledger_page.write(source / "book" / "ledger.md", notebooks)
    hardware_page.write(source / "book" / "hardware.md")
    kernels_page.write(source / "book" / "kernels.md", labs / "measured")
    architecture_page.write(source / "book" / "architecture.md")
    return notebooks


def render(source: Path, page_folder: Path) -> tuple[bool, str]:
    """source -> HTML in page_folder, every warning an error. -> (whether it went well, what was said)."""
    scratch = source.parent / "book-scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    jupyter_book = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    where = ["--toc", str(source / "book" / "_toc.yml"), "--path-output", str(scratch)]
    done = subprocess.run(
        [*jupyter_book, "build", str(source), *where, "-W", "-n", "--keep-going", "-q"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    (source.parent / "book.log").write_text(done.stdout)
    pages = scratch / "_build" / "html"
    if pages.is_dir():  # a page with a warning is still worth a look
        shutil.rmtree(page_folder, ignore_errors=True)
        shutil.move(pages, page_folder)
    shutil.rmtree(scratch, ignore_errors=True)
    return done.returncode == 0, done.stdout


def complaints(said: str, source: Path) -> str:
    """What Jupyter Book warned of, with paths as in the tree; if there are no warnings, all that it said."""
    lines = [line for line in plain(said).splitlines() if re.search(r"WARNING|ERROR|Error|SEVERE", line)]
    return "\n".join(lines or [said]).replace(f"{source}/", "")


def build(labs: Path, target: Path, console: Console) -> int:
    """-> the exit code. labs: the folder of notebooks; target: what the book is built in."""
    source, page_folder = target / "book-src", target / "book"
    notebooks = copy_sources(ROOT, labs, source)
    if notebooks:
        console.print(f"Running {len(notebooks)} lab{'s' * (len(notebooks) != 1)} on this machine")
    try:
        run_labs(notebooks, keep_widgets=True)
    except LabFailed as error:
        print(plain(f"\n{error}"))
        console.print("[bold red]The book was not built: a lab failed.[/]")
        return 1
    console.print("Rendering the book")
    went_well, said = render(source, page_folder)
    if not went_well:
        print(complaints(said, source))
        console.print(f"[bold red]The book has warnings or errors; the whole log is {target / 'book.log'}[/]")
        return 1
    found = headlines.collect(notebooks)
    if found:
        console.print()
        console.print(headlines.table(found))
    print(f"\nOpen {(page_folder / 'index.html').as_uri()}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the labs on this machine and render the book.")
    parser.add_argument("--labs", type=Path, default=ROOT / "labs", help="folder of notebooks")
    parser.add_argument("--target", type=Path, default=ROOT / "build", help="where the book is built")
    options = parser.parse_args()
    try:
        return build(options.labs.resolve(), options.target.resolve(), Console(soft_wrap=False))
    except KeyboardInterrupt:
        print("\nstopped")
        return 130


if __name__ == "__main__":
    sys.exit(main())

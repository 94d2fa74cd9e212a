"""The build of the book, on a lab of its own: it runs, renders, reports, needs no network, stops cleanly."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import psutil
import pytest

from shardlab.theory import hardware

ROOT = Path(__file__).resolve().parents[2]

# Long limits: a build waits for a machine that is busy.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PATIENCE_S = 300

GOOD = [
    "import ipywidgets as w\nslider = w.IntSlider(max=1); stack = w.Stack([w.HTML('a'), w.HTML('b')])\n"
    "w.jslink((slider, 'value'), (stack, 'selected_index')); w.VBox([slider, stack])",
    "from shardlab import compare\n"
    "compare.headline(lab='00 scratch', what='bytes of a ring', predicted=1024, measured=1024, unit='bytes')",
]


def write_lab(folder: Path, cells: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_markdown_cell("# Scratch\n\n$x_B$")]
    notebook.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(notebook, folder / "00_scratch.ipynb")
    return folder


def command(labs: Path, target: Path) -> list[str]:
    script = str(ROOT / "book" / "build.py")
    return [sys.executable, script, "--labs", str(labs), "--target", str(target)]


def environment() -> dict[str, str]:
    return {**os.environ, "COLUMNS": "120", "TERM": "dumb"}


def build(labs: Path, target: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(labs, target),
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        cwd=target.parent,
    )


class Loaded(HTMLParser):
    """Collects the addresses that a page loads by itself. A link that a reader clicks is none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and ((name == "src") or (tag == "link" and name == "href")):
                self.addresses.append(value)


def remote(html: str) -> list[str]:
    """Addresses outside the book that the page loads, or that its scripts could load from a known CDN."""
    parser = Loaded()
    parser.feed(html)
    found = [address for address in parser.addresses if re.match(r"(https?:)?//", address)]
    found += re.findall(r"""@import\s+(?:url\()?["']?((?:https?:)?//[^"')]+)""", html)
    found += re.findall(r"[\w.]*\b(?:unpkg\.com|jsdelivr\.net|cdnjs\.cloudflare\.com|googleapis\.com)\S*", html)
    return found


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """-> (folder of pages, what the build printed)."""
    folder = tmp_path_factory.mktemp("book")
    before = tree()
    done = build(write_lab(folder / "labs", GOOD), folder / "build")
    assert done.returncode == 0, done.stdout + done.stderr
    assert tree() == before, "the build changed the tree"
    yield folder / "build" / "book", done.stdout


def tree() -> dict[str, int]:
    """File -> time of change, for all that the build reads in the tree."""
    folders = [ROOT / "book", ROOT / "labs", ROOT / "third_party"]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {str(path): path.stat().st_mtime_ns for path in files}


def test_ends_with_the_table_and_the_page_to_open(book: tuple[Path, str]) -> None:
    pages, said = book
    last = said.strip().splitlines()[-1]
    assert last == f"Open {(pages / 'index.html').as_uri()}" and (pages / "index.html").is_file()
    row = next(line for line in said.splitlines() if "bytes of a ring" in line)
    assert "00 scratch" in row and "exact" in row


def test_every_page_is_there(book: tuple[Path, str]) -> None:
    pages, _ = book
    for name in ("index", "notation", "hardware", "kernels", "ledger", "bibliography", "architecture"):
        assert (pages / "book" / f"{name}.html").is_file()
    assert (pages / "labs" / "00_scratch.html").is_file()


def test_the_hardware_page_has_every_link_and_every_source(book: tuple[Path, str]) -> None:
    pages, _ = book
    page = (pages / "book" / "hardware.html").read_text()
    assert "${" not in page
    for row in hardware.interconnect_table():
        amount = f"{row.one_way_Bps / 1e9:.3g}"
        cells = rf"<p>{re.escape(row.title)}[^<]*</p></td>\s*<td[^>]*><p>[≥ ]*<strong>{amount}</strong></p>"
        assert re.search(cells, page), row.name
    for source in hardware.catalogue()["source"].values():
        assert f'href="{escape(source["url"])}"' in page


def test_no_page_loads_anything_from_the_network(book: tuple[Path, str]) -> None:
    pages, _ = book
    found = {path.name: addresses for path in pages.rglob("*.html") if (addresses := remote(path.read_text()))}
    assert found == {}


def test_what_a_page_loads_is_in_the_book(book: tuple[Path, str]) -> None:
    pages, _ = book
    page = pages / "labs" / "00_scratch.html"
    parser = Loaded()
    parser.feed(page.read_text())
    files = [address.split("?")[0].split("#")[0] for address in parser.addresses]
    missing = [name for name in files if not name.startswith("data:") and not (page.parent / name).exists()]
    assert missing == []
    assert any("mathjax/tex-chtml-full.js" in name for name in files)
    assert any("html-manager/embed.js" in name for name in files)


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://cdn.jsdelivr.net/x.js"></script>',
        '<script src="//example.org/x.js"></script>',
        '<link rel="stylesheet" href="https://fonts.googleapis.com/css">',
        "<style>@import url('https://example.org/x.css');</style>",
        "<script>const url = 'https://unpkg.com/thebe';</script>",
    ],
)
def test_the_search_finds_the_network(html: str) -> None:
    assert remote(html)
    assert remote('<a href="https://arxiv.org">paper</a><script src="../_static/x.js"></script>') == []


def test_a_failing_cell_stops_the_build(tmp_path: Path) -> None:
    done = build(write_lab(tmp_path / "labs", ["x = 1", "raise ValueError('boom')"]), tmp_path / "build")
    assert done.returncode == 1
    assert "00_scratch.ipynb, cell 3 of 3" in done.stdout
    assert "raise ValueError('boom')" in done.stdout and "ValueError: boom" in done.stdout
    assert not (tmp_path / "build" / "book").exists()


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_stop_leaves_no_process(tmp_path: Path) -> None:
    """One Ctrl-C, as a terminal sends it, while a cell that ignores it waits on a child of its own."""
    marker = f"987{os.getpid()}"
    cell = (
        "import pathlib, signal, subprocess, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"child = subprocess.Popen(['sleep', '{marker}'])\npathlib.Path('running').touch()\ntime.sleep(600)"
    )
    labs = write_lab(tmp_path / "labs", [cell])
    builder = subprocess.Popen(
        command(labs, tmp_path / "build"), start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    flag = tmp_path / "build" / "book-src" / "labs" / "running"
    deadline = time.monotonic() + PATIENCE_S
    while not flag.exists() and builder.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert flag.exists(), "the cell never ran"
    family = psutil.Process(builder.pid).children(recursive=True)
    assert len(family) >= 2
    os.killpg(builder.pid, signal.SIGINT)
    said, _ = builder.communicate(timeout=PATIENCE_S)
    assert builder.returncode == 130 and said.strip().endswith("stopped")
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
    assert alive == []

"""One word for one thing: the words that the book and the code do without."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# word -> what to say. Each is looked for in prose, comments and names: fewest_bills and AllReduceBill hold "bill" too.
INSTEAD = {
    r"bills?": "CommTime, or what it is the sum of",
    r"pays": "helps, takes, costs",
    r"told": "is given, reads, is known by",
    r"sleeping(?=[ _](experts?|weights?))": "inactive",
    r"mend(s|ed)?": "fix",
    r"faint(s|ed)?": "fail",
    r"gpu_id|mp_size|nproc": "rank, world_size, tp.size",
    r"cnt": "num_",
    r"(?-i:n_[a-z]\w*)": "num_",
    r"per_partition": "local_",
}
# Other people's words: what a quotation, or an interface that is not ours, is allowed to say.
QUOTED = (
    "TP pays the latency per layer, PP per stage.",  # the chapter
    "--nproc-per-node",  # torchrun
    "n_routed_experts",  # Hugging Face's config.json
    "n_shared_experts",
    "{n_fmt}",  # tqdm
)
# In these rooms "kernel" is never a Triton kernel: say notebook, operating system, Linux kernel.
NO_KERNELS = ("README.md", "src/shardlab/measure", "src/shardlab/topology", "src/shardlab/launch")


def files() -> list[Path]:
    found = [ROOT / "README.md", ROOT / "Makefile", *(ROOT / "book").glob("*.md"), *(ROOT / "labs").glob("*.ipynb")]
    for folder in ("src", "kernels", "book", "benchmarks"):
        found += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".toml")]
    return sorted(found)


def text_of(path: Path) -> str:
    """The words of a file: of a notebook its cells, since outputs hold pictures."""
    if path.suffix != ".ipynb":
        return path.read_text()
    return "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])


def banned(text: str, kernels: bool = True) -> Iterator[str]:
    """The banned words of a text, with a little around each."""
    for quotation in QUOTED:
        text = text.replace(quotation, "")
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text)
    # Linux kernel, Triton kernel and names with more in them (ipykernel, kernel_name of a notebook's client) say which
    words = [*INSTEAD, *([] if kernels else [r"(?<!linux )(?<!triton )kernel('s)?"])]
    for match in re.finditer(rf"(?<![A-Za-z])(?:{'|'.join(words)})(?![A-Za-z])", text, re.IGNORECASE):
        yield text[max(0, match.start() - 20) : match.end() + 20].replace("\n", " ")


def found_in(path: Path) -> list[str]:
    name = path.relative_to(ROOT).as_posix()
    return list(banned(text_of(path), kernels=not name.startswith(NO_KERNELS)))


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_word_that_has_a_better_one(path: Path) -> None:
    assert found_in(path) == []


@pytest.mark.parametrize(
    "text",
    [
        "the bill",
        "AllReduceBill",
        "all_reduce_bills",
        "it pays.",
        "is told",
        "n_heads",
        "nproc",
        "_sleeping_weights",
        "Mend it",
    ],
)
def test_the_search_finds_a_word(text: str) -> None:
    assert list(banned(text))


def test_the_search_knows_what_is_allowed() -> None:
    assert not list(banned("a billion, payload, recommend, tokens, in_order, torchrun --nproc-per-node=8"))
    assert list(banned("the kernel's counters", kernels=False)) and not list(banned("the kernel's counters"))
    assert not list(banned("the Linux kernel, a Triton kernel, shardlab_kernels", kernels=False))

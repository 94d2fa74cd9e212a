"""The steps of `python -m benchmarks.gpu`, in the order of what they are worth if the time runs out."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

BENCH = ("-m", "shardlab_kernels.bench")
TESTERS = 12  # processes: tests compile, each on a core, and hold little of the GPU's memory
MEET = ("barrier", "all_reduce_one_shot", "all_reduce_two_shot")
TALK = ("all_reduce_rms_norm", "all_to_all")
COMPUTE = (
    "flash_attention",
    "flash_decode",
    "merge",
    "add_rms_norm",
    "rms_norm",
    "rope_",
    "silu_mul",
    "matmul",
    "skinny_matmul",
    "int4_gemv",
    "int4_matmul",
    "moe_permute",
    "grouped_matmul",
    "route",
    "sort_by_expert",
)


@dataclass(frozen=True)
class Step:
    """A process: `words` follow the interpreter. `limit_s`: it is ended then, and what it wrote stays."""

    name: str
    what: str
    words: tuple[str, ...]
    smoke_words: tuple[str, ...]
    limit_s: float
    usual_s: float  # on an H200 with 16 cores: what the plan at the start is made of
    beside: bool = False  # it needs cores and no GPU: runs beside the steps up to the next that wants it done
    is_bench: bool = False  # it keeps its rows, says which case it was in, and goes on with the next


def steps() -> list[Step]:
    versions, model = ("-m", "benchmarks.gpu.versions"), ("-m", "benchmarks.gpu.model")
    return [
        _compile(),
        Step("versions", "card, driver, versions", versions, versions, limit_s=30, usual_s=5),
        _bench("meet", "barrier and all-reduces of virtual ranks: G11", MEET, limit_s=90, case_s=25, usual_s=15),
        _bench("compute", "kernels of one rank: G1-G10", COMPUTE, limit_s=420, case_s=60, usual_s=100),
        _bench("talk", "fused norm and expert exchange: G12, G13", TALK, limit_s=90, case_s=40, usual_s=10),
        Step("model", "decode of a whole model: G14-G16", model, (*model, "--smoke"), limit_s=90, usual_s=25),
        _tests(),
    ]


def _compile() -> Step:
    words = ("-m", "benchmarks.gpu.compile_ahead")
    return Step("compile", "all configurations, on all cores", words, (*words, "--help"), 120, 40, beside=True)


def _bench(name: str, what: str, kernels: tuple[str, ...], *, limit_s: float, case_s: float, usual_s: float) -> Step:
    only = tuple(word for kernel in kernels for word in ("--only", kernel))
    words = (*BENCH, *only, "--resume", "--case-s", f"{case_s:g}", "--budget-s", f"{limit_s:g}")
    return Step(name, what, words, (*BENCH, "--smoke", *only), limit_s, usual_s, is_bench=True)


def _tests() -> Step:
    """All of the kernels' tests, compiled here, but those that need no GPU. Kernels are in their first configuration
    only: what is tuned was checked by the bench."""
    leave = ("--ignore=tests/kernels/test_compile.py", "--ignore=tests/kernels/test_communicating_ranks.py")
    words = ("-m", "pytest", "tests/kernels", "-q", "-p", "no:cacheprovider", *leave)
    spread = ("-n", str(TESTERS)) if importlib.util.find_spec("xdist") else ()
    return Step("tests", "the kernels' tests, compiled", (*words, *spread), (*words, "--collect-only"), 150, 60)

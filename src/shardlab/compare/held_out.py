"""Which published all-reduces the cost model may be fitted to, and which it may not: the protocol.

Written after the tables were read and before any error was computed, and not changed since:

1. One form for all, T = base + alpha * hops + S_wire / b + c * sqrt(S_wire) (theory.cost), one set of constants for
   each algorithm of each software. No constant is chosen by hand.
2. Which algorithm ran at which size is the software's own rule, from its source (`RULES`), not a choice of ours.
3. Only another number of GPUs, or another box, counts as held out; other sizes of a fitted table never do. Held-out
   rows are not looked at by any fit, and none is dropped for being far off.
4. Software from which a single number of GPUs is published on a single box has nothing to hold out and is left out.

What can go over, then: hops and bytes to another number of GPUs, link constants to a box with the same links. What
cannot: the time to launch. Without a CUDA graph a small all-reduce measures the host, and hosts differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shardlab import compare
from shardlab.measure.record import Published

KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True)
class Source:
    """One published table: the rows of labs/published/<file>.csv with this system and number of GPUs.

    link: part of the address, where one system has rows from two places. from_bytes..to_bytes: the range that is
    taken, both ends in it.
    """

    name: str
    file: str
    system: str
    world_size: int
    link: str = ""
    from_bytes: int = 0
    to_bytes: int = 1 << 40

    def rows(self) -> list[Published]:
        """Its all_reduce rows, small to large. Raises ValueError where there are none."""
        found = [
            row
            for row in compare.published(self.file)
            if (row.op, row.system, row.world_size) == ("all_reduce", self.system, self.world_size)
            and self.link in row.source
            and self.from_bytes <= row.num_bytes <= self.to_bytes
        ]
        if not found:
            raise ValueError(f"{self.name}: no rows of {self.system!r} with {self.world_size} GPUs in {self.file}")
        return sorted(found, key=lambda row: row.num_bytes)


@dataclass(frozen=True)
class Experiment:
    """Fitted to some tables, asked about others. rule: (num_bytes, world_size) -> the algorithm that runs."""

    software: str
    rule: str
    fitted: tuple[Source, ...]
    held_out: tuple[Source, ...]


def _vllm(num_bytes: int, world_size: int) -> str:
    """vllm-project/vllm, csrc/custom_all_reduce.cuh: one stage for 2 GPUs, and below 512 KiB (4) or 256 KiB (8)."""
    small = (world_size <= 4 and num_bytes < 512 * KIB) or num_bytes < 256 * KIB
    return "one_shot" if world_size == 2 or small else "two_shot"


def _trtllm(num_bytes: int, world_size: int) -> str:
    """sgl-project/sglang, trt_reduce_internal.cuh, from TensorRT-LLM: one shot below 1 MB (4 GPUs) or 500 kB (8)."""
    small = num_bytes < (1_000_000 if world_size <= 4 else 500_000)
    return "one_shot" if world_size == 2 or small else "two_shot"


def _nccl(num_bytes: int, world_size: int) -> str:
    """stas00/ml-engineering, network/README.md: NVLS from 5 GPUs and 2 MiB; below, and with fewer GPUs, a ring."""
    return "nvls" if world_size >= 5 and num_bytes >= 2 * MIB else "ring"


RULES: dict[str, Callable[[int, int], str]] = {
    "vllm": _vllm,
    "trtllm": _trtllm,
    "nccl": _nccl,
    "one_shot": lambda num_bytes, world_size: "one_shot",
    "two_shot": lambda num_bytes, world_size: "two_shot",
    "nvls": lambda num_bytes, world_size: "nvls",
}

_EIGHT, _FEW, _H200 = "allreduce_8xh100", "allreduce_h100_2_to_8", "allreduce_8xh200"
_TESTS = "nccl_tests_h100"
_SGLANG, _VLLM, _TRTLLM = "SGLang custom all-reduce", "vLLM custom all-reduce", "TensorRT-LLM 1.2.0rc1 all-reduce"
_ONE, _TWO = "vLLM custom all-reduce, one stage", "vLLM custom all-reduce, two stages"
_TORCH_TWO = "torch symmetric memory, two_shot_all_reduce_"
_MULTIMEM = "torch symmetric memory, multimem_all_reduce_"
_VIDUR, _PYNCCL = "NCCL (profiled by Vidur)", "NCCL (pynccl)"
_ALL_RANKS = "h100_dgx/all_reduce.csv"

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        "SGLang custom all-reduce",
        "trtllm",
        (Source("SGLang, 2xH100", _EIGHT, _SGLANG, 2), Source("SGLang, 8xH100", _EIGHT, _SGLANG, 8)),
        (Source("SGLang, 4xH100", _EIGHT, _SGLANG, 4),),
    ),
    Experiment(
        "vLLM custom all-reduce",
        "vllm",
        (Source("vLLM custom, 2xH100", _EIGHT, _VLLM, 2), Source("vLLM custom, 8xH100", _EIGHT, _VLLM, 8)),
        (Source("vLLM custom, 4xH100", _EIGHT, _VLLM, 4),),
    ),
    Experiment(
        # Above 512 KiB its 2 GPUs change to something that the rule does not name, so both tables end there.
        "TensorRT-LLM all-reduce",
        "trtllm",
        (Source("TensorRT-LLM, 2xH100", _FEW, _TRTLLM, 2, to_bytes=512 * KIB),),
        (Source("TensorRT-LLM, 4xH100", _FEW, _TRTLLM, 4, to_bytes=512 * KIB),),
    ),
    Experiment(
        "vLLM, one stage",
        "one_shot",
        (Source("vLLM one stage, 4xH100", _FEW, _ONE, 4),),
        (Source("vLLM one stage, 6xH100", _FEW, _ONE, 6),),
    ),
    Experiment(
        "vLLM, two stages",
        "two_shot",
        (Source("vLLM two stages, 4xH100", _FEW, _TWO, 4),),
        (Source("vLLM two stages, 6xH100", _FEW, _TWO, 6),),
    ),
    Experiment(
        "torch two_shot_all_reduce_",
        "two_shot",
        (
            Source("torch two_shot, 4xH100", _FEW, _TORCH_TWO, 4),
            Source("torch two_shot, 8xH100", _EIGHT, _TORCH_TWO, 8),
        ),
        (Source("torch two_shot, 6xH100", _FEW, _TORCH_TWO, 6),),
    ),
    Experiment(
        "torch multimem_all_reduce_",
        "nvls",
        (Source("torch multimem, 4xH100", _FEW, _MULTIMEM, 4), Source("torch multimem, 8xH100", _EIGHT, _MULTIMEM, 8)),
        (Source("torch multimem, 6xH100", _FEW, _MULTIMEM, 6),),
    ),
    Experiment(
        "NCCL",
        "nccl",
        (
            Source("NCCL (torch), 8xH100", _EIGHT, "NCCL (torch.distributed)", 8),
            Source("NCCL (pynccl), 4xH100", _FEW, _PYNCCL, 4),
            Source("NCCL (nccl-tests), 4xH100", _TESTS, "NCCL 2.29.2 (nccl-tests)", 4),
            Source("NCCL (nccl-tests), 8xH100", _TESTS, "NCCL 2.29.2 (nccl-tests)", 8),
        ),
        (
            Source("NCCL (pynccl), 6xH100", _FEW, _PYNCCL, 6),
            Source("NCCL (pynccl), 8xH100, other box", _EIGHT, _PYNCCL, 8),
            Source("NCCL (torch), 8xH200, other box", _H200, "NCCL 2.27.7 (torch.distributed 2.9.1)", 8),
            Source("NCCL (Vidur), 2xH100, other box", _FEW, _VIDUR, 2, _ALL_RANKS),
            Source("NCCL (Vidur), 4xH100, other box", _FEW, _VIDUR, 4, _ALL_RANKS),
            Source("NCCL (Vidur), 8xH100, other box", _FEW, _VIDUR, 8, _ALL_RANKS),
        ),
    ),
)

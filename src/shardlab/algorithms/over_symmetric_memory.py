"""All-reduce by one Triton kernel over symmetric memory: a launch, no library. Each call is recorded as its op.

On GPUs the kernel reads its peers' memory over NVLink. On a CPU it is interpreted and thousands of times slower than
anything else here: there to be tested, and for a cost model to turn down.
"""

from __future__ import annotations

import torch

from shardlab.comm.mesh import Axis
from shardlab.theory.traffic import NO_WIRE
from shardlab_kernels import all_reduce
from shardlab_kernels.symmetric_memory import MAX_BLOCKS, SLOT_UNIT, SymmetricMemory

KERNELS = {"one_shot": all_reduce.one_shot, "two_shot": all_reduce.two_shot}


def room_for(num_bytes: int, size: int) -> int:
    """What symmetric_memory must be asked for, so that both algorithms take a tensor of `num_bytes` on `size` ranks."""
    unit = MAX_BLOCKS * SLOT_UNIT * size
    return max(1, -(-num_bytes // unit)) * unit


def adds(dtype: torch.dtype) -> bool:
    """Whether the kernels add up tensors of this dtype."""
    return dtype in (torch.float32, torch.bfloat16, torch.float16)


def fits(algorithm: str, num_bytes: int, memory: SymmetricMemory) -> bool:
    """Whether the memory takes a tensor of so many bytes."""
    return num_bytes <= all_reduce.capacity_bytes(memory, algorithm)


def run(algorithm: str, tensor: torch.Tensor, axis: Axis, memory: SymmetricMemory) -> torch.Tensor:
    """A{X} -> A, a new tensor. Raises ValueError for a memory of other ranks, and as the kernel does."""
    if (memory.rank, memory.size) != (axis.rank, axis.size) or memory.stacked:
        raise ValueError(f"the {axis.name} axis of {axis.size} ranks needs symmetric=symmetric_memory(of that axis)")
    detail = f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} in symmetric memory"
    on_cpu = tensor.device.type == "cpu"
    recorded = axis.recorder.collective(
        "all_reduce", axis.name, axis.ranks, detail, tensor.nbytes, clocked=on_cpu, route=NO_WIRE
    )
    with recorded:
        return KERNELS[algorithm](tensor, memory)

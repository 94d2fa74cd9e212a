"""The same programs under torchrun, on one machine or many: torch.distributed's own rendezvous, nothing of ours.

`torchrun --nnodes=2 --nproc-per-node=8 -m shardlab run tensor.mlp_forward` runs lab 03's MLP on sixteen ranks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from shardlab.comm.mesh import Mesh
from shardlab.comm.recorder import Recorder
from shardlab.theory.degrees import Plan


def under_torchrun() -> bool:
    """True where torchrun (or anything that sets its variables) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextmanager
def join(plan: Plan | None = None) -> Iterator[Mesh]:
    """Join the job that torchrun started, and hand out this rank's mesh. The default plan is tp over all ranks.

    NCCL where every local rank has a GPU of its own, gloo otherwise. The rendezvous is open to the network of the
    job, as torchrun's always is: run it on a network that you trust.
    Raises ValueError when the plan is not as large as the job, and NeverWaited where the block leaves a posted transfer
    open.
    """
    world_size, local_rank = int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", "0"))
    plan = plan or Plan(tp=world_size)
    if plan.world_size != world_size:
        raise ValueError(f"{plan} needs {plan.world_size} ranks, torchrun started {world_size}")
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    on_gpu = torch.cuda.is_available() and torch.cuda.device_count() >= local_size
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")  # CPU tensors stay gloo's
    try:
        mesh = Mesh.build(plan, dist.get_rank(), Recorder(), device)
        yield mesh
        mesh.recorder.finish()
    finally:
        dist.destroy_process_group()

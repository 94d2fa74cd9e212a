"""The ledger on 2 to 64 ranks: one process plays rank 0 of a fake process group, and torch itself counts the bytes.

The fake backend moves nothing (its values are wrong by design), so this is about operations and sizes alone.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from shardlab.theory import ledger
from shardlab.theory.degrees import Plan
from shardlab.theory.transformer import Shape

SHAPE = Shape(2, 32, 96, 64, 8, 4, 130)
BATCH, SEQ = 2, 3

# Prints one line a collective: the op as torch names it, and the bytes of its input.
PLAYED = """
import sys
import torch
import torch.distributed as dist
from torch.distributed.tensor.debug import CommDebugMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from shardlab.comm.mesh import Mesh
from shardlab.model import ModelConfig, Transformer
from shardlab.comm.recorder import Recorder
from shardlab.theory.degrees import Plan
from shardlab.theory.transformer import Shape


class Bytes(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            flat = []
            torch.utils._pytree.tree_map_only(torch.Tensor, flat.append, args)
            print("saw", func._schema.name.split("::")[1], *(t.nbytes for t in flat))
        return func(*args, **(kwargs or {}))


dp, tp = int(sys.argv[1]), int(sys.argv[2])
shape = eval(sys.argv[3])
dist.init_process_group("fake", rank=0, world_size=dp * tp, store=FakeStore())
mesh = Mesh.build(Plan(dp=dp, tp=tp), 0, Recorder(), torch.device("cpu"))
model = Transformer(ModelConfig(shape), mesh)
for parameter in model.parameters():
    parameter.data.zero_()
with torch.no_grad(), CommDebugMode() as witness, Bytes():
    model(torch.zeros(2, 3, dtype=torch.int64))
print("counted", sum(witness.get_comm_counts().values()))
for one in mesh.recorder.transfers:
    print("recorded", one.op, one.num_bytes)
dist.destroy_process_group()
"""


@pytest.mark.parametrize("plan", [Plan(tp=2), Plan(tp=7), Plan(tp=64), Plan(dp=8, tp=8), Plan(dp=64)], ids=str)
def test_torch_counts_what_the_ledger_lists(plan: Plan) -> None:
    command = [sys.executable, "-c", PLAYED, str(plan.dp), str(plan.tp), repr(SHAPE)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    listed = ledger.forward(SHAPE, plan, batch=BATCH, seq=SEQ)
    assert [(words[1], int(words[2])) for words in lines if words[0] == "recorded"] == [
        (one.op, one.num_bytes) for one in listed
    ]
    assert [int(words[1]) for words in lines if words[0] == "counted"] == [len(listed)]
    seen: Counter[tuple[str, int]] = Counter()
    for _, name, *num_bytes in (words for words in lines if words[0] == "saw"):
        if "allreduce" in name:
            seen["all_reduce", int(num_bytes[0])] += 1
        elif "gather" in name:  # the gathered result and the shard, in either order
            seen["all_gather", max(map(int, num_bytes))] += 1
        else:
            seen[name, 0] += 1
    assert seen == Counter((one.op, one.num_bytes) for one in listed)

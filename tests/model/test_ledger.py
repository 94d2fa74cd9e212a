"""What comm recorded is what theory.ledger predicts, transfer by transfer; CommDebugMode is the independent witness."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.distributed.tensor.debug import CommDebugMode

from shardlab import Plan, Ranks, Transformer
from shardlab.comm.mesh import Mesh
from shardlab.theory import ledger
from shardlab.theory.ledger import Transfer
from shardlab.theory.transformer import Shape
from tests.model.tiny import Reference

DEGREES = (1, 2, 3, 4)
# torch 2.13 renamed the gather; 2.11 has the other name
NAMES = {"allreduce_": "all_reduce", "_allgather_base_": "all_gather", "all_gather_into_tensor": "all_gather"}
Recorded = dict[str, list[Transfer]]


def recorded(mesh: Mesh, source: Path, token_ids: torch.Tensor) -> tuple[Shape, Recorded, Counter[str]]:
    """-> shape, transfers of each way to run the model, and the ops that torch itself saw in one forward."""
    model = Transformer.from_pretrained(source, mesh)
    transfers, start = {}, len(mesh.recorder.transfers)

    def note(name: str) -> None:
        nonlocal start
        transfers[name] = mesh.recorder.transfers[start:]
        start = len(mesh.recorder.transfers)

    note("load")
    with CommDebugMode() as witness:
        model(token_ids)
    note("forward")
    cache = model.new_cache(token_ids.shape[0], 30)
    model(token_ids, cache)
    note("prefill")
    model(token_ids[:, :1], cache)
    note("decode")
    model.generate(token_ids, 3, eos_ids=())
    note("generate")
    counts = {str(op): count for op, count in witness.get_comm_counts().items()}
    return model.shape, transfers, Counter(counts)


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("name", ["llama-gqa", "qwen3-bias"])
def test_the_record_is_the_prediction(
    name: str, degree: int, ranks: Ranks, reference: Callable[[str], Reference]
) -> None:
    plan, token_ids = Plan(tp=degree), reference(name).token_ids
    batch, seq = token_ids.shape
    for shape, transfers, seen in ranks.run(recorded, reference(name).folder, token_ids, plan=plan):
        forward = ledger.forward(shape, plan, batch=batch, seq=seq)
        one = ledger.forward(shape, plan, batch=batch, seq=1)
        prompt = ledger.forward(shape, plan, batch=batch, seq=seq, logit_positions=1)
        assert transfers["load"] == []
        assert transfers["forward"] == forward
        assert transfers["prefill"] == forward
        assert transfers["decode"] == one
        assert transfers["generate"] == prompt + one + one
        named = Counter({NAMES[op.split(".")[-1]]: count for op, count in seen.items()})
        assert named == Counter(transfer.op for transfer in forward)

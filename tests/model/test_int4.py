"""SmolLM2 on the 4-bit blocks of its own file: nothing is converted, and the tokens are those of the unpacked model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from shardlab import Plan, Ranks, Transformer, ops
from shardlab.comm.mesh import Mesh
from shardlab.model.load import WeightsError
from shardlab.model.tokenizer import encode, load_tokenizer
from shardlab_kernels.int4 import Int4Weight, bits_per_weight
from tests.model.tiny import Reference

PROMPT = "What is the capital of France?"
NEW = 3
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def wanted(smollm2: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The prompt, and the unpacked model's logits and tokens."""
    model, token_ids = Transformer.from_pretrained(smollm2), encode(load_tokenizer(smollm2), PROMPT)
    return token_ids, model(token_ids), model.generate(token_ids, NEW, eos_ids=())


def packed(mesh: Mesh, path: Path, token_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
    """-> logits, tokens, and the bits of each weight that stayed packed."""
    model = Transformer.from_pretrained(path, mesh, int4=True)
    weights = [getattr(module, "local_weight", None) for module in model.modules()]
    held = [bits_per_weight(weight) for weight in weights if isinstance(weight, Int4Weight)]
    return model(token_ids), model.generate(token_ids, NEW, eos_ids=()), held


@pytest.mark.parametrize("degree", [1, 3, 4])
def test_ranks_hold_the_blocks_of_the_file(
    degree: int, smollm2: Path, wanted: tuple[torch.Tensor, torch.Tensor, torch.Tensor], ranks: Ranks
) -> None:
    token_ids, logits, tokens = wanted
    for ours, greedy, held in ranks.run(packed, smollm2, token_ids, plan=Plan(tp=degree), check=False):
        assert held == [5.0] * len(held) and len(held) > 30 * 6  # a few tensors of the file are of another kind
        assert torch.equal(greedy, tokens)
        torch.testing.assert_close(ours, logits, atol=1e-3, rtol=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="tests/model/test_on_gpu.py runs all of it compiled")
def test_real_layers_on_interpreted_kernels(
    smollm2: Path, wanted: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> None:
    """Prefill by flash attention and the INT4 GEMM, a step by flash decoding and the INT4 GEMV.

    Thirty layers of it would take the interpreter minutes: these are the first two.
    """
    token_ids = wanted[0]
    model = Transformer.from_pretrained(smollm2, int4=True)
    for index in range(2, len(model.layers)):
        del model.layers[str(index)]

    def run() -> list[torch.Tensor]:
        with torch.inference_mode():
            cache = model.new_cache(1, token_ids.shape[1] + 1)
            found = [model.hidden(ids, cache) for ids in (token_ids, torch.tensor([[504]]))]
            return [hidden for hidden in found if hidden is not None]

    on_torch = run()
    with ops.interpreted():
        on_kernels = run()
    for found, expected in zip(on_kernels, on_torch, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_model_without_4_bit_weights_is_refused(reference: Callable[[str], Reference]) -> None:
    with pytest.raises(WeightsError, match="stored as Q4_1"):
        Transformer.from_pretrained(reference("llama-mqa").folder, int4=True)

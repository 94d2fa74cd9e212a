"""A real model, SmolLM2-135M-Instruct, from its GGUF file: transformers' answer, at every T."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from shardlab import Plan, Ranks
from shardlab.model.tokenizer import encode, load_tokenizer
from shardlab.programs.generate import generate
from tests.model.programs import answer

PROMPT = "What is the capital of France?"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def wanted(smollm2: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The prompt's ids, and transformers' logits and 32 greedy tokens."""
    from transformers import AutoModelForCausalLM

    token_ids = encode(load_tokenizer(smollm2), PROMPT)
    model: Any = AutoModelForCausalLM.from_pretrained(
        smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32, local_files_only=True
    ).eval()
    model.generation_config.eos_token_id = None  # 32 tokens, whatever they are
    with torch.no_grad():
        logits = model(token_ids).logits
        tokens = model.generate(token_ids, max_new_tokens=32, do_sample=False)[:, token_ids.shape[1] :]
    return token_ids, logits, tokens


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_32_tokens_are_those_of_transformers(
    degree: int, smollm2: Path, wanted: tuple[torch.Tensor, torch.Tensor, torch.Tensor], ranks: Ranks
) -> None:
    token_ids, logits, tokens = wanted
    outcomes = ranks.run(answer, smollm2, token_ids, plan=Plan(tp=degree), check=False, timeout_s=200)
    for ours, greedy in outcomes:
        assert torch.equal(greedy, tokens)
        # 30 layers, logits up to 38. Measured at T = 2, 3, 4: at most 9.3e-5, on average 1.1e-5; at T = 1: 0.
        torch.testing.assert_close(ours, logits, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("degree", [1, 3])
def test_the_program_answers_and_streams(degree: int, smollm2: Path, ranks: Ranks, tmp_path: Path) -> None:
    streamed = tmp_path / "streamed"
    results = ranks.run(generate, smollm2, PROMPT, 32, stream_to=streamed, plan=Plan(tp=degree), timeout_s=200)
    assert results[0].text == "The capital of France is Paris." == streamed.read_text()
    assert results[0].token_ids[-1] == 2 and results[0].tokens_per_s > 0
    assert all(result.token_ids == results[0].token_ids for result in results)

"""Rows of a cache have lengths of their own: each decodes as it would alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from shardlab import Plan, Ranks, Transformer
from shardlab.comm.mesh import Mesh
from shardlab.layers import KVCache
from tests.model.tiny import Reference


def alone_and_together(
    mesh: Mesh, folder: Path, token_ids: torch.Tensor, lengths: list[int]
) -> tuple[list[list[int]], list[list[int]], float]:
    """Greedy tokens of each prompt by itself, of all together, and how far the last logits are from each other.

    Together: every prompt is prefilled into its own row, then all decode in one batch.
    """
    model = Transformer.from_pretrained(folder, mesh)
    prompts = [token_ids[row % len(token_ids), :length].unsqueeze(0) for row, length in enumerate(lengths)]
    apart = [decode(model, model.new_cache(1, 40), [prompt]) for prompt in prompts]
    cache = model.new_cache(len(prompts), 40)
    tokens, logits = decode(model, cache, prompts)
    drift = (logits - torch.cat([last for _, last in apart])).abs().max()
    return [one.tolist()[0] for one, _ in apart], tokens.tolist(), float(drift)


def decode(model: Transformer, cache: KVCache, prompts: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    firsts = [model.next_logits(prompt, cache.rows(row, row + 1)) for row, prompt in enumerate(prompts)]
    logits, tokens = torch.cat([one for one in firsts if one is not None]), []
    for _step in range(8):
        tokens.append(logits.argmax(-1))
        found = model.next_logits(tokens[-1].unsqueeze(1), cache)
        assert found is not None
        logits = found
    return torch.stack(tokens, dim=1), logits


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("name", ["llama-gqa", "mistral-window", "qwen3"])
def test_rows_of_different_lengths_decode_as_each_alone(
    name: str, degree: int, ranks: Ranks, reference: Callable[[str], Reference]
) -> None:
    wanted = reference(name)
    results = ranks.run(alone_and_together, wanted.folder, wanted.token_ids, [5, 21, 1, 12], plan=Plan(tp=degree))
    for apart, together, drift in results:
        assert apart == together
        assert drift < 2e-5


def test_a_piece_of_prompt_for_rows_at_different_places(reference: Callable[[str], Reference]) -> None:
    """Several new positions a row, each row at its own place: chunked prefill beside longer rows."""
    wanted = reference("llama-gqa")
    model = Transformer.from_pretrained(wanted.folder)
    cache = model.new_cache(2, 30)
    model(wanted.token_ids[:1, :9], cache.rows(0, 1))
    model(wanted.token_ids[1:, :3], cache.rows(1, 2))
    chunks = torch.stack((wanted.token_ids[0, 9:14], wanted.token_ids[1, 3:8]))
    logits = model(chunks, cache)
    assert logits is not None
    torch.testing.assert_close(logits[0], wanted.logits[0, 9:14], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits[1], wanted.logits[1, 3:8], atol=1e-5, rtol=1e-4)


def test_rewinding_a_cache_forgets_what_was_tried(reference: Callable[[str], Reference]) -> None:
    wanted = reference("qwen3")
    model = Transformer.from_pretrained(wanted.folder)
    cache = model.new_cache(2, 30)
    model(wanted.token_ids[:, :12], cache)
    model(wanted.token_ids[:, :4], cache)  # a guess that was wrong
    cache.rewind(12)
    logits = model(wanted.token_ids[:, 12:], cache)
    torch.testing.assert_close(logits, wanted.logits[:, 12:], atol=1e-5, rtol=1e-4)

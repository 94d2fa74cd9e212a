"""The decoder, whose cache keeps its position on the device, and the whole model on the kernels, interpreted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from shardlab import Plan, Ranks, Transformer, ops
from shardlab.comm.mesh import Mesh
from shardlab.model.decoder import Decoder
from shardlab.ops import dispatch
from tests.model.tiny import Reference

# Head dims that the kernels take; a window; biases; norms of q and k.
ON_KERNELS = ("llama-mha-bias", "llama-mqa", "mistral-window", "qwen3")
PROMPT = 9
FEW = 13  # tokens that go through the interpreter, where a step of a tiny model takes half a second


def decoded(model: Transformer, token_ids: torch.Tensor) -> torch.Tensor:
    """token_ids[B,S] -> logits[B,S,V]: a prompt of 9 tokens, then one token a step."""
    cache = model.new_cache(*token_ids.shape)
    prompt = model(token_ids[:, :PROMPT], cache)
    decoder = Decoder(model, cache)
    steps = [decoder.step(token_ids[:, at]).clone() for at in range(PROMPT, token_ids.shape[1])]
    with pytest.raises(ValueError, match="cache is full"):
        decoder.step(token_ids[:, 0])
    return torch.cat((prompt, torch.stack(steps, dim=1)), dim=1)


@pytest.mark.parametrize("kernels", [False, True], ids=["torch", "kernels"])
@pytest.mark.parametrize("name", ON_KERNELS)
def test_every_way_through_the_model_gives_the_reference_logits(
    name: str, kernels: bool, reference: Callable[[str], Reference]
) -> None:
    tiny = reference(name)
    on_gpu = kernels and torch.cuda.is_available()
    model = Transformer.from_pretrained(tiny.folder, Mesh.single("cuda" if on_gpu else "cpu"))
    token_ids, logits = tiny.token_ids, tiny.logits
    if kernels and not on_gpu:
        token_ids, logits = token_ids[:, :FEW], logits[:, :FEW]
    with ops.interpreted() if kernels and not on_gpu else nullcontext(), torch.inference_mode():
        for found in (in_pieces(model, token_ids), decoded(model, token_ids)):
            torch.testing.assert_close(found.cpu(), logits, atol=2e-5, rtol=1e-4)


def in_pieces(model: Transformer, token_ids: torch.Tensor) -> torch.Tensor:
    """token_ids[B,S] -> logits[B,S,V] through the cache: a prompt, a second piece of prompt, then one token."""
    cache = model.new_cache(*token_ids.shape)
    pieces = token_ids.split([PROMPT, token_ids.shape[1] - PROMPT - 1, 1], dim=1)
    return torch.cat([model(piece, cache) for piece in pieces], dim=1)


def pieces_on_kernels(mesh: Mesh, source: Path, token_ids: torch.Tensor) -> torch.Tensor:
    with ops.interpreted(), torch.inference_mode():
        return in_pieces(Transformer.from_pretrained(source, mesh), token_ids)


@pytest.mark.skipif(torch.cuda.is_available(), reason="ranks on the CPU need interpreted kernels")
def test_sharded_layers_on_the_kernels(reference: Callable[[str], Reference], ranks: Ranks) -> None:
    """Six query heads on four ranks, two KV heads: groups that are not even."""
    tiny = reference("mistral-window")
    few = tiny.token_ids[:, :FEW]
    for logits in ranks.run(pieces_on_kernels, tiny.folder, few, plan=Plan(tp=4)):
        torch.testing.assert_close(logits, tiny.logits[:, :FEW], atol=2e-5, rtol=1e-4)


def test_kernels_are_really_called(reference: Callable[[str], Reference], monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the parity above would hold torch against torch."""
    called: set[str] = set()

    def watch(name: str) -> None:
        honest = getattr(dispatch, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            called.add(name)
            return honest(*args, **kwargs)

        monkeypatch.setattr(dispatch, name, watched)

    names = {"flash_attention", "flash_decode", "rope_", "skinny_matmul"}
    for name in names:
        watch(name)
    tiny, on_gpu = reference("qwen3"), torch.cuda.is_available()
    Transformer.from_pretrained(tiny.folder)(tiny.token_ids)
    assert called == set()
    model = Transformer.from_pretrained(tiny.folder, Mesh.single("cuda" if on_gpu else "cpu"))
    with nullcontext() if on_gpu else ops.interpreted(), torch.inference_mode():
        decoded(model, tiny.token_ids[:, :FEW])
    assert called == names

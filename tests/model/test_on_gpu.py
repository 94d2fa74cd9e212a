"""The whole of SmolLM2 on the kernels of a GPU, decode in a CUDA graph, against the same model on the CPU."""

from __future__ import annotations

import pytest
import torch

from shardlab import Transformer
from shardlab.comm.mesh import Mesh
from shardlab.model.checkpoint.fetch import fetch
from shardlab.model.decoder import Decoder, is_whole
from shardlab.model.tokenizer import encode, load_tokenizer

NEW = 32
TIE = 0.5  # logits of this model reach 38; bf16 holds eight bits of them, so nearer than this two tokens are equal


@pytest.mark.gpu
@pytest.mark.parametrize("int4", [False, True])
def test_a_graph_of_our_kernels_gives_the_tokens_of_the_cpu(int4: bool) -> None:
    path = fetch("smollm2")
    prompt = encode(load_tokenizer(path), "What is the capital of France?")
    reference = Transformer.from_pretrained(path)
    tokens = reference.generate(prompt, NEW, eos_ids=())
    fed = torch.cat((prompt, tokens), dim=1)
    wanted = reference(fed)[:, prompt.shape[1] - 1 : -1].float()

    model = Transformer.from_pretrained(path, Mesh.single("cuda"), torch.bfloat16, int4=int4)
    cache = model.new_cache(1, fed.shape[1])
    with torch.inference_mode():
        found = [model(prompt, cache)[:, -1]]
    decoder = Decoder(model, cache)
    found += [decoder.step(fed[:, at]).clone() for at in range(prompt.shape[1], fed.shape[1] - 1)]
    assert decoder.graphed
    ours = torch.stack(found, dim=1).float().cpu()
    for at in range(NEW):
        best, token = wanted[0, at], int(tokens[0, at])
        mine = int(ours[0, at].argmax())
        assert mine == token or best[token] - best[mine] < TIE, f"token {at}: {mine} for {token}"
        assert token in ours[0, at].topk(5).indices


@pytest.mark.gpu
def test_generate_takes_the_graph_and_stops_at_the_end_of_text() -> None:
    path = fetch("smollm2")
    prompt = encode(load_tokenizer(path), "What is the capital of France?")
    model = Transformer.from_pretrained(path, Mesh.single("cuda"))
    assert is_whole(model)
    assert torch.equal(model.generate(prompt, NEW), Transformer.from_pretrained(path).generate(prompt, NEW))

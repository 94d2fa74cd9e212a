"""A whole model on a GPU's kernels, decode in a CUDA graph, against the same weights in fp32 torch on the CPU.

Random weights of SmolLM2's shape: nothing is fetched. tests/model/test_on_gpu.py asks the real model for its tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks.decode import keep_int4, layers_step, torch_step
from shardlab.comm.mesh import Mesh
from shardlab.layers import ColumnParallelLinear, RowParallelLinear
from shardlab.model.decoder import Decoder
from shardlab.model.transformer import Transformer
from shardlab.programs.serve import random_model
from shardlab.theory.transformer import Shape
from shardlab_kernels.int4 import Int4Weight

SMOLLM2 = Shape(30, 576, 1536, 9, 3, 64, 49152, tied_embeddings=True, name="SmolLM2-135M")
PROMPT, STEPS = 37, 8


def on_gpu(model: Transformer) -> Transformer:
    """The same weights in bf16 on a GPU; 4-bit ones stay as they are."""
    twin = Transformer(model.config, Mesh.single("cuda"), dtype=torch.bfloat16, device="cuda")
    for name, parameter in model.named_parameters():
        twin.get_parameter(name).data.copy_(parameter.data)
    for name, module in model.named_modules():
        if isinstance(module, ColumnParallelLinear | RowParallelLinear) and isinstance(module.local_weight, Int4Weight):
            held, own = module.local_weight, twin.get_submodule(name)
            assert isinstance(own, ColumnParallelLinear | RowParallelLinear)
            del own.local_weight
            own.local_weight = Int4Weight(held.packed.cuda(), held.scale.cuda(), None, held.group)
    return twin


@pytest.mark.gpu
@pytest.mark.parametrize("int4", [False, True])
def test_a_graph_of_our_kernels_gives_the_logits_of_the_cpu(int4: bool) -> None:
    reference = random_model(SMOLLM2, Mesh.single())
    for parameter in reference.parameters():
        parameter.data.copy_(parameter.data.bfloat16())
    if int4:
        keep_int4(reference, 32)
    model = on_gpu(reference)
    tokens = torch.randint(SMOLLM2.vocab_size, (1, PROMPT + STEPS), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = reference(tokens)
        cache = model.new_cache(1, PROMPT + STEPS)
        first = model.next_logits(tokens[:, :PROMPT], cache)
    assert logits is not None and first is not None
    wanted, found = logits[0, PROMPT - 1 :], [first]
    decoder = Decoder(model, cache)
    found += [decoder.step(tokens[:, at].cuda()).clone() for at in range(PROMPT, PROMPT + STEPS)]
    assert decoder.graphed
    error = (torch.cat(found).float().cpu() - wanted).abs() / wanted.square().mean().sqrt()
    assert error.max() < 0.15, f"off by {error.max():.2g} of the logits' rms"


@pytest.mark.gpu
@pytest.mark.parametrize("step_of", [layers_step, torch_step])
def test_a_graph_keeps_what_it_reads(step_of: Callable[[Transformer, int], Callable[[], torch.Tensor]]) -> None:
    """Emptying torch's cache unmaps memory that nobody holds: a graph that reads it would break the context."""
    model = random_model(SMOLLM2, Mesh.single("cuda"), torch.bfloat16)
    step = step_of(model, 1 << 14)  # a KV cache of segments of its own
    first = step().clone()
    torch.cuda.empty_cache()
    assert torch.equal(step(), first)

"""G14-G16: decode of a whole model with random weights, one sequence, each step one CUDA graph, into the same CSV.

python -m benchmarks.gpu.model [--out FOLDER] [--smoke]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from shardlab_kernels.bench.goal import Bar, Goal

if TYPE_CHECKING:
    from shardlab import Transformer

MODEL, CONTEXT, GROUP = "llama-3-8b", 1024, 128
MOST_OFF = 0.15  # of the logits' rms: 32 layers in bf16, each rounding in its own place
CALLS = 4000  # steps that a cache has room for
TORCH, BF16 = "cuBLAS and SDPA", "ours, bf16"
LAYERS, DECODE, INT4 = "decoder_layers", "decode", "decode_int4"
CASE = f"{MODEL}_b1_kv{CONTEXT // 1024}k"
COMMAND = "python -m benchmarks.gpu.model"

GOALS = {
    (LAYERS, CASE): Goal("G14", Bar(of_copy=0.65), Bar(of_copy=0.80)),
    (DECODE, CASE): Goal("G15", Bar(times={TORCH: 0.85}), Bar(times={TORCH: 1.0})),
    (INT4, CASE): Goal("G16", Bar(times={BF16: 1.8}), Bar(times={BF16: 2.5})),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Decode of a whole model: our kernels, torch's, and INT4.")
    parser.add_argument("--out", type=Path, default=Path("labs/measured"), help="where the CSV is")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, compared and not timed; also without a GPU")
    options = parser.parse_args()
    if options.smoke and not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
    if options.smoke:
        smoke()
    else:
        measure(options.out)


def smoke() -> None:
    """Prefill and a step of a model of two layers, by kernels (interpreted on a CPU) and by torch: nothing is timed."""
    from benchmarks import decode
    from shardlab.comm.mesh import Mesh
    from shardlab.programs.serve import random_model
    from shardlab.theory.transformer import Shape

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = random_model(Shape(2, 64, 128, 4, 2, 16, 96, name="tiny"), Mesh.single(device))
    print(f"bf16: off by {check(model, 5):.1e} of the logits' rms")
    decode.keep_int4(model, 32)
    print(f"INT4: off by {check(model, 5):.1e} of the logits' rms")


def check(model: Transformer, length: int) -> float:
    """Kernels against torch: logits of a prompt, and of one step behind it. -> the largest difference, in their rms.

    Raises ValueError beyond MOST_OFF.
    """
    from shardlab import ops

    vocab, on_gpu = model.shape.vocab_size, model.device.type == "cuda"
    prompt = torch.randint(vocab, (1, length), generator=torch.Generator().manual_seed(0))
    found = []
    for used in (True, False):
        cache = model.new_cache(1, length + 1)
        with torch.no_grad(), nullcontext() if used and on_gpu else ops.interpreted() if used else ops.plain_torch():
            steps = [model(token_ids, cache) for token_ids in (prompt, prompt[:, :1])]
        found.append(torch.cat([logits for logits in steps if logits is not None], dim=1).float())
    error = ((found[0] - found[1]).abs().max() / found[1].square().mean().sqrt()).item()
    if not error <= MOST_OFF:
        raise ValueError(f"the kernels' logits are off by {error:.2g} of their rms")
    return error


def measure(folder: Path) -> None:
    from benchmarks import decode
    from shardlab.comm.mesh import Mesh
    from shardlab.programs.serve import random_model
    from shardlab.theory.transformer import MODELS
    from shardlab_kernels.bench import record, roof, run
    from shardlab_kernels.bench.check import OURS
    from shardlab_kernels.bench.clock import Prepared, interleave

    device = torch.device("cuda", torch.cuda.current_device())
    path = folder / record.file_name(torch.cuda.get_device_name(device))
    provenance = run.provenance_of(device, COMMAND)
    top = roof.measure(device)
    model, light = (random_model(MODELS[MODEL], Mesh.single(device), torch.bfloat16) for _ in range(2))
    decode.keep_int4(light, GROUP)
    errors = {name: check(one, 64) for name, one in ((DECODE, model), (INT4, light))}
    print(f"logits off by {errors} of their rms", flush=True)
    assert model.logits is not None
    logits = model.logits.local_weight.nbytes  # of the embedding, one row is read
    # (kernel, implementation): a step, the bytes of the weights that it reads, its error
    ways: dict[tuple[str, str], tuple[Callable[[], object], int, float]] = {
        (LAYERS, OURS): (decode.layers_step(model, CONTEXT), weight_bytes(model.layers), errors[DECODE]),
        (DECODE, OURS): (
            decode.decoder_step(model, CONTEXT, CALLS),
            weight_bytes(model.layers) + logits,
            errors[DECODE],
        ),
        (DECODE, TORCH): (decode.torch_step(model, CONTEXT), weight_bytes(model.layers) + logits, 0.0),
        (INT4, OURS): (decode.decoder_step(light, CONTEXT, CALLS), weight_bytes(light.layers) + logits, errors[INT4]),
    }
    stats = interleave({" ".join(key): Prepared(step, 1) for key, (step, _, _) in ways.items()})

    def row(kernel: str, name: str, key: tuple[str, str]) -> record.Row:
        return run.make_row(
            kernel, CASE, name, stats[" ".join(key)], top,
            moved_bytes=ways[key][1], flops=0, max_error=ways[key][2], provenance=provenance,
        )  # fmt: skip

    rows = [row(*key, key) for key in ways] + [row(INT4, BF16, (DECODE, OURS))]
    record.write(path, rows, set(GOALS))
    for one in rows:
        print(f"{one.kernel} {one.case} {one.implementation}: {one.seconds * 1e3:.3f} ms, {one.of_copy:.0%} of copy")


def weight_bytes(layers: nn.Module) -> int:
    """Of all parameters and 4-bit weights."""
    from shardlab_kernels.int4 import Int4Weight

    packed = [held for module in layers.modules() for held in vars(module).values() if isinstance(held, Int4Weight)]
    found = sum(one.nbytes for one in layers.parameters())
    return found + sum(one.packed.nbytes + one.scale.nbytes for one in packed)


if __name__ == "__main__":
    main()

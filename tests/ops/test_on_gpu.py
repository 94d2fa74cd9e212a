"""ops on a GPU, at rows of different lengths and positions of their own: the same numbers as the formula in fp64."""

from __future__ import annotations

import pytest
import torch

from shardlab import ops
from tests.ops import plain
from tests.ops.inputs import draw

pytestmark = pytest.mark.gpu
KV_INDEX = (0, 0, 0, 1, 1)
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # the GPU's fp32 products are of three TF32 ones


def close(found: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype) -> None:
    torch.testing.assert_close(found.cpu().double(), wanted, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("way", ["kernels", "torch"])
@pytest.mark.parametrize("num_queries", [1, 33])
def test_attention(num_queries: int, way: str, window: int | None, dtype: torch.dtype) -> None:
    """Of its own filled length, then at positions: shared and known, or each row's own and on the GPU."""
    lengths = torch.tensor([130, 77, 3, 0])
    q, k, v = draw(4, KV_INDEX, num_queries, 130, 64, dtype)
    beyond = torch.arange(130) >= lengths[:, None]
    for x in (k, v):
        x.transpose(1, 2)[beyond] = float("nan")
    k_positions = torch.arange(130).repeat(4, 1).masked_fill(beyond, -1)
    last = lengths[:, None] - num_queries + torch.arange(num_queries)
    run = torch.arange(40, 40 + num_queries)
    there, there_k, there_v = (x.cuda() for x in (q, k, v))
    for positions, given in ((last, None), (run, run), (last, last.cuda())):
        wanted, _ = plain.attention(q, k, v, KV_INDEX, positions, k_positions, window)
        if way == "torch":
            with ops.plain_torch():
                found = ops.attention(there, there_k, there_v, KV_INDEX, window, lengths.cuda(), given)
        else:
            found = ops.attention(there, there_k, there_v, KV_INDEX, window, lengths.cuda(), given)
        close(found, wanted, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_parts_make_the_whole(where: str, window: int | None, dtype: torch.dtype) -> None:
    """Zigzag over two ranks, whose runs go to the kernel; and keys in no order, which go through torch."""
    chunks = torch.arange(90).chunk(4)
    zigzag = [torch.cat((chunks[0], chunks[3])), torch.cat((chunks[1], chunks[2]))]
    shuffled = list(torch.randperm(90, generator=torch.Generator().manual_seed(0)).tensor_split(3))
    q, k, v = draw(2, KV_INDEX, len(zigzag[0]), 90, 64, dtype)
    wanted = plain.attention(q, k, v, KV_INDEX, zigzag[0], torch.arange(90), window)
    q, k, v = (x.cuda() for x in (q, k, v))
    for held in (zigzag, shuffled):
        parts = [
            ops.attention_lse(
                q,
                k[:, :, keys.cuda()],
                v[:, :, keys.cuda()],
                KV_INDEX,
                q_positions=zigzag[0].to(where),
                k_positions=keys.to(where),
                window=window,
            )
            for keys in held
        ]
        outs, lses = zip(*parts, strict=True)
        for one, other in zip(ops.merge(outs, lses), wanted, strict=True):
            close(one, other, dtype)


def test_a_graph_records_what_asks_the_gpu_for_nothing() -> None:
    """Rows of different lengths, more than one query each, and positions on the GPU."""
    q, k, v = (x.cuda() for x in draw(2, KV_INDEX, 3, 20, 64, torch.bfloat16))
    lengths, positions = torch.tensor([20, 9]).cuda(), torch.arange(20).cuda()

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        ragged = ops.attention(q, k, v, KV_INDEX, 5, lengths)
        return ragged, ops.attention_lse(q, k, v, KV_INDEX, q_positions=positions[-3:], k_positions=positions)[0]

    aside = torch.cuda.Stream()
    with torch.cuda.stream(aside):
        step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = step()
    lengths.copy_(torch.tensor([7, 13]))
    graph.replay()
    for one, other in zip(recorded, step(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-2, rtol=2e-2)

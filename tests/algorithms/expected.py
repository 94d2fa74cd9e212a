"""What each collective gives, worked out from all ranks' tensors at once; and tensors to try it on."""

from __future__ import annotations

import torch

from shardlab.theory.split import even_split

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8)


def whole_numbers(rank: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A different tensor of small whole numbers for each rank: 28 of them add up exactly in every dtype."""
    return torch.randint(-9, 10, shape, generator=torch.Generator().manual_seed(rank + 1)).to(dtype)


def fractions(rank: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Numbers of many sizes, so that the order of addition shows in the last bits."""
    generator = torch.Generator().manual_seed(rank + 1)
    return (torch.randn(shape, generator=generator) * 10 ** torch.randn(shape, generator=generator)).to(dtype)


def expected(op: str, inputs: list[torch.Tensor], rank: int, src: int) -> torch.Tensor:
    """Rank's result of `op`, for inputs whose sums are exact."""
    n = len(inputs)
    total = torch.stack(inputs).sum(0).to(inputs[0].dtype)
    own = even_split(inputs[0].shape[0], n)[rank] if inputs[0].dim() else range(0)
    match op:
        case "all_reduce":
            return total
        case "all_gather":
            return torch.cat(inputs)
        case "reduce_scatter":
            return total[own.start : own.stop]
        case "all_to_all":
            return torch.cat([one[own.start : own.stop] for one in inputs])
        case "broadcast":
            return inputs[src]
        case _:
            assert op == "send"
            return inputs[src] if rank == (src + 1) % n else inputs[rank]


def bits(tensor: torch.Tensor) -> bytes:
    """Every bit of it: -0.0 is not 0.0 here."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()

"""ops.rope at positions of the batch and of each row: the formula in fp64, in torch and on the interpreted kernel."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from shardlab import ops

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def turned(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """x[B,N,S,H], positions[B,S]: pairs as complex numbers times e ** (i * angle)."""
    half = x.shape[-1] // 2
    angle = positions.double()[:, None, :, None] * 1e4 ** -(torch.arange(half).double() / half)
    pairs = torch.complex(x[..., :half].double(), x[..., half:].double()) * torch.exp(1j * angle)
    return torch.cat((pairs.real, pairs.imag), dim=-1)


def cos_sin(positions: torch.Tensor, h: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """positions[S] or [B,S] -> cos, sin [S,H] or [B,S,H]."""
    angle = positions.double().unsqueeze(-1) * 1e4 ** -(torch.arange(h // 2).double() / (h // 2))
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("way", ["torch", "kernels"])
@pytest.mark.parametrize("h", [6, 16])
@pytest.mark.parametrize(
    "positions",
    [[0, 1, 2], [4, 5, 20, 21, 3], [[7], [0], [31]], [[0, 1, 2, 3, 4], [9, 10, 2, 3, 7], [5, 5, 5, 6, 0]]],
    ids=["[S]", "[S] in two runs", "[B,1]", "[B,S]"],
)
def test_rows_turn_by_their_own_positions(positions: list, h: int, way: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    at = torch.tensor(positions)
    num_positions = at.shape[-1]
    q = torch.randn(3, num_positions, 5, h).to(dtype).transpose(1, 2)
    k = torch.randn(3, num_positions, 2, h).to(dtype).transpose(1, 2)
    wanted = [turned(x, at.expand(3, -1)) for x in (q, k)]
    use = ops.interpreted if way == "kernels" and not torch.cuda.is_available() else nullcontext
    with use():
        found = ops.rope(q, k, *cos_sin(at, h, torch.float32 if way == "kernels" else dtype))
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), other, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])

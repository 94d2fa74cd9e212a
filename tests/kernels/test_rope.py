"""RoPE in place against fp64: q and k turned, and nothing around them touched."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab_kernels import rope
from tests.kernels.support import DEVICE, DTYPES, assert_close, draw


def angles(s: int, h: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """cos[S,H], sin[S,H] of positions 3 .. 3 + S."""
    turns = torch.outer(torch.arange(3, 3 + s).double(), 100.0 ** -torch.linspace(0, 1, h // 2).double())
    turns = torch.cat((turns, turns), dim=-1)
    return turns.cos().to(DEVICE, dtype), turns.sin().to(DEVICE, dtype)


def row_angles(b: int, s: int, h: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """cos[B,S,H], sin[B,S,H]: each row at positions of its own, in no order."""
    positions = torch.randint(0, 50, (b, s, 1), generator=torch.Generator().manual_seed(2)).double()
    turns = positions * 100.0 ** -torch.linspace(0, 1, h // 2).double()
    turns = torch.cat((turns, turns), dim=-1)
    return turns.cos().to(DEVICE, dtype), turns.sin().to(DEVICE, dtype)


def heads(b: int, n: int, s: int, h: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """[B,N,S,H] as a projection leaves it: [B,S,N,H] in memory."""
    return draw(b, s, n, h, dtype=dtype, seed=seed).transpose(1, 2)


def check(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    wanted = rope.reference(*(x.double() for x in (q, k, cos, sin)))
    rope.rope_(q, k, cos, sin)
    assert_close(q, wanted[0], q.dtype)
    assert_close(k, wanted[1], k.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("h", (2, 6, 64, 80, 128, 254, 256))
def test_every_head_dim(h: int, dtype: torch.dtype) -> None:
    check(heads(2, 3, 5, h, dtype, 0), heads(2, 1, 5, h, dtype, 1), *angles(5, h, dtype))


@pytest.mark.parametrize("s", (1, 4, 37))
@pytest.mark.parametrize(("n", "k"), [(1, 1), (9, 3), (4, 4), (2, 7)])
def test_every_number_of_positions_and_heads(s: int, n: int, k: int) -> None:
    dtype = torch.float32
    check(heads(2, n, s, 16, dtype, 0), heads(2, k, s, 16, dtype, 1), *angles(s, 16, dtype))


@pytest.mark.parametrize("s", (127, 128, 129))
def test_many_positions(s: int) -> None:
    check(heads(2, 3, s, 16, torch.float32, 0), heads(2, 1, s, 16, torch.float32, 1), *angles(s, 16, torch.float32))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("s", (1, 5, 37))
@pytest.mark.parametrize(("b", "n", "k", "h"), [(1, 2, 1, 16), (3, 9, 3, 64), (2, 1, 4, 6), (4, 3, 0, 80)])
def test_every_row_at_positions_of_its_own(b: int, n: int, k: int, h: int, s: int, dtype: torch.dtype) -> None:
    check(heads(b, n, s, h, dtype, 0), heads(b, k, s, h, dtype, 1), *row_angles(b, s, h, dtype))


def test_angles_of_rows_that_are_a_view_of_others() -> None:
    dtype = torch.float32
    cos, sin = (x[:, ::2].transpose(0, 1) for x in row_angles(5, 6, 16, dtype))  # [3,5,H], strided
    check(heads(3, 2, 5, 16, dtype, 0), heads(3, 1, 5, 16, dtype, 1), cos, sin)
    cos, sin = (x.expand(3, 5, 16) for x in angles(5, 16, dtype))
    check(heads(3, 2, 5, 16, dtype, 0), heads(3, 1, 5, 16, dtype, 1), cos, sin)


def test_heads_that_lie_one_after_another() -> None:
    dtype = torch.float32
    check(draw(2, 3, 7, 32, dtype=dtype, seed=0), draw(2, 2, 7, 32, dtype=dtype, seed=1), *angles(7, 32, dtype))


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
def test_angles_in_fp32_for_heads_in_half_precision(dtype: torch.dtype) -> None:
    check(heads(2, 3, 5, 64, dtype, 0), heads(2, 1, 5, 64, dtype, 1), *angles(5, 64, torch.float32))


def test_q_and_k_inside_one_projection_and_v_untouched() -> None:
    qkv = draw(2, 7, 4 + 2 + 2, 16, dtype=torch.float32, seed=0)
    before = qkv.clone()
    q, k = qkv[:, :, :4].transpose(1, 2), qkv[:, :, 4:6].transpose(1, 2)
    check(q, k, *angles(7, 16, torch.float32))
    assert torch.equal(qkv[:, :, 6:], before[:, :, 6:])
    assert not torch.equal(qkv[:, :, :6], before[:, :, :6])


def test_memory_around_a_view_is_untouched() -> None:
    padded = torch.full((2, 6, 9, 20), 7.0, device=DEVICE)
    q = padded[:, 1:4, 2:7, 3:19]
    q.copy_(draw(2, 3, 5, 16, dtype=torch.float32, seed=0))
    k = padded.new_zeros(2, 1, 5, 16)
    check(q, k, *angles(5, 16, torch.float32))
    q.fill_(7.0)
    assert torch.equal(padded, torch.full_like(padded, 7.0))


def test_only_the_first_half_of_the_angles_is_read() -> None:
    q, k = heads(2, 2, 5, 16, torch.float32, 0), heads(2, 1, 5, 16, torch.float32, 1)
    cos, sin = angles(5, 16, torch.float32)
    wanted = rope.reference(q.double(), k.double(), cos.double(), sin.double())
    cos[:, 8:], sin[:, 8:] = float("nan"), float("nan")
    rope.rope_(q, k, cos, sin)
    assert_close(q, wanted[0], torch.float32)
    assert_close(k, wanted[1], torch.float32)


def test_turning_back_gives_the_start() -> None:
    q, k = heads(2, 2, 5, 16, torch.float32, 0), heads(2, 1, 5, 16, torch.float32, 1)
    before = q.clone()
    cos, sin = angles(5, 16, torch.float32)
    rope.rope_(q, k, cos, sin)
    assert not torch.equal(q, before)
    rope.rope_(q, k, cos, -sin)
    assert_close(q, before, torch.float32)


@pytest.mark.parametrize(("b", "n", "k", "s"), [(0, 2, 1, 3), (2, 2, 1, 0), (2, 0, 0, 3)])
def test_empty_inputs(b: int, n: int, k: int, s: int) -> None:
    cos, sin = angles(s, 8, torch.float32)
    rope.rope_(torch.empty(b, n, s, 8, device=DEVICE), torch.empty(b, k, s, 8, device=DEVICE), cos, sin)


def test_no_heads_of_k_here() -> None:
    check(heads(2, 3, 5, 8, torch.float32, 0), heads(2, 0, 5, 8, torch.float32, 0), *angles(5, 8, torch.float32))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    b=st.integers(1, 3),
    n=st.integers(1, 12),
    k=st.integers(1, 5),
    s=st.integers(1, 20),
    half=st.integers(1, 70),
    dtype=st.sampled_from(DTYPES),
    by_row=st.booleans(),
)
def test_any_size(b: int, n: int, k: int, s: int, half: int, dtype: torch.dtype, by_row: bool) -> None:
    cos, sin = row_angles(b, s, 2 * half, dtype) if by_row else angles(s, 2 * half, dtype)
    check(heads(b, n, s, 2 * half, dtype, 0), heads(b, k, s, 2 * half, dtype, 1), cos, sin)


def test_bytes() -> None:
    q, k, cos = torch.empty(2, 4, 5, 8), torch.empty(2, 1, 5, 8), torch.empty(5, 8)
    assert rope.moved_bytes(q, k, cos) == (2 * (320 + 80) + 2 * 20) * 4
    assert rope.moved_bytes(q, k, torch.empty(2, 5, 8)) == (2 * (320 + 80) + 2 * 40) * 4


def call(**changed: torch.Tensor) -> None:
    given = {"q": torch.zeros(2, 4, 5, 8), "k": torch.zeros(2, 1, 5, 8), "cos": torch.zeros(5, 8)}
    given = {name: x.to(DEVICE) for name, x in (given | {"sin": torch.zeros(5, 8)}).items()}
    moved = {name: x if x.device.type == "meta" else x.to(DEVICE) for name, x in changed.items()}
    rope.rope_(**(given | moved))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"k": torch.zeros(2, 1, 6, 8)}, r"k\(2, 1, 6, 8\) has S=6, q\(2, 4, 5, 8\) has S=5"),
        ({"sin": torch.zeros(5, 4)}, r"sin\(5, 4\) has H=4"),
        ({"sin": torch.zeros(2, 5, 8)}, r"sin\[S,H\] is needed"),
        ({"cos": torch.zeros(3, 5, 8)}, r"cos\(3, 5, 8\) has B=3"),
        ({"q": torch.zeros(4, 5, 8)}, r"q\[B,N,S,H\] is needed"),
        ({"k": torch.zeros(2, 1, 5, 8, dtype=torch.float16)}, "k is torch.float16"),
        ({"sin": torch.zeros(5, 8, dtype=torch.float16)}, "sin is torch.float16"),
        ({"cos": torch.zeros(5, 8, device="meta")}, "cos on meta"),
        ({"q": torch.zeros(2, 4, 8, 5).transpose(2, 3)}, "q.*last dim must be contiguous"),
    ],
)
def test_refuses(changed: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(**changed)


@pytest.mark.parametrize("h", (0, 7, 258))
def test_refuses_a_head_dim(h: int) -> None:
    q, cos = torch.zeros(2, 1, 5, h, device=DEVICE), torch.zeros(5, h, device=DEVICE)
    with pytest.raises(ValueError, match=f"H={h}: .*2..256"):
        rope.rope_(q, q.clone(), cos, cos)


def test_refuses_memory_that_would_turn_twice() -> None:
    one = torch.zeros(2, 1, 5, 8, device=DEVICE)
    with pytest.raises(ValueError, match=r"q\(2, 4, 5, 8\) has strides .*share memory"):
        call(q=one.expand(2, 4, 5, 8))
    with pytest.raises(ValueError, match=r"k\(2, 3, 5, 8\) has strides .*share memory"):
        call(k=one.expand(2, 3, 5, 8))
    with pytest.raises(ValueError, match="share memory"):  # a sliding window over one row
        call(q=torch.zeros(2, 4, 60, device=DEVICE).as_strided((2, 4, 5, 8), (240, 60, 4, 1)))
    with pytest.raises(ValueError, match="q and k are the same memory"):
        call(q=one, k=one)

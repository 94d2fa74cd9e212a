"""What every launcher asks of its arguments before it starts a kernel. A mistake is a ValueError that names it."""

from __future__ import annotations

import torch

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def check_dtype(**tensors: torch.Tensor | None) -> torch.dtype:
    """-> the one dtype of these tensors: float32, bfloat16 or float16. Raises ValueError."""
    given = {name: tensor.dtype for name, tensor in tensors.items() if tensor is not None}
    (first, dtype), *others = given.items()
    if dtype not in FLOATS:
        raise ValueError(f"{first} is {dtype}: a floating-point dtype is needed, one of {_names(FLOATS)}")
    for name, other in others:
        if other != dtype:
            raise ValueError(f"{first} is {dtype}, {name} is {other}: one floating-point dtype is needed")
    return dtype


def check_integers(**tensors: torch.Tensor | None) -> None:
    """Raises ValueError for a tensor that is not int32: kernels index with 32 bits and widen where they must."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype != torch.int32:
            raise ValueError(f"{name} is {tensor.dtype}: torch.int32 is needed")


def sizes(**arguments: tuple[torch.Tensor | None, str]) -> dict[str, int]:
    """sizes(q=(q, "B N S H"), k=(k, "B K C H")) -> {"B": 2, "N": 9, ...}: one letter, one size.

    A leading ... stands for any dims. Raises ValueError naming the argument, its shape and the letter that differs.
    """
    found: dict[str, int] = {}
    owner: dict[str, str] = {}
    for name, (tensor, letters) in arguments.items():
        if tensor is None:
            continue
        dims, shape = letters.split(), tuple(tensor.shape)
        if dims[0] == "...":
            dims = dims[1:]
            shape = shape[len(shape) - len(dims) :] if len(shape) >= len(dims) else shape
        if len(shape) != len(dims):
            raise ValueError(f"{name}{tuple(tensor.shape)}: {name}[{','.join(letters.split())}] is needed")
        for letter, size in zip(dims, shape, strict=True):
            if found.setdefault(letter, size) != size:
                raise ValueError(
                    f"{name}{tuple(tensor.shape)} has {letter}={size}, {owner[letter]} has {letter}={found[letter]}: "
                    f"{name}[{','.join(letters.split())}] is needed"
                )
            owner.setdefault(letter, f"{name}{tuple(tensor.shape)}")
    return found


def check_rows(**tensors: torch.Tensor | None) -> None:
    """Raises ValueError for a tensor whose last dim is not contiguous: kernels read along it."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.numel() and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            raise ValueError(
                f"{name}{tuple(tensor.shape)} has strides {tensor.stride()}: its last dim must be contiguous (stride 1)"
            )


def wide(x: torch.Tensor) -> torch.Tensor:
    """In the precision that references calculate in: fp32, or fp64 if x is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)

"""How programs, arguments and results travel: cloudpickle, with tensors as plain bytes.

Functions of a notebook cell or of a script travel by value. Tensors are copied: never a shared-memory
descriptor, which a rank that dies would leave behind, and which a full /dev/shm turns into a hang.
"""

from __future__ import annotations

import inspect
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import torch


class _Pickler(cloudpickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if type(obj) in (torch.Tensor, torch.nn.Parameter) and _is_plain(obj):
            # A view ships its own elements, not the storage that it looks at.
            cpu = obj.detach().contiguous().cpu()
            data = pickle.PickleBuffer(cpu.reshape(-1).view(torch.uint8).numpy()) if cpu.numel() else b""
            is_parameter = isinstance(obj, torch.nn.Parameter)
            return _tensor, (data, str(cpu.dtype), tuple(cpu.shape), obj.requires_grad, is_parameter)
        return super().reducer_override(obj)


def _is_plain(tensor: torch.Tensor) -> bool:
    lazy = tensor.is_quantized or tensor.is_conj() or tensor.is_neg()
    return tensor.layout == torch.strided and not lazy and tensor.device.type in ("cpu", "cuda")


def _tensor(
    data: bytes | bytearray, dtype: str, shape: tuple[int, ...], requires_grad: bool, is_parameter: bool
) -> torch.Tensor:
    kind = getattr(torch, dtype.removeprefix("torch."))
    own = data if isinstance(data, bytearray) else bytearray(data)
    flat = torch.frombuffer(own, dtype=kind) if own else torch.empty(0, dtype=kind)
    tensor = flat.reshape(shape)
    return torch.nn.Parameter(tensor, requires_grad) if is_parameter else tensor.requires_grad_(requires_grad)


def dumps(obj: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(obj)
    return buffer.getvalue()


loads = pickle.loads  # only ever of what dumps() wrote, over a pipe or a private file between our own processes


def dump_call(program: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """The call as bytes. Raises TypeError that names the argument or the variable that cannot travel."""
    try:
        return dumps((program, args, kwargs))
    except Exception as error:
        culprit = _culprit(program, args, kwargs)
        raise TypeError(f"{culprit} cannot be sent to the ranks: {error}") from None


def _culprit(program: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    for name, value in _named_arguments(program, args, kwargs):
        if (path := _first_bad(value)) is not None:
            return f"argument `{name}{path}`"
    name = getattr(program, "__name__", type(program).__name__)
    for variable, value in _captured(program):
        if not callable(value) and (path := _first_bad(value)) is not None:
            return f"`{variable}{path}`, which {name} uses,"
    return f"the program {name}"


def _named_arguments(
    program: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    try:
        names = list(inspect.signature(program).parameters)[1:]  # the first is the mesh
    except (TypeError, ValueError):
        names = []
    for i, value in enumerate(args):
        yield (names[i] if i < len(names) else f"args[{i}]"), value
    yield from kwargs.items()


def _captured(program: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """Variables that a function takes from outside: its closure, and the globals that it names."""
    function = inspect.unwrap(getattr(program, "func", program))
    if not inspect.isfunction(function):
        return
    variables = inspect.getclosurevars(function)
    yield from variables.nonlocals.items()
    yield from variables.globals.items()
    for helper in (*variables.nonlocals.values(), *variables.globals.values()):
        if inspect.isfunction(helper) and helper is not function and helper.__module__ == "__main__":
            yield from inspect.getclosurevars(helper).globals.items()


def _first_bad(value: Any, depth: int = 4) -> str | None:
    """None if `value` can be pickled, else the way to the innermost part that cannot: `["lock"]`, `.pool`."""
    if _travels(value):
        return None
    for step, part in _parts(value) if depth else ():
        path = _first_bad(part, depth - 1)
        if path is not None:
            return step + path
    return ""


def _travels(value: Any) -> bool:
    try:
        dumps(value)
    except Exception:
        return False
    return True


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{i}]", part) for i, part in enumerate(value))
    else:
        yield from ((f".{key}", part) for key, part in getattr(value, "__dict__", {}).items())

"""shardlab: run a transformer over many ranks on any machine, and hold every formula to the wire.

The names below load on first use (PEP 562). So `import shardlab.theory` loads neither torch nor numpy, and
the theory also runs in a browser's Python.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["Plan", "Ranks", "Transformer", "__version__", "comm", "theory"]

if TYPE_CHECKING:  # for type checkers and editors; nothing is imported at run time
    from shardlab import comm as comm
    from shardlab import theory as theory
    from shardlab.launch import Ranks as Ranks
    from shardlab.model import Transformer as Transformer
    from shardlab.theory.degrees import Plan as Plan

# public name -> (module, attribute); None: the module itself
_LAZY: dict[str, tuple[str, str | None]] = {
    "Plan": ("shardlab.theory.degrees", "Plan"),
    "Ranks": ("shardlab.launch", "Ranks"),
    "Transformer": ("shardlab.model", "Transformer"),
    "comm": ("shardlab.comm", None),
    "theory": ("shardlab.theory", None),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'shardlab' has no attribute {name!r}")
    module_name, attribute = _LAZY[name]
    module = importlib.import_module(module_name)
    value = module if attribute is None else getattr(module, attribute)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

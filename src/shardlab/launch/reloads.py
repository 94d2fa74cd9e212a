"""Whether the notebook's modules are still those that its ranks have imported.

Ranks import a module once, and keep it as long as they live. importlib.reload, or autoreload after an edit, gives the
notebook new code; a program is sent to the ranks by its name, so they would go on with the old. A reload makes a new
`__spec__`, which costs nothing to look at. autoreload may also put new code into a module in place: where it is on, a
file that has changed since is taken for reloaded.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from importlib.machinery import ModuleSpec
from types import ModuleType

_OWN = ("shardlab", "shardlab_kernels")
_INSTALLED = tuple(os.path.join(sysconfig.get_path(kind), "") for kind in ("stdlib", "purelib", "platlib"))
_AUTORELOAD = "IPython.extensions.autoreload"


class Modules:
    """The modules of this process that may change: ours, and what is not installed. As they were when it was made."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._specs: dict[str, ModuleSpec] = {}
        self._changed: dict[str, float] = {}  # module -> when its file was written
        self._look()

    def reloaded(self) -> list[str]:
        """Names of modules that have been reloaded since this was made, or since they were first seen here."""
        self._look()
        return [name for name, spec in self._specs.items() if self._is_new(name, spec)]

    def _look(self) -> None:
        """Take in the modules that have been imported since the last look."""
        if len(sys.modules) == len(self._seen):
            return
        for name in sys.modules.keys() - self._seen:
            module = sys.modules.get(name)
            spec = getattr(module, "__spec__", None)
            if isinstance(module, ModuleType) and isinstance(spec, ModuleSpec) and _may_change(name, spec):
                self._specs[name] = spec
                self._changed[name] = _changed(spec)
        self._seen = set(sys.modules)

    def _is_new(self, name: str, spec: ModuleSpec) -> bool:
        module = sys.modules.get(name)
        if module is None:  # taken out, to be imported afresh
            return False
        if getattr(module, "__spec__", spec) is not spec:
            return True
        return _AUTORELOAD in sys.modules and _changed(spec) != self._changed[name]


def _may_change(name: str, spec: ModuleSpec) -> bool:
    if not spec.origin or not spec.origin.endswith(".py"):
        return False
    return name.partition(".")[0] in _OWN or not spec.origin.startswith(_INSTALLED)


def _changed(spec: ModuleSpec) -> float:
    try:
        return os.stat(spec.origin or "").st_mtime
    except OSError:
        return 0.0

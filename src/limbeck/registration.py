"""Transformers' Auto classes know limbeck's decoder once both are imported, in either order.

`import limbeck` loads neither torch nor Transformers, so it cannot register anything itself. It leaves a finder that steps in
when `transformers.models.auto` is imported, once, and registers then.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

_AUTO, _OURS = "transformers.models.auto", "limbeck.models"


def register_with_transformers() -> None:
    """Registers the decoder now if Transformers' Auto classes are there, else as soon as they are."""
    if _AUTO in sys.modules:
        import_module(f"{_OURS}.auto")
    else:
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds Transformers' Auto classes as everyone else does, to be told when they have been loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _AUTO:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader)
        return spec


class _Registering(Loader):
    """Loads as ``loader`` does, then registers."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        if (
            f"{_OURS}.decoder" not in sys.modules
        ):  # else it is importing Transformers itself, and who imports it registers
            import_module(f"{_OURS}.auto")

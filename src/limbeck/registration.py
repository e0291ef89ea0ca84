"""Registers limbeck's decoder with Transformers' Auto classes once both are imported, in either order.

`import limbeck` loads neither torch nor Transformers, and must not run its own code during an import of theirs, when half of
their modules do not exist yet. So it installs an import finder only. The finder waits for Transformers' table of configurations
and puts a dictionary into it that registers the decoder at the first lookup of its name. Until a limbeck model is loaded,
Transformers is unchanged.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_TABLE, _OURS, _NAME = "transformers.models.auto.configuration_auto", "limbeck.models.auto", "limbeck"


def register_with_transformers() -> None:
    """Arranges that the decoder is registered when Transformers first looks it up, also if it is imported later."""
    if _TABLE in sys.modules:
        _hook(sys.modules[_TABLE])
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _hook(table: ModuleType) -> None:
    mapping = getattr(table, "CONFIG_MAPPING", None)
    extra = getattr(mapping, "_extra_content", None)
    if isinstance(extra, dict) and not isinstance(extra, _Registered):
        mapping._extra_content = _Registered(extra)  # type: ignore[union-attr]


class _Registered(dict[str, Any]):
    """Transformers' table of additional configurations; a lookup of limbeck's registers the decoder."""

    def __contains__(self, name: object) -> bool:
        if name == _NAME and not super().__contains__(name):
            import_module(_OURS)  # registers the decoder, unless it has or is being imported
        return super().__contains__(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


class _Finder(MetaPathFinder):
    """Finds the module of Transformers' table by the other finders, with a loader that hooks into it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _TABLE:
            return None
        others = (finder for finder in list(sys.meta_path) if finder is not self and hasattr(finder, "find_spec"))
        spec = next((found for finder in others if (found := finder.find_spec(fullname, path, target))), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Hooking(spec.loader)
        return spec


class _Hooking(Loader):
    """Loads as ``loader`` does, then hooks into the table."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)  # other methods of file loaders, such as get_source

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        _hook(module)

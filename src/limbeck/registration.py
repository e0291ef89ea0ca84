"""Transformers' Auto classes know limbeck's decoder once both are imported, in either order.

`import limbeck` loads neither torch nor Transformers, and must not run code of ours in the middle of an import of theirs: half
of their modules would not be there yet. So it registers nothing itself. It leaves a finder that sees Transformers' table of
configurations come into being, and puts a dictionary there that registers the decoder when the table is asked for it by name.
Until somebody loads a limbeck model, Transformers is what it is without limbeck.
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
    """Has the decoder registered when Transformers looks for it: from now on, or from when its table is imported."""
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
    """What was registered with Transformers beside its own; asked whether limbeck was, it sees to it."""

    def __contains__(self, name: object) -> bool:
        if name == _NAME and not super().__contains__(name):
            import_module(_OURS)  # registers, if it has not yet, or is not at it
        return super().__contains__(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


class _Finder(MetaPathFinder):
    """Finds Transformers' table as everyone else does, to be told when it has been loaded."""

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
        return getattr(self.loader, name)  # what else a loader of files can do: its source, its data

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        _hook(module)

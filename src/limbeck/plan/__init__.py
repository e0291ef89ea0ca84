"""What a distillation will cost, which teacher it wants, and whether a pair belongs together.

The folder bears the name of the job that uses it, so it can be called as that: `limbeck.plan(params="600M", tokens="10B")`.
"""

import sys
from types import ModuleType
from typing import Any

_PUBLIC = {
    "limbeck.plan.cost": ("Cost", "estimate"),
    "limbeck.plan.finding": ("Finding", "as_json", "check", "show"),
    "limbeck.plan.fit": ("fit_distillation_law", "fit_supervised_law"),
    "limbeck.plan.pair": ("examine", "gain"),
    "limbeck.plan.points": ("Point", "read_points", "write_points"),
    "limbeck.plan.ratio": ("fit_ratio_law",),
    "limbeck.plan.size": ("Size",),
}
_WHERE = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> object:
    """A public name, imported at its first use: the laws need no torch, and `limbeck plan` answers before it would be loaded."""
    if name not in _WHERE:
        raise AttributeError(f"module 'limbeck.plan' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)


class _Called(ModuleType):
    """The folder, which hands a call on to the job of its name: the package has it, a layer above."""

    def __call__(self, **keys: Any) -> dict[str, Any]:
        found: dict[str, Any] = sys.modules["limbeck"]._job("plan")(**keys)
        return found


sys.modules[__name__].__class__ = _Called

"""Planning of a distillation: its cost, the choice of a teacher by scaling laws, and checks of a pair of models."""

_PUBLIC = {
    "limbeck.planning.cost.training": ("Cost", "estimate"),
    "limbeck.planning.checks.finding": ("Finding", "as_json", "check", "show"),
    "limbeck.planning.laws.fit": ("fit_distillation_law", "fit_supervised_law"),
    "limbeck.planning.checks.pair": ("Pair", "PlannedRun", "examine", "gain"),
    "limbeck.planning.laws.points": ("Point", "read_points", "write_points"),
    "limbeck.planning.laws.ratio": ("fit_ratio_law",),
    "limbeck.planning.cost.size": ("Size",),
}
_WHERE = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> object:
    """A public name, imported at its first use: the laws need no torch, and `limbeck plan` is faster without it."""
    if name not in _WHERE:
        raise AttributeError(f"module 'limbeck.planning' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)

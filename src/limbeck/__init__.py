"""limbeck makes a large language model small: plan, shrink, distil, prove."""

import os

# Fresh memory costs more than arithmetic on a CPU: 1.8 GB/s to fault pages in, 8.2 GB/s to reuse them. Huge pages take a
# fifth off a training step. Torch reads this once, so it must stand before torch is imported.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

from limbeck.registration import register_with_transformers

register_with_transformers()

__version__ = "0.1.0"

_PUBLIC = {
    "limbeck.api": ("capture", "distil", "doctor", "pilot", "predict", "pretrain", "probe", "reproduce", "shrink"),
    "limbeck.corpora": ("Rows", "TokenStore", "build_stores"),
    "limbeck.models.auto": ("LimbeckConfig", "LimbeckForCausalLM"),
    "limbeck.models.load": ("LanguageModel", "load", "save"),
    "limbeck.objectives": (
        *("AdaptiveKL", "CTKD", "CrossEntropy", "DKD", "ForwardKL", "JensenShannon", "Objective", "ReverseKL"),
        *("Ramp", "SkewKL", "SkewReverseKL", "TAID", "TotalVariation"),
    ),
    "limbeck.probes.tasks": ("write_task_text",),
    "limbeck.run.run": ("Plan", "Run"),
    "limbeck.run.world": ("World", "alone"),
    "limbeck.students.cut": ("cut",),
    "limbeck.students.score": ("score",),
    "limbeck.students.shape": ("Shape", "choose"),
    "limbeck.types": ("Batch", "Outputs", "Reading", "Signal"),
}
_WHERE = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> object:
    """A public name, imported at its first use: `import limbeck` loads neither torch nor a model."""
    if name not in _WHERE:
        raise AttributeError(f"module 'limbeck' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_WHERE]

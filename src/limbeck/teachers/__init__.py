"""Who teaches, when it is not a model in memory: answers that were computed before, whole or a few outcomes of each."""

from limbeck.teachers.cache import LogitCache, capture_outcomes
from limbeck.teachers.hidden import HiddenStates, capture

__all__ = ["HiddenStates", "LogitCache", "capture", "capture_outcomes"]

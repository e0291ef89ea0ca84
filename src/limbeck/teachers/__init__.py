"""Teachers that are not models in memory: captured hidden states, captured logits, alignments, and servers."""

from limbeck.teachers.cache import LogitCache, capture_outcomes
from limbeck.teachers.hidden import HiddenStates, capture

__all__ = ["HiddenStates", "LogitCache", "capture", "capture_outcomes"]

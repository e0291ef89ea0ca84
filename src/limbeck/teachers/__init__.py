"""Teachers that are not models in memory: captured hidden states, captured logits, alignments, and servers."""

from limbeck.teachers.cache import Coding, LogitCache, capture_outcomes
from limbeck.teachers.hidden import HiddenStates, capture
from limbeck.teachers.rows import NumberedRows

__all__ = ["Coding", "HiddenStates", "LogitCache", "NumberedRows", "capture", "capture_outcomes"]

"""What a distillation will cost, and whether a pair belongs together."""

from limbeck.plan.cost import Cost, Size, estimate
from limbeck.plan.pair import Finding, as_json, check, examine, gain, show

__all__ = ["Cost", "Finding", "Size", "as_json", "check", "estimate", "examine", "gain", "show"]

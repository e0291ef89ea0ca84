"""Students: the shape for a parameter budget, importance scores, structured pruning, and conversion to other mixers."""

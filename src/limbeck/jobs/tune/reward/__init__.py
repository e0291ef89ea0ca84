"""`limbeck tune --reward`: learning from a model's own sampled answers."""

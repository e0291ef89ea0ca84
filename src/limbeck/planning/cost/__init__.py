"""The cost of a model and of a training: parameters, FLOPs, bytes, time."""

"""What a model and a training cost: parameters, FLOPs, bytes, time."""

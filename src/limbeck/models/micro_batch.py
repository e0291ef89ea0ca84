"""The number of tokens that a model computes at once."""

# By device type, for trainings too: enough for efficient matrix products, few enough for small memory.
MICRO_TOKENS = {"cpu": 1024, "cuda": 16384}

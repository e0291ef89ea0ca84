"""Defaults that depend on something else, as values: help says them, and the code that decides takes them from here."""

SHRINK = 2.5  # the law of capacity gap: the best teacher is about 2.5 times its student (arXiv 2311.07052)
SEQ_LEN = {"cpu": 256, "cuda": 1024}  # tokens of a row, by kind of device
STEPS = 400  # of a training
WIDE = 256  # channels from which a CPU with bfloat16 units computes in it
VOCABULARY = 2048  # tokens that `limbeck pretrain` trains
FREE_SHARE = 0.8  # of free memory, for a streamed teacher
WARMUP = 0.05  # of the steps
MASK_WARMUP = 0.67  # of a training, in which the share of masked input rises (arXiv 2403.02178: two thirds)
WEIGHT_DECAY = 0.01
BETAS = (0.9, 0.95)
SAVE_STEPS, SAVE_MINUTES = 200, 10.0  # from one checkpoint to the next, whichever comes first

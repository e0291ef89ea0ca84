"""The criterion of the study values, and its digest: which models read a value back out of real text, by bytes of state.

Fixed before the first run. Decoders of as many parameters (about 0.3M without embeddings) are trained from scratch on the
training modules of Python's standard library, three seeds each. In every second layer all have the same short convolution; the
layers between have attention, linear attention (Based) with 4 or 16 features, a window with no fewer bytes of state than either
of the two (the fewest tokens that do), or Gated DeltaNet. All read the same rows in the same order. "Equal tokens": all read as
many. "Equal FLOPs": each reads as many as cost the FLOPs of attention at equal tokens, by the count of `limbeck plan`.

Each model then reads rows made of text that no model was trained on: entries of the held-out modules ("python"), and of Wikipedia
("wikipedia"), which is another kind of text than that of the training. Rows show names with their values as fields, definitions
or a table, and repeat one name (`limbeck probe --probe values`). What counts is *reading back*: the share of rows whose whole
value is the most probable one, less the same share after the same rows without that entry, which is what a model knows or
guesses. Verdicts are of rows of at most 512 tokens, as long as those of the training, all forms together, drawn once; the rows
are the same for all models. Intervals are 95 %, over the documents that names are asked of, each with all its rows, and over
seeds, which are paired.

context: attention reads back more than a tenth of the values. Confirmed: its whole interval lies above 0.1. Refuted: below.
attention: attention reads back more than every model of fixed state. state: Based with 16 features reads back more than with 4.
window: Based reads back more than the window with no fewer bytes, with 4 features and with 16. Each of these at equal tokens and
at equal FLOPs is confirmed where all its differences lie above 0 by their whole intervals. It is refuted where one is below 0
with a p-value under 0.05 after Holm's correction for the differences of that claim. Inconclusive otherwise, where attention does
not read back more than nothing by its whole interval, where a training of one of its models diverged, and with fewer than three
seeds. Verdicts are not corrected for the number of claims.

The learning rate of each kind of layer is the best of 0.5, 1 and 2 times the usual one by nats per token of training modules that
were left out, in shorter trainings on another seed. Held-out text chooses nothing. Seeds 600 to 602 judge; 590 chose.
"""

import hashlib
from pathlib import Path

import numpy as np

from limbeck.papers.lab.criterion import definitions_digest
from limbeck.probes.interval import FEWEST_SEEDS, Interval, difference_test, holm

ATTENTION, DELTA = "attention", "Gated DeltaNet"
FEW, MANY = "Based, 4 features", "Based, 16 features"
NARROW, WIDE = "window of 13", "window of 145"
SHORT = "conv"
ARMS = {  # the layers, in turn
    ATTENTION: (SHORT, "attention"),
    FEW: (SHORT, "based:4"),
    MANY: (SHORT, "based:16"),
    NARROW: (SHORT, "swa:13"),
    WIDE: (SHORT, "swa:145"),
    DELTA: (SHORT, "gdn"),
}
FIXED = tuple(arm for arm in ARMS if arm != ATTENTION)
WINDOWS = {FEW: NARROW, MANY: WIDE}  # the window with no fewer bytes of state
BUDGETS = ("equal tokens", "equal FLOPs")
SOURCES = ("python", "wikipedia")

PARAMETERS, WIDTH, LAYERS, HEADS, VOCAB = 300_000, 80, 4, 4, 4096
LENGTHS = (128, 256, 512)  # of rows with values; verdicts are of the last, which is also that of the training
LENGTH, ROWS_OF_STEP, STEPS = LENGTHS[-1], 2, 3072
SEEDS, TUNING_SEED, TUNING_STEPS, FACTORS = (600, 601, 602), 590, 768, (0.5, 1.0, 2.0)
ROWS, ROWS_SEED = 96, 600  # of each form and length

LEAST = 0.1  # share of the values that attention should read back
CHANCE = 0.05
PAIRS = {  # of each claim: which reads back more than which
    "attention": [(ATTENTION, arm) for arm in FIXED],
    "state": [(MANY, FEW)],
    "window": [*WINDOWS.items()],
}
CLAIMS = ("context", *(f"{claim}, {budget}" for claim in PAIRS for budget in BUDGETS))
MEASURES = (  # definitions that make rows, score them and give intervals
    "limbeck.corpora.tasks.names",
    "limbeck.corpora.tasks.values",
    "limbeck.probes.values",
    "limbeck.probes.interval:difference_test",
    "limbeck.probes.interval:holm",
)


def digest():
    """The digest of this file, words and code, and of the definitions that make rows, score them and give intervals."""
    parts = Path(__file__).read_bytes() + definitions_digest(MEASURES).encode()
    return hashlib.sha256(parts).hexdigest()[:16]


def steps_at(budget, flops, arm):
    """Steps of an arm; ``flops``: those of a forward pass by arm."""
    return STEPS if budget == BUDGETS[0] else round(STEPS * flops[ATTENTION] / flops[arm])


def back(shown, without, document):
    """Rows that are exact less those that are exact without the entry, summed over the rows of each document."""
    _, number = np.unique(document, return_inverse=True)
    return np.bincount(number, weights=np.asarray(shown, dtype=float) - np.asarray(without, dtype=float))


def rows_of(document):
    """The number of rows of each document."""
    return np.unique(document, return_counts=True)[1].astype(float)


def tested(first, second, rows):
    """(how much larger a share the first reads back, with its interval; the p-value). Both are (seeds, documents)."""
    return difference_test(np.asarray(first), np.asarray(second), np.asarray(rows))


def judged(read, rows, *, diverged=()):
    """Of a source: by claim its verdict, and its differences with their p-values.

    ``read[budget][arm]``: what `back` gives of each seed, (seeds, documents); ``rows``: what `rows_of` gives. ``diverged``: the
    (budget, arm) of which a training diverged.
    """
    attention = read[BUDGETS[0]][ATTENTION]
    share, chance = tested(attention, np.zeros_like(np.asarray(attention)), rows)
    verdict = "inconclusive" if (BUDGETS[0], ATTENTION) in diverged else over(share)
    found = {"context": (verdict if seeds_of(attention) else "inconclusive", {ATTENTION: (share, chance)})}
    for claim, pairs in PAIRS.items():
        for budget in BUDGETS:
            arms = read[budget]
            gains = {f"{a} over {b}": tested(arms[a], arms[b], rows) for a, b in pairs}
            lost = {(budget, arm) for pair in pairs for arm in pair} & set(diverged)
            decides = seeds_of(attention) and share.low > 0 and not lost
            found[f"{claim}, {budget}"] = (more([*gains.values()]) if decides else "inconclusive", gains)
    return found


def seeds_of(read):
    """Whether there are seeds enough to decide."""
    return len(read) >= FEWEST_SEEDS


def over(share: Interval):
    """The verdict on a share that should be over `LEAST`."""
    return "confirmed" if share.low > LEAST else "refuted" if share.high < LEAST else "inconclusive"


def more(gains):
    """The verdict on differences, each (interval, p-value), that should all be above 0."""
    chances = holm([chance for _, chance in gains])
    if any(one.value < 0 and chance < CHANCE for (one, _), chance in zip(gains, chances, strict=True)):
        return "refuted"
    return "confirmed" if all(one.low > 0 for one, _ in gains) else "inconclusive"

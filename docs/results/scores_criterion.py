"""The criterion of the study scores, and its digest: which importance scores a pruned student should be chosen by.

Fixed before the first run. Three teachers are pruned to one shape each: half of the layers, and heads, channels and neurons as
even as fill the budget. Which units stay is chosen by pairs of scores: activation, gradient or wanda for what is inside layers,
with influence, angular or greedy for layers. Random scores of both are the control, drawn anew for each seed. All students of a
teacher have as many parameters, and learn as many tokens from the same captured logits, by forward KL at the usual rate.

Order before training says little about order after it, so three pairs are kept and not one: after a quarter of the tokens, on a
seed of its own, the three with the lowest training loss in its last quarter, as the mean over teachers of the difference to the
random student's. Held-out text chooses nothing. These three, activation with influence (the default of `limbeck distil`) and the
control are then trained on all tokens, three seeds. Losses are nats per token of held-out documents that no student was trained
on. Intervals are 95 %, over documents and seeds, which are paired.

first, second, third: the pair that was placed so is better than random scores. default: the default is. other: the pair that was
placed highest, the default left out, is better than the default. Confirmed, refuted and inconclusive are those of the study
shapes: better by the whole interval with two teachers or more, and worse with none by a p-value under 0.05 after Holm's
correction; worse by the whole interval with two or more; else, and with fewer than three seeds, inconclusive.

What follows: where "other" is confirmed, its pair becomes the default. Otherwise the default stays. Without a claim: how the
order of all pairs before training agrees with that after the shorter trainings, as a rank correlation on held-out text.

Seeds 720 to 722 judge; 710 chose. Two teachers have five layers. With them two of three layers go, so that little is said about
scores of layers.
"""

import hashlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import shapes_criterion
from scipy.stats import spearmanr
from shapes_criterion import compared, filling, judged

from limbeck.students.shape import Budget, Shape

METHODS, DEPTHS = ("activation", "gradient", "wanda"), ("influence", "angular", "greedy")
RANDOM, DEFAULT = "random", "activation + influence"
PAIRS = tuple(f"{method} + {depth}" for method in METHODS for depth in DEPTHS)
CLAIMS = {
    "first": "The scores placed first by short trainings are better than random ones",
    "second": "The scores placed second are better than random ones",
    "third": "The scores placed third are better than random ones",
    "default": "The default scores are better than random ones",
    "other": "The best other scores are better than the default",
}
KEPT = ("first", "second", "third")
SHARES = {"stdlib": 0.5, "stories": 0.5, "SmolLM2": 0.15}  # of the teacher's parameters
TOKENS = {"stdlib": 102_400, "stories": 102_400, "SmolLM2": 40_960}
TEACHERS = tuple(SHARES)
SHORT = 0.25  # of the tokens
LENGTH, ROWS_OF_STEP, SAMPLE, GREEDY_SAMPLE = 256, 8, 16, 4  # the last two: rows on which importance is scored
SEEDS, TUNING_SEED = (720, 721, 722), 710


def digest():
    """The digest of this file, words and code, and of the criterion of shapes, by which it judges."""
    parts = Path(__file__).read_bytes() + shapes_criterion.digest().encode()
    return hashlib.sha256(parts).hexdigest()[:16]


def shape_of(anatomy, share):
    """The student's shape: half of the layers, rounded up, and the rest as even as fills the share of parameters."""
    full = Shape.of_anatomy(anatomy)
    points = filling(anatomy, Budget(int(share * anatomy.count(**asdict(full)))))
    points = points[:, points[0] == -(-full.layers // 2)]
    _, hidden, heads, _, ffn = points
    of = [np.log(axis / getattr(full, name)) for axis, name in ((hidden, "hidden"), (heads, "heads"), (ffn, "ffn"))]
    first = np.lexsort((-hidden, np.var(of, axis=0)))[0]
    return Shape(*(int(axis[first]) for axis in points))


def tokens_of(name, share=1.0):
    """Tokens of a student in whole steps."""
    step = LENGTH * ROWS_OF_STEP
    return max(1, round(share * TOKENS[name] / step)) * step


def placed(losses):
    """All pairs, the best first, from training losses by teacher and pair, and each one's mean difference to random."""
    gains = {pair: float(np.mean([one[RANDOM] - one[pair] for one in losses.values()])) for pair in PAIRS}
    return dict(sorted(gains.items(), key=lambda item: -item[1]))


def kept(order):
    """The pairs of the claims by their names; ``order``: all pairs, the best first."""
    first = list(order)
    return dict(zip(KEPT, first, strict=False)) | {
        "other": next(pair for pair in first if pair != DEFAULT),
        "default": DEFAULT,
    }


def verdicts(levels, chosen):
    """By claim: the verdict and, by teacher, (the difference with its interval, the p-value), from measurements of each seed.

    ``levels``: measurements by teacher and pair; ``chosen``: the pair of each claim.
    """
    found = {}
    for claim in CLAIMS:
        base = DEFAULT if claim == "other" else RANDOM
        gains = {name: compared(one[base], one[chosen[claim]]) for name, one in levels.items()}
        seeds = min(len(arm) for one in levels.values() for arm in one.values())
        found[claim] = judged([*gains.values()], seeds), gains
    return found


def default(found, chosen):
    """The pair that follows."""
    return chosen["other"] if found["other"][0] == "confirmed" else DEFAULT


def agreement(before, after):
    """The rank correlation of losses by pair before a training and after it."""
    pairs = (RANDOM, *PAIRS)
    return float(spearmanr([before[pair] for pair in pairs], [after[pair] for pair in pairs]).statistic)

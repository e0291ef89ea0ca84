"""The criterion of the study shapes, and its digest: which axes of a teacher a pruned student should give up.

Fixed before the first run. Three teachers are pruned to half of their parameters, by four rules that fill the same budget:

even: every axis shrinks by about the same ratio, the default of `limbeck distil`.
width: all layers stay; channels, heads and neurons shrink by about the same ratio.
depth: as few layers as fill the budget; channels, heads and neurons stay as they are as far as they fit.
neurons: layers, channels and heads stay, in this order, as far as they fit; the neurons of MLPs fill the rest.

Units are chosen by activation, as by default. Each student then learns from its teacher's logits by forward KL. Three seeds, each
with a start of its own: its units are chosen on another sample of the text.
"Equal tokens": all read as many. "Equal FLOPs": each reads as many as cost the training FLOPs of the even student at equal
tokens, forward and backward passes of the student alone. Losses are nats per token of held-out documents that no student was
trained on, on the same tokens for all students of a teacher. Intervals are 95 %, over documents and seeds, which are paired.

A claim for each other rule and each budget: it is better than even. Confirmed: its loss is lower, by the whole interval, with two
teachers or more, and with none it is higher with a p-value under 0.05 after Holm's correction for the three teachers. Refuted:
its loss is higher, by the whole interval, with two teachers or more. Inconclusive otherwise, and with fewer than three seeds.

What follows: a rule of which both claims are confirmed becomes the default of `limbeck distil`; of several, the one that has the
lower loss at equal tokens in the mean over teachers. Otherwise the default stays.

The learning rate of each rule and teacher is the best of 0.5, 1 and 2 times the usual one, by the mean training loss of the last
quarter of shorter trainings on another seed. Held-out text chooses nothing. Seeds 730 to 732 judge; 690 chose. Two runs were seen
before, and judge nothing: with seeds 700 to 702 losses at equal FLOPs were compared on unlike tokens, and there and with seeds
710 to 712 all seeds had one start, whose choice moved losses by more than training did. Teachers are of 0.26M to 1M parameters
and five layers each, so that little is said about deep ones.
"""

import hashlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
from arms import require_same_tokens

from limbeck.papers.lab.criterion import definitions_digest
from limbeck.planning.cost.size import Size
from limbeck.probes.interval import FEWEST_SEEDS, difference_test, holm
from limbeck.students.shape import Budget, Grid, Shape, Widths, anatomy_of, balanced_within

EVEN, OTHERS = "even", ("width", "depth", "neurons")
RULES = (EVEN, *OTHERS)
BUDGETS = ("equal tokens", "equal FLOPs")
CLAIMS = tuple(f"{rule}, {budget}" for rule in OTHERS for budget in BUDGETS)
TEACHERS = ("stdlib", "stories", "stories, GPT-2")
SHARE = 0.5  # of the teacher's parameters
FILLED = 0.94  # of the budget, at least
LENGTH, ROWS_OF_STEP, TOKENS = 256, 8, 102_400
SEEDS, TUNING_SEED, TUNING_TOKENS, FACTORS = (730, 731, 732), 690, 51_200, (0.5, 1.0, 2.0)
CHANCE, MOST = 0.05, 2  # of a p-value; of teachers that decide
MEASURES = ("limbeck.probes.interval:difference_test", "limbeck.probes.interval:holm")


def digest():
    """The digest of this file, words and code, and of the definitions that give intervals."""
    parts = Path(__file__).read_bytes() + definitions_digest(MEASURES).encode()
    return hashlib.sha256(parts).hexdigest()[:16]


def shapes_of(anatomy):
    """The student's shape of a teacher by each rule."""
    full = Shape.of_anatomy(anatomy)
    budget = Budget(int(SHARE * anatomy.count(**asdict(full))))
    points = filling(anatomy, budget)
    layers, hidden, heads, _, ffn = points
    of = [np.log(axis / getattr(full, name)) for axis, name in ((hidden, "hidden"), (heads, "heads"), (ffn, "ffn"))]
    uneven = np.var(of, axis=0)
    order = {
        "width": (uneven, -layers),
        "depth": (-ffn, -heads, -hidden, layers),
        "neurons": (-ffn, -heads, -hidden, -layers),
    }
    found = {EVEN: balanced_within(anatomy, budget)}
    for rule, keys in order.items():  # the last key counts first
        first = np.lexsort(keys)[0]
        found[rule] = Shape(*(int(axis[first]) for axis in points))
    return found


def filling(anatomy, budget):
    """The axes of all legal shapes that fill the budget: layers, hidden, heads, kv heads, neurons."""
    widths, full = Widths(), Shape.of_anatomy(anatomy)
    grid = Grid.of(anatomy, 1.0, float("inf"), widths)
    group = full.heads // full.kv_heads
    parts = []
    for ffn in widths.up_to(full.ffn):
        count = budget.count(anatomy, **grid.axes, ffn=ffn)
        legal = grid.legal & (count <= budget.most) & (count >= FILLED * budget.most)
        index = np.nonzero(legal & (grid.heads == group * grid.kv_heads))  # groups of query heads stay whole
        axes = grid.among(index)
        parts.append(
            np.stack(
                [axes[name] for name in ("layers", "hidden", "heads", "kv_heads")] + [np.full(index[0].shape, ffn)]
            )
        )
    return np.concatenate(parts, axis=1)


def training_flops(anatomy, shape):
    """FLOPs of a token in the training of a student of this shape, its own passes alone."""
    size = Size.of_anatomy(anatomy_of(shape, anatomy))
    return size.forward_flops(LENGTH) + size.backward_flops(LENGTH)


def tokens_at(budget, flops, rule):
    """Tokens of a student in whole steps; ``flops``: of a token, by rule."""
    step = LENGTH * ROWS_OF_STEP
    tokens = TOKENS if budget == BUDGETS[0] else TOKENS * flops[EVEN] / flops[rule]
    return max(1, round(tokens / step)) * step


def compared(even, other):
    """(nats per token by which the other is better, with its interval; the p-value), of measurements of each seed."""
    require_same_tokens(even, other)
    less, more = (np.stack([one.nats for one in runs]) for runs in (other, even))
    return difference_test(more, less, even[0].tokens)


def judged(gains, seeds):
    """The verdict on a rule, from `compared` with each teacher."""
    chances = holm([chance for _, chance in gains])
    better, worse = (sum(side(one) for one, _ in gains) for side in (lambda one: one.low > 0, lambda one: one.high < 0))
    surely_worse = any(one.value < 0 and chance < CHANCE for (one, _), chance in zip(gains, chances, strict=True))
    if seeds < FEWEST_SEEDS:
        return "inconclusive"
    if worse >= MOST:
        return "refuted"
    return "confirmed" if better >= MOST and not surely_worse else "inconclusive"


def default(verdicts, gains):
    """The rule that follows from the verdicts by claim; ``gains``: of each rule the mean over teachers at equal tokens."""
    both = [rule for rule in OTHERS if all(verdicts[f"{rule}, {budget}"] == "confirmed" for budget in BUDGETS)]
    return max(both, key=gains.__getitem__, default=EVEN)

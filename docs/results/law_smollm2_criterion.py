"""The criterion of the study law-smollm2, and its digest: one rung of the capacity-gap ladder with a real teacher at its top.

Fixed before the first run. Students of one shape, about 10M parameters, are distilled from a ladder of teachers on children's
stories. The largest teacher is SmolLM2-135M-Instruct with its vocabulary trimmed to that of the stories, 112M parameters; those
of about 16M, 25M and 45M are pruned out of it. All four are healed: trained on as many tokens of one half of the stories, by half
cross-entropy and half forward KL from the unhealed one. Students read the other half, which no teacher was trained on, in logits
that each teacher computes once. The unhealed SmolLM2 is a fifth teacher, beside the ladder.

All losses are nats per token of that vocabulary on the same held-out stories, which nothing was trained on. Intervals are 95 %
over held-out stories and three seeds, and the seeds of two teachers are paired. They are not corrected, but for the choice of a
teacher inside the ladder.

Three arms. "same start, equal tokens": one model pruned out of the unhealed SmolLM2 is the start of all students, and they train
on as many tokens, two epochs. "pruned, equal tokens": each student is pruned out of its own teacher, which is the paper's arm.
"same start, equal FLOPs": students have as many FLOPs as that of the smallest teacher at equal tokens, and the teacher's one pass
over the stories that a student reads is paid out of them. FLOPs of the teachers' own training are not counted.

valley, in each arm: a teacher inside the ladder (25M or 45M) is better than both ends. Confirmed: for one of the two, twice the
larger p-value of its two differences is below 0.05, with both differences on its side. Refuted: a plateau, which is all six
differences of the ladder within 0.01 nats by their whole intervals, or an end of the ladder that is better than both teachers
inside by whole intervals. Inconclusive otherwise.

plan, in each arm: the planned teacher, of 2.5 times the student's parameters (25M), is as good as any of the ladder within 0.01
nats. Confirmed: no other teacher is better by more, by whole intervals. Refuted: one is better by more, by its whole interval.
Inconclusive otherwise.

healing: at equal tokens from the same start, the healed SmolLM2 makes better students than the unhealed one.
text, equal tokens: the planned teacher makes better students than cross-entropy on as many tokens, from the same start.
text, equal FLOPs: with equal FLOPs it makes better students than cross-entropy on as many FLOPs, and than cross-entropy at equal
tokens, which costs fewer. Each of these three is confirmed where all its intervals lie above 0, refuted where one lies below.

The learning rate is one for all students: the best of 0.001, 0.002 and 0.004 by the mean over students of both ends of the
ladder, 200k tokens from the same start with another seed and the same held-out stories. Where the two ends alone would choose
different ones, and one loses more than 0.01 nats by the common one, valley and plan are inconclusive.
"""

import hashlib
from itertools import combinations
from pathlib import Path

LADDER = ("16m", "25m", "45m", "111m")  # from the smallest to the largest
PLANNED, INSIDE, ENDS = "25m", ("25m", "45m"), ("16m", "111m")
ARMS = ("same start, equal tokens", "pruned, equal tokens", "same start, equal FLOPs")
MARGIN = 0.01  # nats per token that do not matter
CHANCE = 0.05
RATES = (1e-3, 2e-3, 4e-3)


def digest():
    """The digest of this file, words and code, in its first 16 hexadecimal digits."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]


def shape(better):
    """Valley, plateau, falling (the largest is best), rising (the smallest is) or undecided.

    ``better[a, b]``: (difference, p-value) by how many nats per token students of teacher a are better than those of b.
    """
    for one in INSIDE:
        found = [better[one, end] for end in ENDS]
        if all(gain.value > 0 for gain, _ in found) and len(INSIDE) * max(chance for _, chance in found) < CHANCE:
            return "valley"
    if all(within(better[pair][0]) for pair in combinations(LADDER, 2)):
        return "plateau"
    smallest, largest = (all(better[end, one][0].low > 0 for one in INSIDE) for end in ENDS)
    return "rising" if smallest else "falling" if largest else "undecided"


def within(gain):
    """Whether a whole interval lies within the margin."""
    return gain.low > -MARGIN and gain.high < MARGIN


def valley(better, *, doubt=False):
    """The verdict on a valley in an arm; ``doubt``: one learning rate does not suit both ends."""
    found = shape(better)
    if doubt or found == "undecided":
        return "inconclusive"
    return "confirmed" if found == "valley" else "refuted"


def plan(better, *, doubt=False):
    """The verdict on the planned teacher in an arm."""
    others = [better[one, PLANNED][0] for one in LADDER if one != PLANNED]
    if doubt:
        return "inconclusive"
    if any(gain.low > MARGIN for gain in others):
        return "refuted"
    return "confirmed" if all(gain.high < MARGIN for gain in others) else "inconclusive"


def common_rate(tried):
    """(the learning rate of all students, whether it does not suit both ends). ``tried[end][rate]``: nats per token."""
    chosen = min(RATES, key=lambda rate: sum(tried[end][rate] for end in ENDS))
    lost = [tried[end][chosen] - min(tried[end].values()) for end in ENDS]
    return chosen, max(lost) > MARGIN

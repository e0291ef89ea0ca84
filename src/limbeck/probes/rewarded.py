"""How a reward judges a model's answers to held-out prompts: sampled from its own distribution, and greedy ones.

Prompts are the sampling unit of all intervals. Sampled answers show what a policy gradient changes; the greedy one is what a user
gets who wants one answer. A training that only makes the likely likelier raises the first and not the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from limbeck.probes.interval import Interval, bootstrap, difference_test, uncertain, wilson
from limbeck.probes.kept import Kept
from limbeck.types import Reading

# Name, unit, what is summed, and what that is divided by
_READINGS = (
    ("reward", "reward", "reward", "samples"),
    ("passed", "share", "passed", "samples"),
    ("greedy_reward", "reward", "greedy_reward", "prompts"),
    ("greedy_passed", "share", "greedy_passed", "prompts"),
    ("answer_tokens", "tokens/answer", "tokens", "samples"),
    ("unfinished", "share", "unfinished", "samples"),
    ("answer_entropy", "nats/token", "entropy", "tokens"),
    ("kl_start", "nats/answer", "kl", "samples"),
)


@dataclass(frozen=True, eq=False)
class Rewarded(Kept):
    """A model's answers to each held-out prompt: sums over ``samples``, and the greedy answer.

    ``reward`` and whether all checks ``passed``; ``tokens``, their ends among them; how many are ``unfinished``; entropies of the
    model at these tokens, and log q - log q0 of the answers (``kl``), in nats.
    """

    samples: Float[np.ndarray, " prompts"]
    reward: Float[np.ndarray, " prompts"]
    passed: Float[np.ndarray, " prompts"]
    tokens: Float[np.ndarray, " prompts"]
    unfinished: Float[np.ndarray, " prompts"]
    entropy: Float[np.ndarray, " prompts"]
    kl: Float[np.ndarray, " prompts"]
    greedy_reward: Float[np.ndarray, " prompts"]
    greedy_passed: Float[np.ndarray, " prompts"]

    @property
    def prompts(self) -> Float[np.ndarray, " prompts"]:
        """One for each prompt."""
        return np.ones_like(self.samples)


def rewarded(model: str, runs: Sequence[Rewarded], *, seed: int | None = None) -> list[Reading]:
    """Readings of a model trained with several seeds, or of one of them, ``seed``. n counts prompts."""
    found = []
    for name, unit, summed, over in _READINGS:
        sums, counts = (np.stack([getattr(run, key) for run in runs]) for key in (summed, over))
        one = _ratio(sums, counts, share=unit == "share")
        found.append(Reading(model, "reward", name, one.value, unit, one.n, one.low, one.high, seed))
    return found


def gained(ours: Sequence[Rewarded], theirs: Sequence[Rewarded], name: str, over: str) -> tuple[Interval, float]:
    """By how much more a model has of ``name`` for each of ``over``, seed by seed, with the probability by chance."""
    count = len(ours) if len(theirs) == 1 else min(len(ours), len(theirs))
    others = [*theirs] * count if len(theirs) == 1 else theirs
    own, other = (np.stack([getattr(run, name) for run in runs[:count]]) for runs in (ours, others))
    return uncertain(*difference_test(own, other, getattr(ours[0], over)))


def _ratio(
    sums: Float[np.ndarray, "seeds prompts"], counts: Float[np.ndarray, "seeds prompts"], *, share: bool
) -> Interval:
    n = sums.shape[1]
    if share and sums.sum() in (0, counts.sum()):  # which resampling shows no spread of
        return wilson(n if sums.sum() else 0, n)
    found = bootstrap(lambda total: total[..., :1] / total[..., 1:], np.stack([sums, counts], -1))[0]
    return found.within(0.0, 1.0) if share else found

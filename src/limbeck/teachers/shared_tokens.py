"""A teacher with another tokenizer as a distribution over the student's tokens, where both spell the next token alike.

Where the next token of the text has the same bytes in both tokenizers, and both models have read the same bytes before it, the
teacher's largest probabilities are those of the student's tokens with the same spelling; the mass of all others is the rest. At
all other positions the target is the token of the text itself. This is what Fu et al. do with the five probabilities that their
teacher's API returns (arXiv 2301.12726, sec. 3); there both texts are matched by dynamic time warping over the edit distance of
tokens, here exactly, by bytes. With the same tokenizer on both sides the target is that of captured top-k logits.

The rest is the teacher's mass on tokens that the student cannot write as one, too, while the student has its mass on the first
of several tokens there, so the two are not quite of the same outcomes.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer

from limbeck.host import sent
from limbeck.teachers.alignment import AlignedTeacher
from limbeck.types import Batch, Sparse

_LEAST = 2.0**-24  # of the rest: divergences that divide by it stay finite, and float32 tells no less from 1


class SharedTokensTeacher:
    """A `limbeck.types.Teacher` for the rows of a student with another tokenizer; ``vocab`` is the size of that.

    ``same`` (teacher's vocabulary,) is the student's token with the spelling of each of the teacher's, -1 for none; no token
    stands there twice. ``largest`` (positions, k) are the teacher's largest probabilities at its own positions, and ``tokens``
    have them.
    """

    def __init__(
        self,
        aligned: AlignedTeacher,
        *,
        vocab: int,
        same: Int64[np.ndarray, " theirs"],
        largest: Float[np.ndarray, "positions k"],
        tokens: Integer[np.ndarray, "positions k"],
    ) -> None:
        self.name, self.facts, self.vocab = aligned.name, aligned.facts, vocab
        self._aligned, self._same, self._largest, self._tokens = aligned, same, largest, tokens

    def __call__(self, batch: Batch) -> Sparse:
        """The student's tokens that the teacher finds most probable, and the rest; one token where nothing is shared."""
        positions = self._aligned.positions(batch)
        target = batch.targets.reshape(-1)
        n, k = len(positions), self._largest.shape[-1]
        p, ids = np.zeros((n, k), np.float32), np.zeros((n, k), np.int64)
        there = np.flatnonzero(positions >= 0)
        found, its = shared(self._largest[positions[there]], self._tokens[positions[there]], self._same)
        some = found[:, 0] > 0
        p[there[some]], ids[there[some]] = found[some], its[some]
        alone = sent(torch.from_numpy(p[:, 0] == 0), target.device)[:, None]
        first = torch.arange(k, device=target.device) == 0
        weight = torch.where(alone, first.float(), sent(torch.from_numpy(p), target.device))
        own = torch.where(alone, target[:, None], sent(torch.from_numpy(ids), target.device))
        rest = (1 - weight.double().sum(-1)).clamp(min=_LEAST).float()
        return Sparse(own, weight.log(), weight, self.vocab, rest.log())


def shared(
    largest: Float[np.ndarray, "n k"], tokens: Integer[np.ndarray, "n k"], same: Int64[np.ndarray, " theirs"]
) -> tuple[Float[np.ndarray, "n k"], Int64[np.ndarray, "n k"]]:
    """The teacher's probabilities of tokens that the student has, and these tokens, first; then probability 0 at one of them."""
    mapped = np.where(largest > 0, same[tokens], -1)
    has = mapped >= 0
    order = np.argsort(~has, axis=-1, kind="stable")
    p = np.take_along_axis(np.where(has, largest, 0).astype(np.float32), order, -1)
    ids = np.take_along_axis(mapped, order, -1)
    return p, np.where(ids >= 0, ids, np.maximum(ids[:, :1], 0))

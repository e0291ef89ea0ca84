"""Rows whose learned tokens are corrupted where a student reads them, while it predicts the true ones (masked thought).

A share of the tokens of answers is replaced in the input, at random or by one token; prompts are never. The targets stay as they
are, and so does what a teacher reads (Chen et al., arXiv 2403.02178, sec. 2). It is a regulariser against learning answers by
heart, for a few hundred to some thousand rationales, at no cost of inference.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from limbeck.config.defaults import MASK_WARMUP
from limbeck.corpora.pack import Rows
from limbeck.corpora.store import TokenStore
from limbeck.errors import BadCorpus, BadSetting
from limbeck.types import Batch, ModelInputs

_STREAM = 0x6D61736B  # apart from other random numbers of a run's seed


@dataclass(frozen=True)
class Masking:
    """Which share of learned tokens is replaced: it rises linearly to ``share`` over the first ``rising`` rows.

    ``token`` takes their place; None for uniform ones below ``vocab``. Raises BadSetting for a share below 0 or of 1 and more,
    and for a token outside the vocabulary.
    """

    share: float
    vocab: int
    token: int | None = None
    rising: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise BadSetting(
                f"--mask-input: expected a share from 0 to below 1, got {self.share:g}: with all tokens of an answer masked "
                "nothing is left to reason from; 0.1 to 0.4 are usual"
            )
        if self.token is not None and not 0 <= self.token < self.vocab:
            raise BadSetting(
                f"--mask-input: expected a mask token below the vocabulary of {self.vocab:,}, got {self.token}: give the ID of "
                "one of its tokens, or token=random"
            )

    def at(self, row: int) -> float:
        """The share at a row of the training."""
        return self.share * min(1.0, row / self.rising) if self.rising else self.share


@dataclass(frozen=True)
class MaskInput:
    """A masking as a setting has it: the ``share``, what replaces tokens, and over which part of a training the share rises."""

    share: float
    token: int | None = None
    warmup: float = MASK_WARMUP

    @classmethod
    def of(cls, text: str) -> MaskInput:
        """Reads the text of a setting: "0.4", "0.4,token=3", "0.4,warmup=0"."""
        share, *options = text.split(",")
        named = dict(option.split("=") for option in options)
        token = named.get("token", "random")
        return cls(float(share), None if token == "random" else int(token), float(named.get("warmup", MASK_WARMUP)))

    def over(self, rows: int, *, vocab: int) -> Masking:
        """The same for a training of so many rows. Raises BadSetting for a token outside the vocabulary."""
        return Masking(self.share, vocab, self.token, round(self.warmup * rows))


class NumberedRows(Protocol):
    """A corpus whose position is the number of rows that all ranks together have taken, under the key row."""

    length: int
    seed: int
    rank: int
    ranks: int

    def take(self, rows: int) -> Batch: ...
    def documents(self, rows: int) -> list[str]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass
class MaskedInputs:
    """A `Corpus`: the rows of ``rows`` with corrupted inputs for the student, by ``how``.

    What is replaced depends on the seed and the place of a row in the training, not on batches, ranks or where a run was
    continued; each epoch has other replacements. A sequence that is learned from its first token has no prompt, and is left as it
    is (`require_prompts` refuses text of nothing else). Measurements take the plain rows.
    """

    rows: NumberedRows
    how: Masking
    length: int = field(init=False)
    seed: int = field(init=False)
    rank: int = field(init=False)
    ranks: int = field(init=False)

    def __post_init__(self) -> None:
        self.length, self.seed, self.rank, self.ranks = (
            self.rows.length,
            self.rows.seed,
            self.rows.rank,
            self.rows.ranks,
        )

    @property
    def n_rows(self) -> int:
        """The number of rows in an epoch, of the rows of a store."""
        assert isinstance(self.rows, Rows), "other rows have no epochs"
        return self.rows.n_rows

    def take(self, rows: int) -> Batch:
        """This rank's part of the next ``rows`` global rows."""
        first = int(self.rows.state_dict()["row"])
        batch = self.rows.take(rows)
        places = range(first, first + rows)[self.rank :: self.ranks]
        if not any(self.how.at(place) for place in places):
            return batch
        own = batch.for_student()
        tokens, can = own.tokens.clone(), answer_inputs(batch)
        for row, place in enumerate(places):
            random = np.random.default_rng([_STREAM, self.seed, place])
            masked = can[row] & torch.from_numpy(random.random(self.length) < self.how.at(place))
            tokens[row, masked] = self._replacement(random)[masked]
        return replace(batch, student_inputs=ModelInputs(tokens, own.position, own.document))

    def documents(self, rows: int) -> list[str]:
        """Names of the documents with weight in the last ``rows`` rows."""
        return self.rows.documents(rows)

    def state_dict(self) -> dict[str, Any]:
        """The position in the rows."""
        return self.rows.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues at a saved position."""
        self.rows.load_state_dict(state)

    def _replacement(self, random: np.random.Generator) -> Int[Tensor, " T"]:
        """What replaces the token at each position, if it is."""
        if self.how.token is not None:
            return torch.full((self.length,), self.how.token)
        return torch.from_numpy(random.integers(self.how.vocab, size=self.length))


def answer_inputs(batch: Batch) -> Bool[Tensor, "B T"]:
    """The input tokens that are themselves learned: the target of the position before, in the same document, with weight.

    None of a sequence that is learned from its first token.
    """
    found = torch.zeros_like(batch.weight, dtype=torch.bool)
    follows = (batch.position[:, 1:] > 0) & (batch.document[:, 1:] == batch.document[:, :-1])
    found[:, 1:] = follows & (batch.weight[:, :-1] > 0)
    sequence = batch.sequence
    begins = sequence.flatten().diff(prepend=sequence.new_full((1,), -1)) > 0
    prompted = batch.weight.flatten()[begins] == 0
    return found & prompted[sequence]


def require_prompts(store: TokenStore) -> None:
    """Raises BadCorpus for a text of which every token is learned: it has no prompts, and all of it would be corrupted."""
    if store.learns_all:
        raise BadCorpus(
            f"--mask-input: expected documents with a prompt and an answer, got text in {store.folder} that is learned from its "
            "first token, of which all would be corrupted: give conversations or prompts with completions, or leave it out"
        )

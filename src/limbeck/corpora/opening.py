"""The token that documents begin with, chosen by measurement.

A tokenizer's bos is what its makers wrote down, not always what the model was trained on. An instructed model may name the
token that opens a turn, although plain texts began with ``<|endoftext|>``. The loss of a few documents tells.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from jaxtyping import Float

from limbeck.corpora.tokenizer import Frame, document_tokens
from limbeck.models.language_model import LanguageModel

SEPARATORS = ("<|endoftext|>", "<|end_of_text|>")  # by which many models' pretraining texts were separated
NONE = "none"
_DOCUMENTS, _TOKENS, _FEWEST = 16, 64, 4
_CHARACTERS = 64 * _TOKENS  # of a document that are tokenised
_SURE = 2.0  # standard errors by which another token must be better than the declared one

Loss = Callable[[Sequence[Sequence[int]]], Sequence[Float[np.ndarray, " n"]]]


@dataclass(frozen=True)
class Opening:
    """The token that documents begin with, None for none, and the nats a token of each candidate, where they were measured.

    ``error`` is the standard error of the difference between the chosen and the declared token, ``documents`` how many were read.
    """

    token: str | None
    declared: str | None
    nats: dict[str, float]
    error: float = 0.0
    documents: int = 0

    @property
    def sentence(self) -> str:
        """What was measured, in words."""
        measured = ", ".join(
            f"{name} {value:.3f}" for name, value in sorted(self.nats.items(), key=lambda item: item[1])
        )
        kept = "as" if self.token == self.declared else f"not with {_named(self.declared)} as"
        return (
            f"plain documents begin with {_named(self.token)}, {kept} the tokenizer says; nats a token in the first {_TOKENS} of "
            f"{self.documents} documents: {measured}"
        )


def _named(token: str | None) -> str:
    return NONE if token is None else repr(token)


def candidates(model: LanguageModel) -> list[str | None]:
    """What documents of a model may begin with, the declared token first.

    Only the declared one where nothing speaks for another: its configuration and generation settings name no other special token,
    and its vocabulary has no separator of documents.
    """
    tokenizer = model.tokenizer
    declared: str | None = tokenizer.bos_token
    special = set(tokenizer.all_special_tokens)
    generation = model.model.generation_config
    ids = [getattr(model.config, "bos_token_id", None), getattr(generation, "bos_token_id", None)]
    known = [tokenizer.convert_ids_to_tokens(i) for i in ids if isinstance(i, int) and 0 <= i < model.vocab]
    others = [token for token in dict.fromkeys([*known, *SEPARATORS]) if token in special and token != declared]
    if not others:
        return [declared]
    return list(dict.fromkeys([declared, *others, None]))


def measure(model: LanguageModel, texts: Sequence[str], loss: Loss) -> Opening:
    """The best opening of plain ``texts``; the declared one where nothing else is better by two standard errors.

    ``loss`` gives the nats of each token behind the first of some rows. All candidates are compared on the same tokens, those
    behind the first of each document, since nothing predicts that one where documents begin with none.
    """
    declared = model.tokenizer.bos_token
    tried = candidates(model)
    if len(tried) == 1 or len(texts) < _FEWEST:
        return Opening(declared, declared, {})
    begun = [text[:_CHARACTERS] for text in texts[:_DOCUMENTS]]
    rows = [row[:_TOKENS] for row in document_tokens(model.tokenizer, begun, frame=Frame(None, None))]
    openings = set(map(model.tokenizer.convert_tokens_to_ids, filter(None, tried)))
    rows = [row[1:] if row[:1] and row[0] in openings else row for row in rows]  # a text that has one already
    rows = [row for row in rows if len(row) > 2]
    if len(rows) < _FEWEST:
        return Opening(declared, declared, {})
    found = _nats(model, rows, tried, loss)
    sizes = np.array([len(row) - 1 for row in rows])
    means = {token: float(nats.sum() / sizes.sum()) for token, nats in found.items()}
    errors = {token: _error(nats - found[declared], sizes) for token, nats in found.items()}
    better = {t: m for t, m in means.items() if means[declared] - m > _SURE * errors[t] and errors[t] < inf}
    best = min(better, key=lambda token: better[token], default=declared)
    return Opening(best, declared, {_named(t): m for t, m in means.items()}, errors[best], len(rows))


def _nats(
    model: LanguageModel, rows: Sequence[list[int]], tried: Sequence[str | None], loss: Loss
) -> dict[str | None, Float[np.ndarray, " documents"]]:
    """For each opening the nats of each document's tokens behind its first. All are asked for together."""
    opening = {token: [] if token is None else [model.tokenizer.convert_tokens_to_ids(token)] for token in tried}
    nats = iter(loss([[*opening[token], *row] for token in tried for row in rows]))
    return {token: np.array([float(next(nats)[len(opening[token]) :].sum()) for _ in rows]) for token in tried}


def _error(differences: Float[np.ndarray, " documents"], sizes: np.ndarray) -> float:
    """Standard error of the mean difference a token, over documents (ratio estimator)."""
    mean = differences.sum() / sizes.sum()
    residuals = differences - mean * sizes
    n = len(sizes)
    return float(np.sqrt(n / (n - 1) * (residuals**2).sum()) / sizes.sum())


def begin_with(model: LanguageModel, token: str | None) -> None:
    """Lets documents of a model begin with a token, in place: its tokenizer and settings, with which students are saved.

    Conversations stay as they are: a chat template that writes the declared token goes on writing it.
    """
    tokenizer = model.tokenizer
    declared = tokenizer.bos_token
    if token == declared:
        return
    template = tokenizer.chat_template
    if declared is not None and isinstance(template, str) and "bos_token" in template:
        tokenizer.chat_template = "{%- set bos_token = " + json.dumps(declared) + " -%}" + template
    tokenizer.bos_token = token
    for settings in (model.config, model.model.generation_config):
        if settings is not None:
            settings.bos_token_id = tokenizer.bos_token_id

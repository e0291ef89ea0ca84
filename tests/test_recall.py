"""Recall in context: rows whose answers stand in them, and models that do and do not look."""

import numpy as np
import pytest
import torch

from limbeck.probes.recall import PAIRS, ROWS, Recall, can_recall, measure_recall, pairs_of, recall
from limbeck.types import Batch, Head, Outputs
from tests.models import frozen, llama


def test_every_value_stands_behind_its_key_twice():
    tokens, values = pairs_of(torch.arange(5, 45), seed=0)
    assert tokens.shape == (ROWS, 4 * PAIRS)
    assert tokens.min() >= 5
    for row, among in zip(tokens.tolist(), values.tolist(), strict=True):
        told = dict(zip(row[: 2 * PAIRS : 2], row[1 : 2 * PAIRS : 2], strict=True))
        asked = dict(zip(row[2 * PAIRS :: 2], row[2 * PAIRS + 1 :: 2], strict=True))
        assert told == asked
        assert list(told.values()) == among
        assert len({*told, *among}) == 2 * PAIRS


class Looks:
    """A model that gives what followed the last earlier occurrence of a token; with ``other``, a value of another pair."""

    def __init__(self, model, *, other: bool) -> None:
        self.tokenizer, self.vocab, self.context, self.device = model.tokenizer, model.vocab, model.context, "cpu"
        self._other = other

    def __call__(self, batch: Batch) -> Outputs:
        hidden = torch.zeros(*batch.tokens.shape, self.vocab)
        for row, tokens in enumerate(batch.tokens.tolist()):
            for t, token in enumerate(tokens):
                before = [s for s in range(t) if tokens[s] == token]
                if before:
                    place = before[-1] + 1
                    hidden[row, t, tokens[place + 2 if self._other else place]] = 20
        return Outputs(hidden, Head(torch.eye(self.vocab)), self.vocab)


def test_who_looks_finds_all_and_who_looks_elsewhere_nothing_but_by_accident(tmp_path):
    model = frozen(llama(layers=1))
    assert can_recall(model)
    looks = measure_recall(Looks(model, other=False))
    readings = {r.name: r for r in recall("model", [looks])}
    assert readings["found"].value == 1
    assert readings["recall_nats"].value < 1e-4
    assert readings["chance"].value == 1 / PAIRS
    assert measure_recall(Looks(model, other=True)).found.mean() < 1
    looks.save(tmp_path / "a.safetensors")
    assert (Recall.load(tmp_path / "a.safetensors").nats == looks.nats).all()


def test_an_untrained_model_guesses():
    found = {r.name: r for r in recall("model", [measure_recall(frozen(llama(layers=1)))])}["found"]
    assert found.low < 1 / PAIRS + 0.05
    assert found.value == pytest.approx(1 / PAIRS, abs=0.06)
    assert found.n == ROWS
    assert np.isfinite(found.high)

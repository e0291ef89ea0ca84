"""Recall in context: rows with a passage twice, and models that copy from it or do not."""

import pytest
import torch

from limbeck.corpora import build_stores
from limbeck.probes.recall import PASSAGE, UNKNOWN, Recall, measure_recall, passages_of, recall
from limbeck.types import Batch, Head, Outputs
from tests.helpers.models import frozen, llama, write_corpus

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, a store, and its passages."""
    folder = tmp_path_factory.mktemp("recall")
    model = frozen(llama(layers=1))
    store, _ = build_stores(str(write_corpus(folder)), model, folder / "data")
    return model, store, passages_of(store, context=128)


def test_every_long_document_has_its_passage_twice(made):
    _, store, rows = made
    long_enough = [d for d in range(store.documents) if store.starts[d + 1] - store.starts[d] > PASSAGE]
    assert rows.shape == (len(long_enough), 2 * PASSAGE + 1)
    first = store.slice(int(store.starts[long_enough[0]]), int(store.starts[long_enough[0]]) + PASSAGE + 1).tolist()
    assert rows[0].tolist() == first + first[1:]
    assert passages_of(store, context=2 * PASSAGE) is None


class Copying:
    """A model that predicts the token ``PASSAGE`` tokens before with certainty, and is uniform where there is none."""

    name = "looks"

    def __init__(self, vocab: int) -> None:
        self.vocab = vocab

    def __call__(self, batch: Batch) -> Outputs:
        hidden = torch.zeros(*batch.tokens.shape, self.vocab)
        before = batch.tokens[:, 1 : batch.tokens.shape[1] - PASSAGE + 1]
        hidden[:, PASSAGE:].scatter_(-1, before[..., None], 30.0)
        return Outputs(hidden, Head(torch.eye(self.vocab)), self.vocab)


def test_a_copying_model_has_no_loss_in_the_second_reading(made, tmp_path):
    model, _, rows = made
    looks = measure_recall(Copying(model.vocab), rows, device=CPU)
    readings = {r.name: r for r in recall("model", [looks])}
    uniform = float(torch.tensor(float(model.vocab)).log())
    assert readings["first_reading"].value == pytest.approx(uniform, rel=1e-5)
    assert readings["second_reading"].value < 1e-6
    assert readings["recalled"].value == pytest.approx(uniform, rel=1e-5)
    assert readings["recalled"].n == len(rows)
    looks.save(tmp_path / "a.safetensors")
    assert (Recall.load(tmp_path / "a.safetensors").second == looks.second).all()


def test_readings_are_those_of_the_dense_model(made):
    model, _, rows = made
    found = measure_recall(model, rows, device=CPU)
    log_q = model.model(rows, use_cache=False).logits[..., : model.vocab].log_softmax(-1)
    nats = -log_q[:, :-1].gather(-1, rows[:, 1:, None])[..., 0]
    assert found.first.sum() == pytest.approx(float(nats[:, UNKNOWN:PASSAGE].sum()), rel=1e-5)
    assert found.second.sum() == pytest.approx(float(nats[:, PASSAGE + UNKNOWN :].sum()), rel=1e-5)
    assert found.tokens.sum() == nats[:, UNKNOWN:PASSAGE].numel()

"""Overlap on a model's own texts: what a loop over single positions finds, and 1 with a copy of itself."""

import math

import pytest
import torch

from limbeck.corpora import Rows
from limbeck.errors import BadSetting
from limbeck.generation.rollouts import Continuing
from limbeck.probes.overlap import TOP, Overlap, in_all, measure_overlap, overlap, probe_overlap
from tests.helpers.models import frozen, llama, stores, tokenizer

LENGTH = 48


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return stores(tmp_path_factory.mktemp("data"), tokenizer())[1]


def batches(text, *, rows=3):
    yield Rows(text, length=LENGTH).rows_of(range(rows))


def test_the_sums_are_those_of_single_positions(text, tmp_path):
    model, teacher = (frozen(llama(layers=layers, seed=layers, tok=tokenizer())) for layers in (2, 3))
    found = measure_overlap(model, teacher, batches(text), documents=text.documents)
    rows, generated = Continuing(model, 48).rows(next(batches(text)), torch.arange(3).numpy())
    shared, kl, counted = 0.0, 0.0, 0
    with torch.no_grad():
        ours, theirs = (m(rows).logits().double() for m in (model, teacher))
    for place in range(rows.weight.numel()):
        if rows.weight.flatten()[place] > 0:
            q, p = ours[place].softmax(-1), theirs[place].softmax(-1)
            counted += 1
            shared += len(set(q.topk(TOP).indices.tolist()) & set(p.topk(TOP).indices.tolist())) / TOP
            kl += float((q * (q / p).log()).sum())
    assert found.tokens.sum() == counted > 50
    assert found.shared.sum() == pytest.approx(shared)
    assert found.kl.sum() == pytest.approx(kl, rel=1e-6)
    assert (found.texts.sum(), found.ended.sum()) == (generated.row()["rollouts"], generated.row()["rollouts_ended"])
    found.save(tmp_path / "overlap.safetensors")
    again = Overlap.load(tmp_path / "overlap.safetensors")
    readings = {one.name: one for one in overlap("student", [again])}
    assert readings["overlap"].value == pytest.approx(shared / counted)
    assert readings["overlap"].low < readings["overlap"].value < readings["overlap"].high
    assert readings["kl_own_texts"].value == pytest.approx(kl / counted)
    assert 0 < readings["overlap_mass"].value < 1
    named = in_all(again)
    assert {name: named[name] for name in ("overlap", "kl_own_texts", "entropy_own_texts", "texts_ended")} == {
        name: pytest.approx(readings[name].value)
        for name in ("overlap", "kl_own_texts", "entropy_own_texts", "texts_ended")
    }
    assert named["tokens_own_texts"] == counted / generated.row()["rollouts"]


def test_a_model_shares_everything_with_itself(text):
    model = frozen(llama(seed=2, tok=tokenizer()))
    readings = {
        one.name: one.value
        for one in overlap("m", [measure_overlap(model, model, batches(text), documents=text.documents)])
    }
    assert readings["overlap"] == 1
    assert readings["kl_own_texts"] == 0
    assert readings["entropy_own_texts"] == pytest.approx(readings["entropy_own_texts_teacher"])
    assert readings["overlap_mass"] == pytest.approx(readings["overlap_mass_teacher"])
    assert 0 < readings["entropy_own_texts"] < math.log(300)


def test_without_a_teacher_it_is_refused():
    with pytest.raises(BadSetting, match="--probe overlap compares a model with its teacher"):
        probe_overlap(frozen(llama(tok=tokenizer())), None, None)

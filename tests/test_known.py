"""A teacher's bits per byte beside a unigram model's: one that knows no more than how often tokens are there is refused."""

from math import log2

import numpy as np
import pytest
import torch

from limbeck.config import CaptureSettings, DistilSettings
from limbeck.corpora import read
from limbeck.corpora.build import in_tokens
from limbeck.corpora.writer import Item
from limbeck.errors import Mismatch
from limbeck.jobs.capture.job import capture
from limbeck.jobs.distil import distil
from limbeck.jobs.doctor import doctor
from limbeck.jobs.known import Known, _unigram, knowledge, known
from limbeck.models.load import LanguageModel
from limbeck.types import Batch, Outputs
from tests.models import llama, tokenizer, write_corpus, write_teacher


def test_unigram_probabilities_by_hand():
    items = [Item("", b"", np.array([0, 1, 1, 2]), None, 4), Item("", b"", np.array([3, 3]), np.array([1, 0]), 2)]
    # tokens 1, 1, 2 are predicted and learned: 3 of 2 kinds, so 2 / (3 + 2) is shared by 4 tokens
    expected = [0.1, 0.5, 0.3, 0.1]
    np.testing.assert_allclose(np.exp(_unigram(items, vocab=4)), expected)


class _Fixed:
    """A teacher that gives one distribution everywhere."""

    name = "fixed"

    def __init__(self, about: LanguageModel, log_p: np.ndarray) -> None:
        self.about, self.vocab = about, about.vocab
        self._logits = torch.from_numpy(log_p).float()

    def __call__(self, batch: Batch) -> Outputs:
        logits = self._logits.expand(*batch.tokens.shape, -1)
        return Outputs(logits, type(self.about.head)(torch.eye(self.vocab)), self.vocab)


def test_both_are_asked_about_the_same_bytes(tmp_path):
    about = llama(tok=tokenizer())
    source = str(write_corpus(tmp_path))
    found = known(about, _Fixed(about, np.zeros(about.vocab)), source, length=128, device="cpu")
    assert found is not None
    assert found.documents == 16
    documents = list(read(source))
    items = list(in_tokens(documents, about.tokenizer, end=about.end))[:: len(documents) // 16][:16]
    assert max(item.predictions for item in items) <= 128  # so all of them are asked about
    predicted, size = (sum(each) for each in zip(*((item.predictions, item.size) for item in items), strict=True))
    assert found.teacher == pytest.approx(predicted * log2(about.vocab) / size)
    assert found.unigram < found.teacher


def test_findings_by_what_is_known():
    levels = {}
    for teacher in (1.0, 1.79, 1.81, 2.0, 2.5, float("nan")):
        levels[teacher] = [f.level for f in knowledge(Known(teacher, 2.0, 16), "t", anyway=False)]
    assert list(levels.values()) == [["ok"], ["ok"], ["warning"], ["error"], ["error"], ["error"]]
    (finding,) = knowledge(Known(2.5, 2.0, 16), "t", anyway=True)
    assert finding.level == "warning"
    assert finding.message.startswith(
        "t has 2.500 bits per byte where a unigram model of the text has 2.000 (beginnings of 16 documents): it knows no more"
    )
    assert list(knowledge(None, "t", anyway=False)) == []


def test_random_weights_teach_nobody(tmp_path):
    common = {"teacher": str(write_teacher(tmp_path)), "data": str(write_corpus(tmp_path)), "length": 16}
    common |= {"any_teacher": False}
    match = (
        r"teacher has .* bits per byte where a unigram model of the text has .*; .*--any-teacher takes it all the same"
    )
    with pytest.raises(Mismatch, match=match):
        distil(DistilSettings(**common, shape="layers=1", tokens=128, batch_tokens=64, out=tmp_path / "run"))
    with pytest.raises(Mismatch, match=match):
        capture(CaptureSettings(**common, out=tmp_path / "answers"))
    found = doctor(DistilSettings(**common, shape="layers=1", tokens=128, batch_tokens=64))
    assert not found["ok"]
    assert [f["level"] for f in found["findings"] if f["check"] == "knowledge"] == ["error"]
    mute = DistilSettings(**common, shape="layers=1", tokens=128, batch_tokens=64, objective="CrossEntropy")
    assert [f["level"] for f in doctor(mute)["findings"] if f["check"] == "knowledge"] == ["warning"]


def test_the_builtin_teacher_knows_its_text():
    found = doctor(DistilSettings(tokens=20_000))
    (finding,) = [f for f in found["findings"] if f["check"] == "knowledge"]
    assert finding["level"] == "ok"


def test_too_little_text_says_nothing(tmp_path):
    (tmp_path / "one.jsonl").write_text('{"text": "the cat sat"}\n')
    about = llama(tok=tokenizer())
    assert known(about, about, str(tmp_path / "one.jsonl"), length=16, device="cpu") is None

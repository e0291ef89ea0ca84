"""A teacher's bits per byte beside a unigram model's: one that knows no more than how often tokens are there is refused."""

from math import log2
from pathlib import Path

import numpy as np
import pytest
import torch

from limbeck.config import CaptureSettings, DistilSettings
from limbeck.corpora import Reader, read
from limbeck.corpora.tokenised import in_tokens
from limbeck.corpora.writer import Item
from limbeck.disk import write_json
from limbeck.errors import Mismatch
from limbeck.jobs.capture.job import capture
from limbeck.jobs.common.task import Task
from limbeck.jobs.distil.job import distil
from limbeck.jobs.doctor.job import doctor
from limbeck.jobs.pair.unigram import UnigramComparison, _unigram, compare_to_unigram, knowledge, of_source, of_store
from limbeck.jobs.pilot.knowing import require_one, warnings_of
from limbeck.jobs.pilot.tasks import task_of
from limbeck.models.language_model import LanguageModel
from limbeck.teachers.remote.http import Address, RetryPolicy
from limbeck.teachers.remote.served import connect
from limbeck.types import Batch, Outputs
from tests.helpers.models import frozen, llama, stores, tokenizer, write_corpus, write_teacher
from tests.helpers.served import serving


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


def test_both_are_measured_on_the_same_bytes(tmp_path):
    about = llama(tok=tokenizer())
    source = str(write_corpus(tmp_path))
    uniform = _Fixed(about, np.zeros(about.vocab))
    found = compare_to_unigram(uniform, of_source(source, about), vocab=about.vocab, length=128, device="cpu")
    assert found is not None
    assert found.documents == 16
    documents = list(read(source))
    items = list(in_tokens(documents, Reader(about.tokenizer, about.end)))[:: len(documents) // 16][:16]
    assert max(item.predictions for item in items) <= 128  # so all of them are asked about
    predicted, size = (sum(each) for each in zip(*((item.predictions, item.size) for item in items), strict=True))
    assert found.teacher == pytest.approx(predicted * log2(about.vocab) / size)
    assert found.unigram < found.teacher


def test_findings_by_what_is_known():
    levels = {}
    for teacher in (1.0, 1.79, 1.81, 2.0, 2.5, float("nan")):
        levels[teacher] = [f.level for f in knowledge(UnigramComparison(teacher, 2.0, 16), "t", anyway=False)]
    assert list(levels.values()) == [["ok"], ["ok"], ["warning"], ["error"], ["error"], ["error"]]
    (finding,) = knowledge(UnigramComparison(2.5, 2.0, 16), "t", anyway=True)
    assert finding.level == "warning"
    assert finding.message.startswith(
        "t has 2.500 bits per byte where a unigram model of the text has 2.000 (beginnings of 16 documents): it predicts this"
    )
    assert list(knowledge(None, "t", anyway=False)) == []


@pytest.mark.long
def test_random_weights_teach_nobody(tmp_path):
    common = {"teacher": str(write_teacher(tmp_path)), "data": str(write_corpus(tmp_path)), "length": 16}
    common |= {"any_teacher": False}
    match = r"teacher has .* bits per byte where a unigram model of the text has .*; .*--any-teacher uses it anyway"
    with pytest.raises(Mismatch, match=match):
        distil(DistilSettings(**common, shape="layers=1", tokens=128, batch_tokens=64, out=tmp_path / "run"))
    with pytest.raises(Mismatch, match=match):
        capture(CaptureSettings(**common, out=tmp_path / "answers"))
    found = doctor(DistilSettings(**common, shape="layers=1", tokens=128, batch_tokens=64))
    assert not found["ok"]
    assert [f["level"] for f in found["findings"] if f["check"] == "knowledge"] == ["error"]
    mute = DistilSettings(**common, shape="layers=1", tokens=128, batch_tokens=64, objective="CrossEntropy")
    assert [f["level"] for f in doctor(mute)["findings"] if f["check"] == "knowledge"] == ["warning"]


@pytest.mark.long
def test_the_builtin_teacher_predicts_its_text():
    found = doctor(DistilSettings(tokens=20_000))
    (finding,) = [f for f in found["findings"] if f["check"] == "knowledge"]
    assert finding["level"] == "ok"


def test_too_little_text_gives_no_finding(tmp_path):
    (tmp_path / "one.jsonl").write_text('{"text": "the cat sat"}\n')
    about = llama(tok=tokenizer())
    items = of_source(str(tmp_path / "one.jsonl"), about)
    assert compare_to_unigram(about, items, vocab=about.vocab, length=16, device="cpu") is None


def test_a_store_and_its_source_say_the_same(tmp_path):
    about = llama(tok=tokenizer())
    train, _ = stores(tmp_path, about.tokenizer)
    ours, read_anew = of_store(train), of_source(str(write_corpus(tmp_path)), about)
    of_text = {item.tokens.tobytes(): item for item in read_anew}
    assert len(ours) == train.documents
    for item in ours:
        theirs = of_text[item.tokens.astype(read_anew[0].tokens.dtype).tobytes()]
        assert (item.size, item.predictions) == (theirs.size, theirs.predictions)


@pytest.mark.parametrize("speaks", ["vllm", "sglang", "openai"])
def test_a_server_is_judged_as_its_model_in_memory(speaks, tmp_path):
    model = frozen(llama(tok=tokenizer(), seed=2))
    items = of_source(str(write_corpus(tmp_path)), model)
    usual = {"vocab": model.vocab, "length": 32, "device": "cpu"}
    expected = compare_to_unigram(model, items, **usual)
    assert expected is not None
    with (
        serving(model, speaks) as server,
        connect(Address.of(server.url), model.tokenizer, k=2, length=32, retry=RetryPolicy(2, 1.0, 0.01)) as teacher,
    ):
        found = compare_to_unigram(teacher, items, **usual)
        server.faults = {"broken": 0.5}
        teacher.client.retry = RetryPolicy(tries=1, limit=1.0)
        some = compare_to_unigram(teacher, items, **usual)
    if speaks == "openai":  # which gives no log-probabilities of the text's own tokens here
        assert found is some is None
        return
    assert found is not None
    assert (found.documents, found.unigram) == (expected.documents, pytest.approx(expected.unigram))
    assert found.teacher == pytest.approx(expected.teacher, abs=1e-4)
    assert some is not None
    assert 0 < some.documents < found.documents


def test_random_weights_on_a_server_teach_nobody(tmp_path):
    model = frozen(llama(tok=tokenizer(), seed=2))
    teacher, data = write_teacher(tmp_path), write_corpus(tmp_path)
    asked = {"tokenizer": str(teacher), "data": str(data), "length": 16, "any_teacher": False}
    with (
        serving(model) as server,
        pytest.raises(Mismatch, match="it predicts this text no better than the frequencies"),
    ):
        capture(CaptureSettings(teacher=server.url, **asked, out=tmp_path / "answers"))
    assert not (tmp_path / "answers" / "answers").exists()


def test_random_weights_read_layer_by_layer_teach_nobody(tmp_path):
    asked = {"teacher": str(write_teacher(tmp_path)), "data": str(write_corpus(tmp_path)), "any_teacher": False}
    with pytest.raises(Mismatch, match="it predicts this text no better than the frequencies"):
        capture(CaptureSettings(**asked, length=16, stream=True, out=tmp_path / "answers"))


def test_random_weights_write_for_nobody(tmp_path):
    asked = {"teacher": str(write_teacher(tmp_path)), "data": str(write_corpus(tmp_path)), "text": True}
    asked |= {"max_new_tokens": 2, "tokens": 80}
    with pytest.raises(Mismatch, match="it predicts this text no better than the frequencies"):
        capture(CaptureSettings(**asked, any_teacher=False, out=tmp_path / "written"))
    assert capture(CaptureSettings(**asked, any_teacher=True, out=tmp_path / "written"))["prompts"] == 40


def trained(folder: Path, compare_to_unigram: dict[str, object] | None) -> Task:
    task = task_of(folder, "teacher", f"t{len(list(folder.iterdir()))}")
    task.folder.mkdir(parents=True)
    write_json(
        task.folder / "result.json",
        {"cpu_seconds": 1.0} | ({"known": compare_to_unigram} if compare_to_unigram else {}),
    )
    return task


def test_a_pilot_stops_if_no_teacher_beats_the_unigram_model(tmp_path):
    less, more = {"teacher": 2.5, "unigram": 2.0, "documents": 16}, {"teacher": 1.0, "unigram": 2.0, "documents": 16}
    bad = [trained(tmp_path / name, less) for name in ("a", "b") if not (tmp_path / name).mkdir()]
    (tmp_path / "c").mkdir(), (tmp_path / "d").mkdir()
    good, older = trained(tmp_path / "c", more), trained(tmp_path / "d", None)
    waits = task_of(tmp_path / "e", "teacher", "t0")
    match = r"none of the 2 teachers knows more .*: 2\.500 where it has 2\.000; 2\.500 where.*--any-teacher continues"
    with pytest.raises(Mismatch, match=match):
        require_one(bad, anyway=False)
    require_one(bad, anyway=True)
    for other in (good, older, waits):
        require_one([*bad, other], anyway=False)
    assert [(f.level, f.message[:10]) for f in warnings_of(bad[0])] == [("warning", "teacher t0")]
    assert warnings_of(good) == warnings_of(older) == warnings_of(waits) == []

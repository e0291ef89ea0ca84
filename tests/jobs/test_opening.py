"""What documents begin with reaches every file of a run, and a run that continues keeps it."""

import json

import pytest

from limbeck.config import CaptureSettings, DistilSettings, ProbeSettings
from limbeck.corpora import TokenStore
from limbeck.corpora import opening as opening_of
from limbeck.corpora.opening import Opening
from limbeck.errors import BadFolder, BadSetting
from limbeck.jobs.capture.job import capture
from limbeck.jobs.common import opening
from limbeck.jobs.distil.job import distil
from limbeck.jobs.doctor.job import doctor
from limbeck.jobs.probe.job import probe
from limbeck.models.load import load, load_tokenizer
from limbeck.models.save import save
from tests.corpora.test_opening import SEPARATOR, TURN, model
from tests.helpers.models import write_corpus


@pytest.fixture
def given(tmp_path):
    save(model(), tmp_path / "teacher")
    small = {"length": 32, "threads": 1, "seed": 0, "data": str(write_corpus(tmp_path))}
    return small | {"teacher": str(tmp_path / "teacher")}


@pytest.fixture
def measured(monkeypatch):
    """What a measurement gives, without one; it counts them."""
    calls = []

    def measure(about, texts, loss):
        calls.append(len(texts))
        return Opening(SEPARATOR, about.tokenizer.bos_token, {SEPARATOR: 2.18, TURN: 2.24}, 0.01, 16)

    monkeypatch.setattr(opening, "measure", measure)
    return calls


def frame(folder) -> list[int | None]:
    return TokenStore.open(folder / "data" / "train").manifest["made_from"]["frame"]


@pytest.mark.long
def test_a_measured_opening_is_kept_and_reaches_text_answers_and_student(given, measured, tmp_path):
    separator = load(given["teacher"]).tokenizer.convert_tokens_to_ids(SEPARATOR)
    out = tmp_path / "captured"
    settings = CaptureSettings(**given, tokens=640, out=out)
    capture(settings)
    kept = json.loads((out / "run.json").read_text())["frame"]
    assert kept == {"begin": SEPARATOR, "nats": {SEPARATOR: 2.18, TURN: 2.24}, "documents": 16}
    assert frame(out)[0] == separator
    assert load_tokenizer(out / "teacher").bos_token == SEPARATOR
    capture(settings)
    assert measured == [64]  # once: the capture that continues has its own
    plain = given | {"teacher": str(out)}
    result = distil(
        DistilSettings(**plain, params=(20_000,), tokens=640, batch_tokens=320, out=tmp_path / "run", baselines=())
    )
    assert measured == [64]  # nor does a run of captured logits measure
    student = load(result["student"])
    assert student.tokenizer.bos_token == SEPARATOR
    assert student.config.bos_token_id == separator


@pytest.mark.long
@pytest.mark.parametrize(("asked", "token"), [("none", None), ("<|eos|>", "<|eos|>")])
def test_what_is_asked_for_is_taken_without_a_measurement(given, measured, tmp_path, asked, token):
    out = tmp_path / "captured"
    capture(CaptureSettings(**given, tokens=640, frame=asked, out=out))
    assert measured == []
    assert load_tokenizer(out / "teacher").bos_token == token
    first = None if token is None else load_tokenizer(out / "teacher").convert_tokens_to_ids(token)
    assert frame(out)[0] == first
    with pytest.raises(BadFolder, match=f"frame: '{asked}' there, None now"):
        capture(CaptureSettings(**given, tokens=640, out=out))


@pytest.mark.long
def test_a_run_of_an_earlier_version_goes_on_as_it_began(given, measured, tmp_path, monkeypatch):
    out = tmp_path / "captured"
    monkeypatch.setattr(opening, "_is_asked", lambda settings, about: False)  # as it was then
    capture(CaptureSettings(**given, tokens=640, out=out))
    assert "frame" not in json.loads((out / "run.json").read_text())
    before = frame(out)
    monkeypatch.undo()
    capture(CaptureSettings(**given, tokens=640, out=out))
    assert json.loads((out / "run.json").read_text())["frame"]["begin"] == TURN
    assert frame(out) == before


@pytest.mark.long
def test_a_probe_outside_a_run_measures_and_one_in_a_run_reads_its_text(given, measured, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        opening, "begin_with", lambda model, token: seen.append(token) or opening_of.begin_with(model, token)
    )
    keys = {"data": given["data"], "length": 32, "threads": 1}
    probe(ProbeSettings(**keys, probe=("likelihood",)), model=given["teacher"], teacher=None, out=None)
    assert (measured, seen) == ([64], [SEPARATOR])
    out = tmp_path / "run"
    distil(DistilSettings(**given, params=(20_000,), tokens=640, batch_tokens=320, out=out, baselines=()))
    calls = len(measured)
    probe(
        ProbeSettings(length=32, threads=1, probe=("likelihood",)), model=str(out / "student"), teacher=None, out=None
    )
    assert len(measured) == calls


def test_the_doctor_says_what_documents_begin_with(given, measured):
    found = doctor(DistilSettings(**given, params=(20_000,)))["findings"]
    assert [finding["level"] for finding in found if finding["check"] == "frame"] == ["ok"]
    message = next(finding["message"] for finding in found if finding["check"] == "frame")
    assert f"begin with '{SEPARATOR}', not with '{TURN}' as the tokenizer says" in message


def test_a_token_that_is_none_names_some(given, tmp_path):
    with pytest.raises(BadSetting, match=r"--frame <\|endoftxt\|>: .* has no such token.*<\|endoftext\|>"):
        capture(CaptureSettings(**given, tokens=640, frame="<|endoftxt|>", out=tmp_path / "captured"))

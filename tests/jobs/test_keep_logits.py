"""A run keeps the logits of a teacher where it would compute them often, and trains on a part of its text if asked to."""

import json
from pathlib import Path

import numpy as np
import pytest

import limbeck
from limbeck.config import DistilSettings
from limbeck.corpora import TokenStore, build_stores
from limbeck.errors import BadFolder, BadSetting, Interrupted
from limbeck.jobs.common.environment import environment_of
from limbeck.jobs.common.folder import claim, signature_of
from limbeck.jobs.distil import keep_logits as keep
from limbeck.jobs.distil.request import DistilRequest
from limbeck.jobs.probe.text import RunFolder
from limbeck.models.language_model import LanguageModel
from limbeck.run.run import Run
from tests.helpers.models import stores, tokenizer, write_corpus, write_teacher

LENGTH = 16


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("keep")
    write_teacher(folder)
    write_corpus(folder)
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """As if nothing were computed besides the text; steps are not measured, which would ask a live teacher too."""
    monkeypatch.setattr(keep, "_BESIDE", 0)
    monkeypatch.setattr(Run, "measure", lambda self, seconds: 0.01)


def keys(here: Path, **more):
    usual = {"teacher": str(here / "teacher"), "data": str(here / "text.jsonl"), "length": LENGTH, "params": "30k"}
    return usual | {"tokens": 4096, "batch_tokens": 512, "text_tokens": 1000, "baselines": (), "threads": 1} | more


def keeps(settings: DistilSettings) -> bool:
    claim(settings.out, signature_of(settings, "distil"))
    request = DistilRequest.of(settings)
    return keep.keeps(request, environment_of(settings), length=LENGTH, objectives=request.objectives)


def weights(folder: Path) -> bytes:
    return (folder / "student" / "model.safetensors").read_bytes()


def test_the_beginning_of_a_store_is_a_store_of_whole_documents(tmp_path):
    store, _ = stores(tmp_path, tokenizer())
    part = store.beginning(int(store.starts[3]) + 1)  # the fourth document begins before that
    stop = int(store.starts[4])
    assert (part.documents, part.tokens, part.predictions) == (4, stop, stop - 4)
    assert part.bytes == sum(store.bytes_of(document) for document in range(4))
    assert part.starts.tolist() == store.starts[:5].tolist()
    assert part.slice(0, stop).tolist() == store.slice(0, stop).tolist()
    assert len(part.digests()) == 4
    assert part.manifest["corpus_sha256"] != store.manifest["corpus_sha256"]
    assert store.beginning(int(store.starts[3])).documents == 3
    assert store.beginning(store.tokens) is store


def test_the_beginnings_of_a_mixture_are_those_of_its_sources(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_corpus(tmp_path / name, 30 if name == "one" else 60)
    files, tok = [tmp_path / name / "text.jsonl" for name in ("one", "two")], tokenizer()
    both, _ = build_stores(f"{files[0]}:1,{files[1]}:3", tok, tmp_path / "both")
    apart = [build_stores(str(file), tok, tmp_path / file.parent.name / "data")[0] for file in files]
    part, parts = both.beginnings((500, 700)), [apart[0].beginning(500), apart[1].beginning(700)]
    expected = np.concatenate([one.slice(0, one.tokens) for one in parts])
    assert part.slice(0, part.tokens).tolist() == expected.tolist()
    for size in ("documents", "tokens", "bytes", "predictions"):
        assert getattr(part, size) == sum(getattr(one, size) for one in parts)
    lengths = np.concatenate([np.diff(one.starts) for one in parts])
    assert np.diff(part.starts).tolist() == lengths.tolist()
    assert [(one["documents"], one["tokens"]) for one in part.manifest["sources"]] == [
        (one.documents, one.tokens) for one in parts
    ]
    rows = np.cumsum([0, *(one.layout(LENGTH).rows for one in parts)])
    assert part.rows_by_source(LENGTH).tolist() == rows.tolist()
    assert part.learned(0, part.tokens).all()
    assert both.beginnings([one.tokens for one in apart]) is both


@pytest.mark.long
def test_a_run_that_reads_its_text_often_keeps_the_teachers_logits(here, monkeypatch):
    """They are computed once for each row, and the student is that of `capture` and `distil` by hand, to the bit."""
    rows: list[int] = []
    call = LanguageModel.__call__

    def counted(self, batch):
        if self.name == "teacher":
            rows.extend(batch.row.tolist())
        return call(self, batch)

    trained = Run.train

    def killed(self):
        raise Interrupted("a kill", 15)

    monkeypatch.setattr(LanguageModel, "__call__", counted)
    monkeypatch.setattr(Run, "train", killed)
    with pytest.raises(Interrupted):
        limbeck.distil(**keys(here), out=here / "kept")
    monkeypatch.setattr(Run, "train", trained)
    asked = len(rows)
    limbeck.distil(**keys(here), out=here / "kept")
    assert len(rows) == asked  # a run that goes on computes nothing again
    run = json.loads((here / "kept" / "run.json").read_text())
    text = TokenStore.open(here / "kept" / "data" / "train").beginning(1000)
    assert run["text"]["train"] == text.manifest["corpus_sha256"]
    uses = 4096 / (text.layout(LENGTH).rows * LENGTH)
    assert run["teacher"]["passes"] == pytest.approx(1 / uses)
    assert uses > 3
    by_hand = {
        key: value
        for key, value in keys(here).items()
        if key in ("teacher", "data", "text_tokens", "length", "threads")
    }
    limbeck.capture(**by_hand, out=here / "logits")
    limbeck.distil(**keys(here) | {"teacher": str(here / "logits")}, out=here / "from-logits")
    assert weights(here / "from-logits") == weights(here / "kept")


@pytest.mark.long
def test_a_flag_keeps_no_logits(here):
    limbeck.distil(**keys(here, cache_logits=False), out=here / "live")
    assert not (here / "live" / "captured").exists()
    run = json.loads((here / "live" / "run.json").read_text())
    assert run["teacher"]["passes"] == 1
    with pytest.raises(BadFolder, match="cache_logits: False there, None now"):
        limbeck.distil(**keys(here), out=here / "live")
    # a probe of the student counts pairs of tokens in what it trained on
    found = RunFolder.of(str(here / "live" / "student"))
    store = TokenStore.open(here / "live" / "data" / "train")
    assert found.trained_on(store).documents == int(np.searchsorted(store.starts[:-1], 1000)) < store.documents


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        ({}, True),
        ({"tokens": 1280}, False),  # once
        ({"tokens": 1280, "seeds": 3}, True),  # once by each of three seeds
        ({"tokens": 512, "seeds": 8}, False),  # not all of the text
        ({"objective": "ReverseKL"}, False),  # which needs all outcomes
        ({"objective": "CrossEntropy"}, False),
        ({"objective": "CrossEntropy", "cache_logits": True}, False),
        ({"cache_logits": True, "tokens": 512}, True),
    ],
)
def test_logits_are_kept_where_that_saves_passes_and_serves_the_objective(here, tmp_path, more, kept):
    assert keeps(DistilSettings(**keys(here, **more), out=tmp_path)) is kept


def test_a_disk_that_is_nearly_full_keeps_none(here, tmp_path, monkeypatch):
    monkeypatch.setattr(keep, "_free", lambda folder: 4 * 48 * 500)
    assert not keeps(DistilSettings(**keys(here), out=tmp_path))


def test_what_a_teacher_does_not_do_is_refused(here):
    served = {"teacher": "http://localhost:1/v1#m", "tokenizer": str(here / "teacher")}
    with pytest.raises(BadSetting, match="are kept already, or come from a server"):
        limbeck.distil(**keys(here, cache_logits=False) | served, out=here / "no")
    with pytest.raises(BadSetting, match="--cache-logits: with --tokenizer-align"):
        limbeck.distil(**keys(here, cache_logits=True, tokenizer_align="bytes"), out=here / "no")


@pytest.mark.long
def test_a_capture_stopped_before_its_card_gets_one(here, tmp_path, monkeypatch):
    """The certificate, by which a run knows that its capture came to the end, is written last."""
    from limbeck.jobs.capture import here as job

    asked = keys(here, tokens=600, params="10k", cache_logits=True)

    def stopped(*_: object, **__: object) -> str:
        raise Interrupted("stopped", 2)

    with monkeypatch.context() as context:
        context.setattr(job, "capture_card", stopped)
        with pytest.raises(Interrupted):
            limbeck.distil(**asked, out=tmp_path / "out")
    captured = tmp_path / "out" / "captured"
    assert not (captured / "certificate.json").exists()
    assert not (captured / "README.md").exists()
    limbeck.distil(**asked, out=tmp_path / "out")
    assert "logits" in (captured / "README.md").read_text()
    assert json.loads((captured / "certificate.json").read_text())["damage"]
    limbeck.distil(**asked, out=tmp_path / "again")
    assert weights(tmp_path / "out") == weights(tmp_path / "again")
    same = [json.loads((tmp_path / name / "captured" / "certificate.json").read_text()) for name in ("out", "again")]
    assert same[0] == same[1]

"""Trainings on mixtures: the shares are kept, a kill changes nothing, and settings that do not fit are refused."""

import json
import os
import signal

import pytest

import limbeck
from limbeck.corpora import pack
from limbeck.disk import read_json, sha256_of, write_json
from limbeck.errors import BadCorpus, BadSetting, LimbeckError
from limbeck.jobs.common import mixture
from limbeck.jobs.common.mixture import blend_of, wanted_of
from limbeck.jobs.push import card
from limbeck.scrub import without_folders
from tests.helpers.kills import forked
from tests.helpers.models import texts, write_teacher


@pytest.fixture
def data(tmp_path):
    for name, some in (("web", texts(40)), ("math", texts(20, seed=1))):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in some)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    web, math = tmp_path / "web.jsonl", tmp_path / "math.jsonl"
    return f"{web}:3,{math}:1; 0.4: {web}:1,{math}:1; annealed: {math}:1"


def pretrained(data, out, **how):
    shape = "layers=1,hidden=16,heads=2,kv_heads=2,ffn=32"
    size = {"shape": shape, "vocab": 300, "tokens": "2k", "batch_tokens": 128, "length": 16, "save_every": 3}
    return limbeck.pretrain(**{**size, "data": data, "out": str(out), "threads": 1, **how})


def test_a_killed_training_on_a_mixture_continues_to_the_same_bits(data, tmp_path, monkeypatch):
    pretrained(data, tmp_path / "whole")
    found = read_json(tmp_path / "whole" / "run.json")["mixture"]
    read = [one["passes"] * one["tokens"] for one in found]
    # 3/4, then 1/2 from 0.4 on, then none from 0.8 on
    assert read[0] / sum(read) == pytest.approx(0.4 * 0.75 + 0.4 * 0.5, abs=0.03)
    take, taken = pack.Rows.take, 0

    def dying(rows, number):
        nonlocal taken
        taken += 1
        if taken == 11:
            os.kill(os.getpid(), signal.SIGKILL)
        return take(rows, number)

    with monkeypatch.context() as patch:
        patch.setattr(pack.Rows, "take", dying)
        assert forked(lambda: pretrained(data, tmp_path / "killed")) == f"status {-signal.SIGKILL}"
    pretrained(data, tmp_path / "killed")
    weights = [sha256_of(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "killed")]
    assert weights[0] == weights[1]


def test_a_source_that_runs_out_is_named(monkeypatch):
    printed: list[str] = []
    monkeypatch.setattr(mixture.console, "print", printed.append)
    web = {"source": "web", "documents": 9, "tokens": 3000, "passes": 0.5}
    math = {"source": "math", "documents": 2, "tokens": 200, "passes": 2.5}
    mixture.print_mixture({"mixture": [web, math]})
    assert printed == [
        "text: 75 % of web: 0.50 of its 3,000 tokens",
        "text: 25 % of math: 200 tokens, read 2.5 times: it runs out, and begins again",
    ]


def test_a_card_names_the_data_sets_of_a_mixture_without_their_weights(tmp_path):
    data = "hf:org/one:0.5,stories/a.jsonl:0.5; annealed: hf:org/two:config/train:1"
    write_json(tmp_path / "run.json", {"signature": {"data": data}})
    assert card._datasets(tmp_path) == ["org/one", "org/two"]
    assert card._text_of(tmp_path) == "hf:org/one, a.jsonl, hf:org/two:config/train"


def test_a_tracker_does_not_show_the_folders_of_a_mixture():
    data = "/home/me/a.jsonl:1,s3://bucket/deep/b.jsonl:1;annealed:/home/me/c.jsonl:1"
    assert without_folders(data) == "a.jsonl:1,s3://bucket/deep/b.jsonl:1;annealed:c.jsonl:1"


def test_stages_begin_with_steps():
    blend = blend_of("a:1,b:1;0.33:a:1;annealed:b:1", steps=10, rows=4, schedule="wsd")
    assert blend.first == (0, 12, 32)
    assert blend.shares == ((0.5, 0.5), (1.0, 0.0), (0.0, 1.0))
    assert blend_of("a,b", steps=10, rows=4, schedule="wsd") is None
    with pytest.raises(BadCorpus, match="give --schedule wsd"):
        blend_of("a:1;annealed:b:1", steps=10, rows=4, schedule="cosine")


def test_settings_that_need_the_text_in_one_piece_are_refused(data, tmp_path):
    write_teacher(tmp_path)
    asked = {"teacher": str(tmp_path / "teacher"), "data": data, "out": str(tmp_path / "out"), "params": "9k"}
    for how in ({"text_tokens": "1k"}, {"vocab": 280}, {"cache_logits": True}):
        with pytest.raises(BadSetting, match="with weights of sources in --data rows are read by these"):
            limbeck.distil(**asked, **how)
    with pytest.raises(LimbeckError, match="weights of sources are for limbeck distil and pretrain"):
        limbeck.capture(teacher=asked["teacher"], data=data.split(";")[0], out=str(tmp_path / "capture"))
    with pytest.raises(BadCorpus, match="the weights of a stage are all 0"):
        pretrained(f"{tmp_path / 'web.jsonl'}:0,{tmp_path / 'math.jsonl'}:0", tmp_path / "none")


@pytest.mark.long
def test_a_student_is_distilled_from_a_mixture(data, tmp_path):
    write_teacher(tmp_path)
    asked = {"teacher": str(tmp_path / "teacher"), "data": data, "params": "9k", "tokens": "2k", "threads": 1}
    limbeck.distil(**asked, out=str(tmp_path / "out"), baselines="cut+ce,cut+ce@flops")
    found = read_json(tmp_path / "out" / "run.json")
    assert len(found["mixture"]) == 2
    assert not (tmp_path / "out" / "captured").exists()


def test_a_streamed_source_is_read_as_far_as_a_training_reads():
    assert wanted_of("hf:a", 5000, None) == (5000,)
    assert wanted_of("hf:a", 5000, 300) == (300,)
    assert wanted_of("hf:a", None, None) == ()  # a capture of all of it

"""Trainings on mixtures: the shares are kept, a kill changes nothing, and settings that do not fit are refused."""

import json
import os
import re
import signal

import fsspec
import pytest

import limbeck
from limbeck.config import PretrainSettings
from limbeck.corpora import build_stores, pack, train_tokenizer
from limbeck.disk import claims, read_json, sha256_of, write_json
from limbeck.errors import BadCorpus, BadFolder, BadSetting, LimbeckError
from limbeck.jobs.common import mixture
from limbeck.jobs.common.environment import environment_of
from limbeck.jobs.common.folder import claim, same_corpus, signature_of
from limbeck.jobs.common.mixture import Length, blend_of, wanted_of
from limbeck.jobs.common.text import stores_of
from limbeck.jobs.probe.text import _stamps, _stamps_of
from limbeck.jobs.push import card
from limbeck.jobs.push.files import require_no_paths
from limbeck.scrub import IN_VALUES, scrubbed, without_folders
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


@pytest.mark.long
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


def test_a_run_that_was_begun_keeps_how_far_its_sources_were_read(tmp_path):
    """An older version counted a token less for each document: its text is neither built again nor said to be another."""
    memory = fsspec.filesystem("memory")
    for name, some in (("web", texts(40)), ("math", texts(40, seed=1))):
        memory.pipe(f"/kept/{name}.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in some).encode())
    data = "memory://kept/web.jsonl:3,memory://kept/math.jsonl:1"
    settings = PretrainSettings(
        data=data, out=tmp_path / "run", tokens=2_000, shape="layers=1,hidden=16,heads=2,ffn=32"
    )
    tokenizer, environment = train_tokenizer(texts(20), vocab=280), environment_of(settings)
    with claims():
        run = claim(settings.out, signature_of(settings, "pretrain"))
        older = stores_of(settings, tokenizer, environment, most=(500, 300))
        same_corpus(settings.out, run, *older)
        today = stores_of(settings, tokenizer, environment, most=(1500, 900))
        assert [store.manifest for store in today] == [store.manifest for store in older]
        same_corpus(settings.out, run, *today)
        fresh = settings.model_copy(update={"out": tmp_path / "fresh"})
        claim(fresh.out, signature_of(fresh, "pretrain"))
        stores = (today[0], stores_of(fresh, tokenizer, environment, most=(1500, 900))[0])
        read = [[draw["most"] for draw in store.manifest["made_from"]["draws"]] for store in stores]
        assert read == [[500, 300], [1500, 900]]


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


def test_a_card_names_data_sets_however_they_are_written_and_no_folder(tmp_path):
    here = tmp_path / "own" / "stories"
    here.mkdir(parents=True)
    sources = {
        "hf:one/train+test": ("one", "hf:one/train+test"),
        "hf:org/two:config/train[:10%]": ("org/two", "hf:org/two:config/train[:10%]"),
        "hf://datasets/org/three@main/data/*.parquet": ("org/three", "hf://datasets/org/three@main/data/*.parquet"),
        "hf://datasets/four/a.parquet": ("four", "hf://datasets/four/a.parquet"),
        f"hf:{here}": (None, "stories"),
        f"hf:{tmp_path}/gone/texts/train": (None, "texts"),
        "file:///home/me/b.jsonl": (None, "b.jsonl"),
        f"zip://*.jsonl::file://{tmp_path}/c.zip": (None, "c.zip"),
        "python:stdlib": (None, "python:stdlib"),
    }
    for source, (data_set, text) in sources.items():
        write_json(tmp_path / "run.json", {"signature": {"data": source}})
        assert card._datasets(tmp_path) == ([] if data_set is None else [data_set])
        assert card._text_of(tmp_path) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("file:///home/me/a.jsonl:1,s3://b/deep/c.jsonl:1", "a.jsonl:1,s3://b/deep/c.jsonl:1"),
        ("zip://*.jsonl::file://localhost/home/me/x.zip", "zip://*.jsonl::x.zip"),
        ("hf:/home/me/stories", "hf:stories"),
        ("file://~/x/y.txt", "y.txt"),
        ("the run in /home/me/run and runs/x", "the run in run and runs/x"),
    ],
)
def test_what_is_published_names_no_folder_behind_a_scheme(text, shown):
    assert without_folders(text) == shown
    assert without_folders("/home/my texts/sub dir/a b.jsonl", of=IN_VALUES) == "a b.jsonl"
    assert without_folders("/home/alice/ secret project/a.jsonl", of=IN_VALUES) == "a.jsonl"
    for value in ("a / b / c", "0.5*ForwardKL / 2 / 3", "one / two/three"):
        assert without_folders(value, of=IN_VALUES) == value
    with pytest.raises(BadFolder, match="names a folder of this machine"):
        require_no_paths("README.md", "measured on file:///home/me/a.jsonl")


def test_a_tracker_does_not_show_the_folders_of_a_mixture():
    data = "/home/me/a.jsonl:1,s3://bucket/deep/b.jsonl:1;annealed:/home/me/c.jsonl:1"
    assert without_folders(data) == "a.jsonl:1,s3://bucket/deep/b.jsonl:1;annealed:c.jsonl:1"


def test_a_container_and_a_revision_are_no_user():
    data = "abfs://texts@account.dfs.core.windows.net/a.jsonl:1,hf://datasets/org/name@main/b.jsonl:1"
    assert scrubbed(data) == data
    for data in ("s3://a,hf://datasets/org/name@main/b.jsonl", "s3://a/b:1;annealed:abfs://texts@account/a.jsonl:1"):
        assert scrubbed(data) == data
    for secret in (
        "s3://me:key@a,hf://datasets/org/name@main/b.jsonl",
        "s3://a,sftp://me:key@host/a",
        "s3://me:k,e;y@a",
    ):
        assert scrubbed(secret).count("***@") == 1
        assert not re.search("key|k,e;y", scrubbed(secret))
    for secret in ("https://me:pa,b://c@h/x", "s3://me:p;w:x::y@b/a", "s3://u:pa,ss:://w@host/x"):
        assert re.fullmatch(r"\w+://\*\*\*@(h|b|host)/[xa]", scrubbed(secret))
    assert scrubbed("abfs://texts:key@account/a.jsonl") == "abfs://***@account/a.jsonl"
    assert scrubbed(f"s3://me:key@b/a.jsonl,{data}").count("key") == 0


def test_stages_begin_with_steps():
    blend = blend_of("a:1,b:1;0.33:a:1;annealed:b:1", steps=10, rows=4, schedule="wsd")
    assert blend.first == (0, 12, 32)
    assert blend.shares == ((0.5, 0.5), (1.0, 0.0), (0.0, 1.0))
    assert blend_of("a,b", steps=10, rows=4, schedule="wsd") is None
    with pytest.raises(BadCorpus, match="give --schedule wsd"):
        blend_of("a:1;annealed:b:1", steps=10, rows=4, schedule="cosine")


@pytest.mark.long
def test_settings_that_need_the_text_in_one_piece_are_refused(data, tmp_path):
    write_teacher(tmp_path)
    asked = {"teacher": str(tmp_path / "teacher"), "data": data, "out": str(tmp_path / "out"), "params": "9k"}
    with pytest.raises(BadSetting, match="--text-tokens does not go with weights of sources in --data"):
        limbeck.distil(**asked, text_tokens="1k")
    with pytest.raises(BadSetting, match="--vocab 280: the most frequent tokens are counted without weights"):
        limbeck.distil(**asked, vocab=280)
    with pytest.raises(
        BadSetting, match=r"--tokens 1000 does not go with weights .*so all of them get logits; leave it out"
    ):
        limbeck.capture(teacher=asked["teacher"], data=data, tokens="1k", out=str(tmp_path / "capture"))
    with pytest.raises(LimbeckError, match="weights of sources are for limbeck distil, pretrain and capture"):
        limbeck.shrink(teacher=asked["teacher"], data=data.split(";")[0], params="9k", out=str(tmp_path / "small"))
    with pytest.raises(BadCorpus, match="the weights of a stage are all 0"):
        pretrained(f"{tmp_path / 'web.jsonl'}:0,{tmp_path / 'math.jsonl'}:0", tmp_path / "none")


@pytest.mark.long
def test_a_student_is_distilled_from_a_mixture(data, tmp_path):
    write_teacher(tmp_path)
    asked = {"teacher": str(tmp_path / "teacher"), "data": data, "params": "9k", "tokens": "2k", "threads": 1}
    limbeck.distil(**asked, out=str(tmp_path / "out"), baselines="cut+ce,cut+ce@flops", vocab="auto:1000")
    found = read_json(tmp_path / "out" / "run.json")
    assert found["vocabulary"]["tokens"][1] < found["vocabulary"]["tokens"][0]
    assert len(found["mixture"]) == 2
    assert not (tmp_path / "out" / "captured").exists()


@pytest.mark.long
def test_logits_of_a_mixture_serve_any_weights_of_its_sources(data, tmp_path):
    write_teacher(tmp_path)
    asked = {"data": data, "params": "9k", "tokens": "2k", "threads": 1, "baselines": (), "seq_len": 32}
    teacher = str(tmp_path / "teacher")
    limbeck.capture(teacher=teacher, data=data, seq_len=32, out=str(tmp_path / "logits"), threads=1)
    limbeck.distil(**asked, teacher=teacher, cache_logits=True, out=str(tmp_path / "kept"))
    limbeck.distil(**asked, teacher=str(tmp_path / "logits"), out=str(tmp_path / "given"))
    limbeck.distil(**asked, teacher=teacher, cache_logits=False, out=str(tmp_path / "live"))
    runs = {name: read_json(tmp_path / name / "run.json") for name in ("kept", "given", "live")}
    assert [one["passes"] for one in runs["kept"]["mixture"]] == [one["passes"] for one in runs["live"]["mixture"]]
    weights = [sha256_of(tmp_path / name / "student" / "model.safetensors") for name in ("kept", "given")]
    assert weights[0] == weights[1]
    web = data.split(":")[0]
    other = f"{web}:1,{tmp_path / 'math.jsonl'}:9"
    limbeck.distil(**{**asked, "data": other}, teacher=str(tmp_path / "logits"), out=str(tmp_path / "other"))
    found = read_json(tmp_path / "other" / "run.json")["mixture"]
    assert found[1]["passes"] > 1.5 > 0.5 > found[0]["passes"]
    with pytest.raises(BadSetting, match="were captured with"):
        limbeck.distil(**{**asked, "data": web}, teacher=str(tmp_path / "logits"), out=str(tmp_path / "no"))


def test_a_probe_of_a_mixture_compares_all_its_sources(data, tmp_path):
    tokenizer = train_tokenizer(texts(20), vocab=280)
    _, held_out = build_stores(data, tokenizer, tmp_path / "store", fraction=0.2)
    web, math = tmp_path / "web.jsonl", tmp_path / "math.jsonl"
    found = _stamps_of(held_out)
    assert found in _stamps(f"{web}, {math}")
    assert found not in _stamps(str(web))
    _, alone = build_stores(str(web), tokenizer, tmp_path / "alone", fraction=0.2)
    assert _stamps_of(alone) in _stamps(str(web))


def test_a_streamed_source_of_a_stage_is_read_as_far_as_the_stage_is_long():
    data = "hf:a:1;annealed:hf:b:1"
    assert wanted_of(data, 256, None) == (205, 52)
    assert wanted_of(data, 256, None, Length(2, 8, 16)) == (128, 128)  # of two steps the second is the last stage
    assert wanted_of(data, 256, None, Length(7, 4, 8)) == (6 * 32, 32)


def test_a_streamed_source_is_read_as_far_as_a_training_reads():
    assert wanted_of("hf:a", 5000, None) == (5000,)
    assert wanted_of("hf:a", 5000, 300) == (300,)
    assert wanted_of("hf:a", None, None) == ()  # a capture of all of it

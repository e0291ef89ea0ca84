"""Answers that were captured: they teach as the teacher does, say truly what they lose, and are refused for anything else."""

import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import limbeck
from limbeck import cli
from limbeck.config import CaptureSettings, DistilSettings
from limbeck.corpora import Rows, TokenStore
from limbeck.disk import read_json, read_rows, release, sha256_of, take, write_json
from limbeck.errors import BadFolder, BadModel, BadSetting, Mismatch
from limbeck.jobs.capture import spread
from limbeck.jobs.capture.certificate import STEP, certify
from limbeck.jobs.capture.here import Part, capture_part
from limbeck.jobs.capture.merge import merge
from limbeck.jobs.capture.verify import inspect, verify
from limbeck.jobs.common.captured import Captured
from limbeck.jobs.common.task import DONE, RESULT, attempt, require_done
from limbeck.jobs.pair.student import possible_shapes
from limbeck.models.configuration import load_config
from limbeck.models.load import load
from limbeck.objectives import parse
from limbeck.objectives.fused import value_and_gradient
from limbeck.run.log import console
from limbeck.students.shape import Shape, config_of
from limbeck.teachers.cache import MANIFEST, packed_log_p
from limbeck.teachers.codec import Sampled, TopK
from limbeck.teachers.ref import ANSWERS, teacher_ref
from limbeck.types import Chunk, Outputs, Signal
from tests.helpers.kills import content, stops
from tests.helpers.models import batch, frozen, llama, tokenizer, write_corpus, write_teacher
from tests.helpers.ranks import on_ranks
from tests.students.test_shape import smollm2

LENGTH = 16


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with a teacher, a corpus, and captured answers of all of its rows."""
    folder = tmp_path_factory.mktemp("capture")
    write_teacher(folder)
    write_corpus(folder)
    ask(folder, "whole")
    return folder


def ask(here: Path, out: str | Path, **keys):
    usual = {"teacher": str(here / "teacher"), "data": str(here / "text.jsonl"), "length": LENGTH, "threads": 1}
    usual |= {"kind": "drawn"}
    return limbeck.capture(**(usual | {"out": here / out} | keys))


def distil(here: Path, out: str, **keys):
    usual = {"teacher": str(here / "whole"), "shrink": 2.0, "tokens": "3k", "batch_tokens": 128, "threads": 1}
    return limbeck.distil(**(usual | {"out": here / out, "baselines": ()} | keys))


def readings(out: Path) -> dict[tuple[str, str], dict]:
    rows = [json.loads(line) for line in (out / "readings.jsonl").read_text().splitlines()]
    return {(row["model"], row["name"]): row for row in rows}


def command(here: Path, out: str, *more: str) -> list[str]:
    flags = ("--teacher", here / "teacher", "--data", here / "text.jsonl", "--length", LENGTH, "--kind", "drawn")
    return [sys.executable, "-m", "limbeck", "capture", *map(str, (*flags, "--threads", 1, "--out", here / out, *more))]


@pytest.mark.long
def test_a_student_of_all_outcomes_is_the_one_of_the_live_teacher(here):
    """With room for the whole vocabulary answers are rounded and nothing else; so are student and readings."""
    vocab = load(here / "teacher").vocab
    ask(here, "rich", bytes_per_token=Sampled(vocab, vocab - 1).bytes, kind="drawn")
    distil(here, "from-rich", teacher=str(here / "rich"))
    distil(here, "live", teacher=str(here / "teacher"), data=str(here / "text.jsonl"), length=LENGTH)
    cached, live = readings(here / "from-rich"), readings(here / "live")
    for name in ("held_out", "kl_teacher_student", "acceptance", "top1_agreement"):
        assert cached["student", name]["value"] == pytest.approx(live["student", name]["value"], rel=0.02, abs=0.02)
    assert cached["teacher", "held_out"]["value"] == pytest.approx(live["teacher", "held_out"]["value"], rel=1e-5)
    assert ("student", "kl_student_teacher") not in cached  # a few outcomes do not tell it
    samples = read_rows(here / "from-rich" / "samples.json")
    wrote = read_rows(here / "live" / "samples.json")
    assert [row["teacher"] for row in samples] == [row["teacher"] for row in wrote]


def test_a_student_needs_neither_teacher_nor_text_once_it_is_cut(here, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(here / "whole", moved)
    facts = json.loads((moved / "run.json").read_text())
    facts["signature"] |= {"teacher": str(tmp_path / "gone"), "data": str(tmp_path / "gone.jsonl")}
    write_json(moved / "run.json", facts)
    with pytest.raises(BadModel, match="gone is needed to prune a student from it: give a model with --student"):
        distil(here, "uncut", teacher=str(moved))
    limbeck.shrink(teacher=str(here / "teacher"), data=str(here / "text.jsonl"), shrink=2.0, out=here / "small")
    run = {"teacher": str(moved), "shrink": None, "student": str(here / "small")}
    assert distil(here, "given", **run)["readings"]["student"]["held_out"]["value"] > 0


def test_each_objective_is_computed_or_refused_before_anything_is_written(here):
    with pytest.raises(BadSetting, match=r"it holds \d+ sampled outcomes a token. ReverseKL.*cannot be computed from"):
        distil(here, "refused", objective="ReverseKL")
    assert not (here / "refused").exists() or not (here / "refused" / "cut").exists()


@pytest.mark.parametrize(
    ("keys", "named"), [({"length": 32}, "--seq-len 32"), ({"data": "python:stdlib"}, "--data python:stdlib")]
)
def test_another_text_or_length_is_refused(here, keys, named):
    with pytest.raises(BadSetting, match=f"{named}: the logits in .* were captured with"):
        distil(here, "other", **keys)


@pytest.mark.long
def test_the_kind_is_chosen_by_what_was_measured(here):
    """This teacher is flat, so its likeliest outcomes leave out much."""
    ask(here, "chosen", kind="auto")
    facts = json.loads((here / "chosen" / "run.json").read_text())
    assert facts["codec"]["kind"] == "drawn"
    drawn, coarse = (found["damage"]["ForwardKL"] for found in facts["kinds"])
    assert drawn["bias"]["low"] < 0.02 < 0.1 < coarse["bias"]["low"]


@pytest.mark.long
def test_a_student_sees_no_row_that_was_not_answered(here):
    ask(here, "some", tokens="500")
    rows = Captured(here / "some").logits.rows
    assert rows == math.ceil(500 / LENGTH)
    assert distil(here, "from-some", teacher=str(here / "some"))["verdict"]


def test_another_teacher_in_the_old_ones_place_is_refused(here, tmp_path):
    shutil.copytree(here / "whole", tmp_path / "cache")
    write_teacher(tmp_path, seed=9)
    facts = json.loads((tmp_path / "cache" / "run.json").read_text())
    facts["signature"]["teacher"] = str(tmp_path / "teacher")
    write_json(tmp_path / "cache" / "run.json", facts)
    with pytest.raises(Mismatch, match=r"was captured from .* with weights [0-9a-f]{12}…; those there now are"):
        distil(here, "wrong", teacher=str(tmp_path / "cache"))


@pytest.mark.long
def test_students_are_cut_while_the_teacher_is_there(here, tmp_path):
    """Each is the one that distil would cut; then no teacher is needed, and other sizes say so."""
    shutil.copytree(here / "whole", tmp_path / "cache")
    assert ask(here, tmp_path / "cache", params="40k,30k")["rows"]
    distil(here, "cut-later", params="40k", shrink=None)
    facts = json.loads((tmp_path / "cache" / "run.json").read_text())
    facts["signature"]["teacher"] = str(tmp_path / "gone")
    write_json(tmp_path / "cache" / "run.json", facts)
    distil(here, "cut-before", params="40k", shrink=None, teacher=str(tmp_path / "cache"))
    weights = [(here / out / "student" / "model.safetensors").read_bytes() for out in ("cut-later", "cut-before")]
    assert weights[0] == weights[1]
    with pytest.raises(BadModel, match=r"is needed to prune a student from it: .*capture --params prunes students"):
        distil(here, "cut-never", params="35k", shrink=None, teacher=str(tmp_path / "cache"))
    with pytest.raises(BadModel, match="is needed to prune a student from it"):  # those there are by other scores
        distil(here, "cut-otherwise", params="40k", shrink=None, teacher=str(tmp_path / "cache"), method="wanda")


def test_a_student_that_was_pruned_to_an_earlier_choice_of_shape_is_taken(here, tmp_path):
    shutil.copytree(here / "whole", tmp_path / "cache")
    config = load_config(here / "teacher")
    whole = Shape.of(config)
    earlier = replace(whole, layers=1)
    config_of(earlier, config).save_pretrained(tmp_path / "cache" / "cut" / "40k")
    Captured(tmp_path / "cache").place_cut([whole], tmp_path / "none", seed=0)
    assert not (tmp_path / "none").exists()
    Captured(tmp_path / "cache").place_cut([whole, earlier], tmp_path / "cut", seed=0)
    assert Shape.of(load_config(tmp_path / "cut")) == earlier


def test_the_earlier_choice_of_a_shape_is_that_without_blocks(tmp_path):
    smollm2(10_000).save_pretrained(tmp_path)
    asked = {"teacher": str(tmp_path), "out": tmp_path / "out", "tokens": 100}
    ref = teacher_ref(str(tmp_path))
    now, before = Shape(16, 320, 4, 2, 832), Shape(16, 312, 4, 2, 832)
    assert possible_shapes(DistilSettings(**asked, params="20M"), ref) == (now, before)
    assert possible_shapes(DistilSettings(**asked, shape=str(before)), ref) == (before,)


def test_no_student_is_cut_out_of_a_teacher_on_a_server(here):
    with pytest.raises(
        BadSetting, match=r"--params: a student is pruned from its teacher's weights, and .* is on a server"
    ):
        ask(here, "no-cut", params="40k", teacher="http://h/v1#m")


def test_sizes_that_are_one_student_are_refused(here):
    with pytest.raises(BadSetting, match="sizes that differ by less than 1 % are one student"):
        ask(here, "no-cut", params="40000,40001")


@pytest.mark.long
def test_a_student_that_was_killed_goes_on_from_the_answers(here):
    """To the bits of one that was not."""
    flags = ("--teacher", here / "whole", "--shrink", 2, "--tokens", "6k", "--batch-tokens", 128, "--threads", 1)
    run = [
        sys.executable,
        "-m",
        "limbeck",
        "distil",
        *map(str, (*flags, "--baselines", "none", "--out", here / "killed-run")),
    ]
    process = subprocess.Popen(run, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    metrics = here / "killed-run" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") >= 5):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    for out in ("killed-run", "whole-run"):
        distil(here, out, tokens="6k")
    weights = [(here / out / "student" / "model.safetensors").read_bytes() for out in ("killed-run", "whole-run")]
    assert weights[0] == weights[1]


@pytest.mark.long
def test_processes_with_a_part_of_the_teacher_each_capture_what_one_does(here, tmp_path):
    """The first leads, and writes the same bits; the second has no result."""

    def work(world):
        return len(ask(here, tmp_path / "together", mesh="shard"))

    assert on_ranks(2, work) == [len(ask(here, "whole")), 0]
    for folder in ("answers", "held_out"):
        files = sorted(file.name for file in (here / "whole" / folder).iterdir())
        assert files == sorted(file.name for file in (tmp_path / "together" / folder).iterdir())
        arrows = [name for name in files if name.endswith(".arrow")]
        assert arrows
        for name in arrows:
            assert (tmp_path / "together" / folder / name).read_bytes() == (here / "whole" / folder / name).read_bytes()
    ours, theirs = (
        (there / "measured" / "samples.json").read_text() for there in (tmp_path / "together", here / "whole")
    )
    assert ours == theirs


@pytest.mark.long
def test_a_trimmed_teacher_in_parts_is_captured_as_one_in_memory(here, tmp_path):
    """The first process chooses the vocabulary, all measure together what it leaves out, and the logits are the same."""

    def work(world):
        return len(ask(here, tmp_path / "together", mesh="shard", vocab=280))

    alone = ask(here, tmp_path / "alone", vocab=280)
    assert on_ranks(2, work) == [len(alone), 0]
    ours, theirs = (Captured(tmp_path / name) for name in ("together", "alone"))
    assert (ours.about.vocab, len(ours.about.tokenizer)) == (theirs.about.vocab, len(theirs.about.tokenizer))
    assert theirs.about.vocab < 300
    left_out, expected = (read_json(tmp_path / name / "vocabulary.json") for name in ("together", "alone"))
    assert left_out["bits_per_byte"]["trimmed"] == pytest.approx(expected["bits_per_byte"]["trimmed"], rel=1e-6)
    rows = Rows(theirs.stores()[0], length=LENGTH).rows_of(np.arange(ours.logits.rows))
    found, whole = ours.logits(rows), theirs.logits(rows)
    # in another company of rows a matrix product rounds otherwise, which may move one step of the code
    torch.testing.assert_close(found.log_p, whole.log_p, rtol=0, atol=0.05)
    assert (found.ids == whole.ids).float().mean() > 0.99


@pytest.mark.long
@pytest.mark.parametrize("more", [{"stream": True}, {"params": "9k"}])
def test_what_needs_the_whole_teacher_is_refused_where_it_is_spread(here, tmp_path, more):
    def work(world):
        with pytest.raises(
            BadSetting, match=f"--{next(iter(more))} needs the whole teacher in one process, and --mesh shard"
        ):
            ask(here, tmp_path / "never", mesh="shard", **more)
        with pytest.raises(BadSetting, match=r"capture is one process.* add --mesh shard"):
            ask(here, tmp_path / "never", **more)
        return "refused"

    assert on_ranks(2, work) == ["refused"] * 2
    assert not (tmp_path / "never").exists()


@pytest.mark.long
def test_shards_of_several_machines_are_the_whole(here, tmp_path):
    folders = [here / f"shard{i}" for i in (1, 2, 3)]
    for i, folder in enumerate(folders, start=1):
        ask(here, folder.name, shard=f"{i}/3")
    with pytest.raises(BadModel, match="is one shard: it has the logits of rows 0 to"):
        distil(here, "of-shard", teacher=str(folders[0]))
    with pytest.raises(BadModel, match=r"rows [\d,]+ to [\d,]+ are missing before"):
        merge(tmp_path / "torn", [folders[0], folders[2]])
    with pytest.raises(BadModel, match="come twice"):
        merge(tmp_path / "torn", [folders[0], folders[1], folders[1], folders[2]])
    merged = merge(tmp_path / "merged", [folders[2], folders[0], folders[1]])
    assert merged["rows"] == Captured(here / "whole").logits.rows
    store, _ = Captured(tmp_path / "merged").stores()
    everything = Rows(store, length=LENGTH).rows_of(np.arange(merged["rows"]))
    whole, parts = (Captured(folder).logits(everything) for folder in (here / "whole", tmp_path / "merged"))
    # in another company of rows a matrix product rounds otherwise, which may move one step of the code
    torch.testing.assert_close(parts.log_p, whole.log_p, rtol=0, atol=0.05)
    assert (parts.ids == whole.ids).float().mean() > 0.99
    assert merge(tmp_path / "merged", folders) == merged  # again is nothing new


class Machines:
    """A cluster of this process."""

    workers = 3

    def run(self, tasks, report, watch=int):
        for task in tasks:
            kind, message = (DONE, "") if task.done else attempt(task)
            require_done(task, kind, message)
            watch()
            report(task, 0.0)


@pytest.mark.long
def test_a_capture_by_workers_has_the_bytes_of_one_process(here, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(spread, "cluster", lambda *_, **__: nullcontext(Machines()))
    result = ask(here, tmp_path / "out", ray="auto")
    said = capsys.readouterr().err
    assert "3 shards of about" in said
    assert f"logits  {tmp_path / 'out'}" in said  # the last screen, which a worker printed
    assert result["rows"] == Captured(here / "whole").logits.rows
    found, whole = (content(folder) for folder in (tmp_path / "out", here / "whole"))
    for name in ("README.md", "run.json", "measured/cost.json"):  # which hold times and places
        assert found.pop(name) != whole.pop(name)
    assert found == whole
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(BadFolder, match=r"holds no run \(it holds letter\.txt\): nothing was written"):
        ask(here, tmp_path / "mine", ray="auto")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("damage", [lambda file: file.write_text(file.read_text()[:40]), Path.unlink])
def test_a_damaged_shard_of_a_stopped_capture_is_captured_again(here, tmp_path, damage):
    settings = CaptureSettings(teacher=str(here / "teacher"), data=str(here / "text.jsonl"), out=tmp_path)
    shard = spread._Shard(settings, Part(0, 7), {}, "cpu")
    shutil.copytree(here / "whole" / ANSWERS, shard.folder / ANSWERS)
    shard.drop_if_damaged()  # it is not finished, and continues
    write_json(shard.folder / RESULT, {})
    shard.drop_if_damaged()
    assert (shard.folder / RESULT).exists()
    damage(shard.folder / ANSWERS / MANIFEST)
    shard.drop_if_damaged()
    assert not shard.folder.exists()


def test_a_shard_on_another_kind_of_device_is_refused(here, tmp_path):
    keys = {"teacher": str(here / "teacher"), "data": str(here / "text.jsonl"), "out": here / "whole", "threads": 1}
    said = "this machine computes on cpu, the one that prepared the capture on cuda"
    with pytest.raises(Mismatch, match=said):
        capture_part(CaptureSettings(device="cpu", **keys), Part(0, 7), tmp_path / "rows", made_from={}, device="cuda")
    assert not (tmp_path / "rows").exists()


def test_a_second_command_on_a_cluster_leaves_the_first_alone(here, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(spread, "cluster", lambda *_, **__: nullcontext(begun.append("mark")))
    shards = tmp_path / "out" / spread.SHARDS
    with ThreadPoolExecutor(1) as first:
        first.submit(take, shards).result()
        try:
            with pytest.raises(BadFolder, match=r"\.shards: another limbeck process .* is writing to it"):
                ask(here, tmp_path / "out", ray="auto")
        finally:
            first.submit(release, shards).result()
    assert not begun


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"ray": None, "shards": 3}, "--shards 3: workers of a Ray cluster take them; add --ray ADDRESS"),
        ({"shard": "1/4"}, "--shard 1/4: with --ray the workers take all shards: give --shards 4 instead"),
        ({"mesh": "shard"}, "--mesh shard: with --ray each worker has one GPU and a whole teacher"),
        ({"device": "cuda:1"}, "--device cuda:1: with --ray each worker gets a free GPU"),
        ({"teacher": "http://localhost:1/v1#m", "tokenizer": "."}, "is on a server, which computes"),
    ],
)
def test_what_does_not_go_with_a_cluster_is_refused(here, tmp_path, more, said):
    with pytest.raises(BadSetting) as error:
        ask(here, tmp_path / "no", **({"ray": "auto"} | more))
    assert said in str(error.value)
    assert not (tmp_path / "no").exists()


@pytest.mark.long
def test_shards_of_different_things_are_not_merged(here, tmp_path):
    ask(here, "one", shard="1/2")
    ask(here, "two", shard="2/2", seed=5)
    with pytest.raises(Mismatch, match=r"was made from another seed than .*: 5 there, 0 here"):
        merge(tmp_path / "out", [here / "one", here / "two"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    ask(here, "half", shard="2/2")
    with pytest.raises(BadFolder, match="holds something else"):
        merge(tmp_path / "full", [here / "one", here / "half"])


@pytest.mark.long
def test_a_merge_that_was_killed_anywhere_is_done_by_the_same_command(here, tmp_path):
    shards, out = [here / "left", here / "right"], tmp_path / "out"
    for i, folder in enumerate(shards, start=1):
        ask(here, folder.name, shard=f"{i}/2")
    states = stops(lambda out: merge(out, shards), out, tmp_path / "stops")
    expected = content(out)
    assert Captured(out).logits.damaged() == []
    assert len(states) > 40
    for state in states:
        shutil.rmtree(out)
        state.rename(out)
        if not (out / "answers" / "cache.json").exists():
            with pytest.raises((BadModel, BadSetting), match=r"not complete|expected a folder"):
                inspect(out)
        merge(out, shards)
        assert content(out) == expected, state.name


@pytest.mark.parametrize("part", ["answers/answers-000000000000.arrow", "data/train/00000.arrow", "measured/cost.json"])
def test_a_merge_looks_at_what_it_merges(part, here, tmp_path):
    for i, name in enumerate(("left", "right"), start=1):
        ask(here, name, shard=f"{i}/2")
    shutil.copytree(here / "left", tmp_path / "left")
    data = bytearray((tmp_path / "left" / part).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "left" / part).write_bytes(data)
    with pytest.raises(BadModel, match=re.escape(str(tmp_path / "left" / part))):
        merge(tmp_path / "out", [tmp_path / "left", here / "right"])
    assert not (tmp_path / "out").exists()


def test_names_that_lead_out_of_a_shard_are_not_followed(here, tmp_path):
    for i, name in enumerate(("left", "right"), start=1):
        ask(here, name, shard=f"{i}/2")
    shutil.copytree(here / "left", tmp_path / "left")
    manifest = read_json(tmp_path / "left" / "answers" / "cache.json")
    manifest["shards"][0]["file"] = "../../../planted"
    write_json(tmp_path / "left" / "answers" / "cache.json", manifest)
    with pytest.raises(BadModel, match=r"cache\.json: expected the bare name of a file - at `\$\.shards\[0\]\.file`"):
        merge(tmp_path / "out", [tmp_path / "left", here / "right"])
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_a_capture_that_is_killed_goes_on_to_the_same_bytes(here):
    process = subprocess.Popen(command(here, "killed"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    part = here / "killed" / ANSWERS / "answers-000000000000.part"
    while process.poll() is None and not (part.exists() and part.stat().st_size):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    ask(here, "killed")  # what the same command does
    for file in (here / "whole" / ANSWERS).glob("*.arrow"):
        assert file.read_bytes() == (here / "killed" / ANSWERS / file.name).read_bytes()


def test_verify_finds_damage_and_another_teachers_answers(here, tmp_path):
    found = verify(here / "whole", rows=8, seed=1, console=console)
    assert found["ok"]
    assert found["nats_off"] < 0.02
    kept = json.loads((here / "whole" / "certificate.json").read_text())
    assert found["certificate"]["codec"] == kept["codec"]
    broken = tmp_path / "broken"
    shutil.copytree(here / "whole", broken)
    file = next((broken / ANSWERS).glob("*.arrow"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 64
    file.write_bytes(bytes(data))
    found = verify(broken, rows=8, seed=1, console=console)
    assert not found["ok"]
    assert len(found["damaged"]) == 1
    assert found["messages"] == [
        f"{file}: expected SHA-256 {sha256_of(here / 'whole' / ANSWERS / file.name)[:12]}…, got {sha256_of(file)[:12]}…: it is "
        "missing or damaged: copy it again, or run its command again without it."
    ]


def test_verify_looks_at_the_text_too_and_at_any_folder(here, tmp_path, monkeypatch, capsys):
    """The tokens of the text, which decide what a student learns, and what else is kept."""
    ask(here, "left", shard="1/2")
    for part in (
        "data/train/00000.arrow",
        "teacher/config.json",
        "held_out/cache.json",
        "certificate.json",
        "run.json",
    ):
        broken = tmp_path / "broken"
        shutil.copytree(here / "left", broken)
        data = bytearray((broken / part).read_bytes())
        data[len(data) // 2] ^= 1
        (broken / part).write_bytes(data)
        monkeypatch.setattr(sys, "argv", ["limbeck", "verify", str(broken), "--json"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 1
        said = json.loads(capsys.readouterr().out)["messages"]
        assert [message.startswith(f"{broken / part}: ") for message in said] == [True]
        shutil.rmtree(broken)


@pytest.mark.long
def test_the_commands_of_a_cache_speak(here, monkeypatch, capsys):
    def run(*argv, status=0):
        monkeypatch.setattr(sys, "argv", ["limbeck", "cache", *map(str, argv)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == status
        return capsys.readouterr()

    facts = json.loads(run("inspect", here / "whole", "--json").out)
    assert facts["tokens"] == facts["rows"] * LENGTH
    assert set(facts["made_from"]) >= {"teacher", "tokenizer", "corpus", "codec", "seed", "dtype", "length", "rows"}
    assert "expected a folder that limbeck capture wrote" in run("inspect", here, status=2).err
    text, teacher = here / "text.jsonl", here / "teacher"
    kinds = json.loads(run("choose", "--teacher", teacher, "--data", text, "--length", LENGTH, "--json").out)["kinds"]
    by_kind = {
        word: [k["damage"]["ForwardKL"]["bias"]["value"] for k in kinds if word in k["codec"]]
        for word in ("sampled", "top-")
    }
    assert min(by_kind["top-"]) > max(min(by_kind["sampled"]), 1e-4)  # this teacher is flat


def outputs_of(teacher, blocks: int):
    for seed in range(blocks):
        one = batch(4, LENGTH, vocab=teacher.vocab, seed=seed)
        with torch.no_grad():
            yield one, teacher(one)


def test_the_bias_of_top_k_outcomes_is_that_of_the_certificate(here):
    """The head's gradient over many positions, computed here in the plain way, is off by as much."""
    teacher = frozen(llama(tok=tokenizer(), seed=2))
    codec = TopK(teacher.vocab, 4, 12)
    told = certify(outputs_of(teacher, 24), [codec], objectives=["ForwardKL"], seed=0)[0].damage["ForwardKL"]
    generator = np.random.default_rng(5)
    true, seen = 0.0, 0.0
    for one, outputs in outputs_of(teacher, 24):
        here_ = one.weight.reshape(-1).nonzero().squeeze(-1)
        logits = Outputs(outputs.hidden, outputs.head, outputs.vocab).logits()[here_].float()
        unlike = torch.from_numpy(generator.standard_normal(logits.shape).astype(np.float32))
        student = logits / 1.5 + unlike
        chunk = Chunk(one.targets.reshape(-1)[here_], torch.ones(len(here_)))
        hidden = outputs.hidden.reshape(-1, outputs.hidden.shape[-1])[here_]
        uniform = np.zeros(len(here_))
        kept = codec.decode(packed_log_p(logits.log_softmax(-1), codec, uniform))
        objective = parse("ForwardKL")
        true += hidden.T @ value_and_gradient(objective, student.clone(), Signal(logits), chunk)[1]
        seen += hidden.T @ value_and_gradient(objective, student.clone(), kept, chunk)[1]
    off = float((seen - true).norm() / true.norm())
    assert told.bias.low * 0.8 <= off <= told.bias.high * 1.25
    assert told.bias.value > 0.05


@pytest.mark.long
def test_sampled_outcomes_have_no_bias_and_noise_that_falls_with_their_number(here):
    teacher = frozen(llama(tok=tokenizer(), seed=2))
    few, many = certify(
        outputs_of(teacher, 24),
        [Sampled(teacher.vocab, 4), Sampled(teacher.vocab, 64)],
        objectives=["ForwardKL", "ReverseKL"],
        seed=0,
    )
    assert set(few.damage) == {"ForwardKL"}
    assert few.damage["ForwardKL"].bias.low <= 0.01
    assert many.damage["ForwardKL"].noise.value < 0.5 * few.damage["ForwardKL"].noise.value
    assert few.top1_kept.value == many.top1_kept.value == 1
    assert few.positions < STEP


@pytest.mark.parametrize("value", ["3", "0/2", "3/2", "a/b"])
def test_a_shard_is_one_of_several(value, here):
    with pytest.raises(BadSetting, match="--shard: expected which of how many machines this is, such as 3/16"):
        ask(here, "no", shard=value)


@pytest.mark.long
def test_too_few_bytes_and_too_many_machines_are_errors(here):
    with pytest.raises(
        BadSetting, match=r"--bytes-per-token 4: 4 bytes a token hold 0 outcomes of .* give \d+ or more"
    ):
        ask(here, "small-bytes", bytes_per_token=4)
    with pytest.raises(BadSetting, match=r"the text has [\d,]+ rows only; share it among fewer machines"):
        ask(here, "many-machines", shard="1/99999")


def test_a_stores_text_that_was_changed_is_another_corpus(here, tmp_path):
    shutil.copytree(here / "whole", tmp_path / "cache")
    manifest = tmp_path / "cache" / "data" / "train" / "manifest.json"
    facts = json.loads(manifest.read_text())
    write_json(manifest, facts | {"corpus_sha256": "0" * 64})
    assert TokenStore.open(manifest.parent).tokens
    with pytest.raises(Mismatch, match="were captured from another corpus"):
        distil(here, "changed", teacher=str(tmp_path / "cache"))

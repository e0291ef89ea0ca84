"""What comes after the trainings of smollm2.sh: the runs are judged, and the page is written from what was committed."""

import json
import shutil
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

import limbeck
from limbeck.corpora.tokenizer import BOS
from limbeck.probes import Measurements
from tests.helpers.models import texts, write_teacher
from tests.helpers.pages import check_page

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
LEVELS = {  # nats per token of each arm, in which all claims hold
    "20m": {"teacher": 1.0, "student": 2.0, "cut": 6.0, "cut+ce": 2.2, "cut+ce@flops": 2.3, "fresh+kd": 2.5},
    "40m": {"teacher": 1.0, "student": 1.8, "cut": 5.0, "cut+ce": 2.0, "cut+ce@flops": 2.1},
    "20m-taid": {"student": 1.9},
    "20m-cross-entropy": {"student": 2.15},
    "cut-depth": {"student": 4.0, "cut": 9.0},
    "cut-width": {"student": 3.9, "cut": 8.0},
    "cut-both": {"student": 3.6, "cut": 7.7},
    "lr-1e-3": {"student": 3.4, "cut+ce": 3.2},
    "lr-2e-3": {"student": 3.3, "cut+ce": 3.25},
    "mix-0.5": {"student": 3.1},
}


def script(name):
    """A script of docs/results, as a module."""
    sys.path.insert(0, str(RESULTS))
    try:
        return import_module(name)
    finally:
        sys.path.remove(str(RESULTS))


def measured(file: Path, level: float, seed: int) -> None:
    """A measurement of 40 documents of 100 tokens, about so many nats each token."""
    nats = 100 * level + np.random.default_rng(0).normal(0, 1, 40) + seed / 100
    file.parent.mkdir(parents=True, exist_ok=True)
    Measurements(np.full(40, 100.0), nats, np.ones((40, 15, 3))).save(file)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """The folders of all runs: those of one small distillation of captured logits, with the levels of `LEVELS`."""
    here = tmp_path_factory.mktemp("smollm2")
    write_teacher(here)
    data = here / "text.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(60)))
    asked = {"teacher": str(here / "teacher"), "data": str(data), "vocab": 280, "length": 32, "threads": 1}
    limbeck.capture(**asked, out=here / "logits", tokens=640)
    limbeck.distil(
        teacher=str(here / "logits"),
        tokens="1k",
        params="9k",
        seed=100,
        seeds=2,
        baselines="cut",
        out=here / "one",
        threads=1,
    )
    for name, arms in LEVELS.items():
        shutil.copytree(here / "one", here / name)
        shutil.rmtree(here / name / "measurements")
        for arm, value in arms.items():
            for seed in [100] if arm == "teacher" else [100, 101]:
                measured(here / name / "measurements" / f"{arm}-seed{seed}.safetensors", value, seed)
    shutil.rmtree(here / "one")
    (here / "lr-3e-4").mkdir()  # stopped before it had a plan
    (here / "lr-3e-4" / "run.json").write_text(json.dumps({"signature": {}}))
    return here


@pytest.mark.long
def test_runs_in_which_all_claims_hold_are_judged_so(runs, tmp_path):
    script("smollm2").judge(runs, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["verdicts"] == dict.fromkeys(("equal tokens", "equal compute", "start", "TAID", "40M"), "confirmed")
    assert (found["chosen"], found["best_epochs"]) == ("both", "1")
    assert found["gains"]["equal compute"][0]["value"] == pytest.approx(0.3)
    assert found["gains"]["equal compute"][1]["value"] == pytest.approx(0.15)
    run = json.loads((runs / "20m" / "run.json").read_text())
    assert found["models"]["20M"]["shape"] == found["cuts"]["depth"]["shape"] == run["student"]["shape"]
    assert found["models"]["40M"]["parameters"] == run["student"]["parameters"]
    assert set(found["models"]["20M"]["bits_per_byte"]) == {"teacher", "student", "cut"}
    assert (found["seeds"], found["documents"]) == ([100, 101], 40)
    assert list(found["trials"]) == ["lr-1e-3", "lr-2e-3", "mix-0.5"]
    assert found["trials"]["lr-1e-3"]["learning_rate"] == run["plan"]["learning_rate"]
    assert {arm: round(one["value"], 1) for arm, one in found["trials"]["lr-1e-3"]["nats"].items()} == {
        "cut+ce": 3.2,
        "student": 3.4,
    }
    assert found["seconds"]["20m"] == run["seconds"]
    assert found["vocabulary"]["tokens"][1] == 280


FILES = ("teacher, Q4_1", *(f"{size}, {kind}" for size in ("20M", "40M") for kind in ("f32", "bf16", "q8_0", "q4_0")))


def interval(value, **more):
    return {"value": value, "low": value - 0.01, "high": value + 0.01} | more


def file_row(number, name):
    rate = {
        "tokens_per_s": interval(100.0 * (number + 1), rounds=15),
        "times_teacher": interval(number + 1.0, rounds=15),
    }
    compared = {
        "notes": [],
        "kl": interval(0.001),
        "same": interval(0.99),
        "difference": interval(0.002),
        "tokens": 900,
    }
    return {
        "name": name,
        "model": name.partition(",")[0],
        "bytes": 100_000_000 - 9_000_000 * number,
        "bits_per_byte": interval(0.8 + 0.05 * number, documents=40),
        "above_teacher": interval(0.05 * number, documents=40),
        "tokens": 4000,
        "bytes_per_token": 4.1,
        "exported": compared if number else None,
        "speed": {"prefill": rate | {"turns": []}, "generation": rate | {"turns": []}},
    }


def task_readings():
    """Levels of all models, and what each has more than the others that it is compared with."""
    found, models = [], ("teacher", "20M, cross-entropy", "20M, untrained", "20M", "40M, cross-entropy", "40M")
    for task in ("grammar", "last_words"):
        for number, model in enumerate(models):
            found.append({"model": model, "name": f"acc, {task}"} | interval(0.5 + 0.01 * number))
            found.append({"model": model, "name": f"bits_per_byte, {task}"} | interval(1.5))
        found.append({"model": "20M", "name": f"acc_minus_teacher, {task}"} | interval(0.1))
    return found


@pytest.fixture
def folder(runs, tmp_path) -> Path:
    """All results, as the scripts after the trainings write them."""
    script("smollm2").judge(runs, tmp_path / "out")
    files = {
        "versions": {"xllamacpp": "0.2026"},
        "machine": "Linux x86_64",
        "documents": 40,
        "timed": {"read": 128, "written": 64, "threads": 1},
        "files": [file_row(number, name) for number, name in enumerate(FILES)],
        "texts": {
            "prompt": "Once",
            "temperature": 0.8,
            "seed": 0,
            "by": {"20M, q8_0": {"greedy": " upon ```a", "drawn": " more"}},
        },
    }
    tasks = {"items": {"grammar": 5, "last_words": 4}, "readings": task_readings()}
    for name, found in (("files", files), ("tasks", tasks)):
        (tmp_path / "out" / f"{name}.json").write_text(json.dumps(found))
    return tmp_path / "out"


@pytest.mark.long
def test_the_page_is_written_from_the_results(folder):
    page = script("smollm2_page")
    page.write(str(folder))
    written = (folder / "README.md").read_text(encoding="utf-8")
    check_page(folder)
    assert "5 claims: 5 confirmed." in written
    assert (
        "A student of 73.0 MB has 0.950 bits per byte of held-out stories, its teacher of 100.0 MB 0.800; it writes 4.0 times as "
        "fast, and is better than cross-entropy at equal compute."
    ) in written
    assert (
        "| 20M, q8_0 | 73.0 MB | 0.950 (0.940 to 0.960) | +0.150 (+0.140 to +0.160) | 0.001 | 400 | 400 | 4.0 (4.0 to 4.0) |"
        in written
    )
    assert "```text\n… upon '''a\n```" in written, "a text cannot end its block"
    picture = ElementTree.fromstring((folder / "quality.svg").read_text(encoding="utf-8"))
    dots = [one for one in picture.iter() if one.tag.endswith("circle")]
    shown = len(FILES) - 2  # not those in float32
    assert len(dots) == 2 * shown + 3
    teacher = [float(one.get("cx")) for one in dots if one.get("fill") == "#b7791f"][1:]
    others = [float(one.get("cx")) for one in dots[3:] if one.get("fill") != "#b7791f"]
    assert teacher[0] > max(others[: shown - 1]), "the teacher is the largest, at the right"
    assert teacher[1] > max(others[shown - 1 :]), "and the slowest"


@pytest.mark.long
@pytest.mark.parametrize("verdict", ["refuted", "inconclusive"])
def test_what_is_said_follows_the_verdicts(folder, verdict):
    results = json.loads((folder / "results.json").read_text())
    results["verdicts"] = dict.fromkeys(results["verdicts"], verdict)
    (folder / "results.json").write_text(json.dumps(results))
    page = script("smollm2_page").page(str(folder))
    assert f"5 claims: 5 {verdict}." in page
    assert "is better than cross-entropy" not in page
    assert {"refuted": "They do not pay", "inconclusive": "is undecided"}[verdict] in page


def test_the_committed_page_is_that_of_its_files():
    """The page is there as soon as results are, and not before."""
    if not (RESULTS / "smollm2" / "results.json").exists():
        assert not (RESULTS / "smollm2" / "README.md").exists(), "figures that stand in for results are not published"
        return
    page, picture = script("smollm2_page"), script("smollm2_picture")
    read = page.read
    assert (RESULTS / "smollm2" / "README.md").read_text(encoding="utf-8") == page.page(), (
        "run: python docs/results/smollm2_page.py"
    )
    assert (RESULTS / "smollm2" / "quality.svg").read_text(encoding="utf-8") == picture.drawn(
        read("smollm2/files.json"), read("smollm2/results.json")
    )


@pytest.fixture
def exported(runs, tmp_path, monkeypatch) -> Path:
    """The runs with the files of their students, and a teacher with its file; few and short texts."""
    steps, files, asked = (script(name) for name in ("smollm2_tasks", "smollm2_files", "smollm2"))
    here = tmp_path / "runs"
    shutil.copytree(runs, here)
    for run in ("20m", "40m"):
        for arm in ("cut+ce", "cut+ce@flops"):
            for seed in (100, 101):
                shutil.copytree(here / run / "student", here / run / "baselines" / f"{arm}-seed{seed}" / "student")
        kinds = ",".join(f"gguf:{kind}" for kind in files.KINDS)
        limbeck.export(model=str(here / run / "student"), to=kinds, out=here / f"{run}-files", threads=1)
    asked.write_texts(here / "text", {"held_out": texts(5, seed=3)})
    limbeck.export(
        model=str(here / "teacher"), to="gguf:f32", data=str(here / "text.jsonl"), out=here / "file", threads=1
    )
    (file,) = (here / "file").glob("*.gguf")
    for module in (steps, files):
        monkeypatch.setattr(module, "TEACHER", str(here / "teacher"))
        monkeypatch.setattr(module, "OPENING", BOS)
    monkeypatch.setattr(files, "SHIPPED", {"smollm2-135m": SimpleNamespace(file=lambda: file)})
    for name, value in {"LENGTH": 32, "READ": 8, "WRITTEN": 4, "ROUNDS": 3, "NEW": 5, "PROMPT": "the cat"}.items():
        monkeypatch.setattr(files, name, value)
    return here


@pytest.mark.extras
def test_files_are_measured_in_llama_cpp(exported, tmp_path):
    pytest.importorskip("xllamacpp", reason="the package xllamacpp is not installed")
    script("smollm2_files").main(exported, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "files.json").read_text())
    by = {row["name"]: row for row in found["files"]}
    assert tuple(by) == FILES
    whole = limbeck.probe(model=str(exported / "teacher"), data=str(exported / "text/held_out.jsonl"), length=32)
    assert by["teacher, Q4_1"]["bits_per_byte"]["value"] == pytest.approx(
        whole.readings["bits_per_byte"].value, abs=1e-4
    )
    student, teacher = by["20M, f32"], by["teacher, Q4_1"]
    assert student["above_teacher"]["value"] == pytest.approx(
        student["bits_per_byte"]["value"] - teacher["bits_per_byte"]["value"]
    )
    assert teacher["above_teacher"] is teacher["speed"]["prefill"]["times_teacher"] is None
    assert len(student["speed"]["generation"]["turns"]) == 3
    assert student["exported"]["kl"]["value"] < 1e-4
    assert set(found["texts"]["by"]) == {"teacher, Q4_1", "20M, q8_0", "40M, q8_0"}


@pytest.mark.extras
def test_tasks_are_measured_of_all_models(exported, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="the package lm_eval is not installed")
    data, words = tmp_path / "data" / "tasks", [" ".join(one.split()[:5]) for one in texts(40)]
    pairs = [
        {"sentence_good": one, "sentence_bad": one[::-1], "UID": str(number % 2)} for number, one in enumerate(words)
    ]
    for name, rows in (("blimp/blimp_67x100", pairs), ("lambada/lambada_test", [{"text": one} for one in words])):
        (data / name).parent.mkdir(parents=True)
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("LIMBECK_TEST_DATA", str(tmp_path / "data"))
    steps = script("smollm2_tasks")
    monkeypatch.setattr(steps, "tasks", lambda runs, folder: chosen(steps, data, folder))
    steps.main(exported, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert found["items"] == {"grammar": 2 * steps.PAIRS, "last_words": 40}
    assert found["cross_entropy"] == {"20M": "cut+ce", "40M": "cut+ce"}
    by = {(one["model"], one["name"]): one for one in found["readings"]}
    models = ("teacher", "20M, cross-entropy", "20M, untrained", "20M", "40M, cross-entropy", "40M")
    assert {model for model, _ in by} == set(models)
    # the baselines of this run are its student
    assert by["20M", "bits_per_byte_minus_cross-entropy, grammar"]["value"] != 0  # but for the second seed
    untrained = by["20M", "bits_per_byte, grammar"]["value"] - by["20M, untrained", "bits_per_byte, grammar"]["value"]
    assert by["20M", "bits_per_byte_minus_untrained, grammar"]["value"] == pytest.approx(untrained)


def chosen(steps, data, folder):
    """Both tasks, as of a vocabulary that has every word whole."""
    rows = {
        "grammar": steps.grammar(data / "blimp/blimp_67x100.jsonl", lambda text: True),
        "last_words": steps.last_words(data / "lambada/lambada_test.jsonl", lambda word: True),
    }
    for name, some in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return [str(folder / f"{name}.jsonl") for name in rows]


def test_items_are_those_whose_words_are_kept(tmp_path):
    steps = script("smollm2_tasks")
    pairs = [{"sentence_good": f"a {n}", "sentence_bad": f"b {n}", "UID": "x"} for n in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    found = steps.grammar(tmp_path / "pairs.jsonl", lambda text: int(text[2:]) % 3 == 0)
    assert [row["sentence_good"] for row in found] == [f"a {3 * n}" for n in range(steps.PAIRS)]
    rows = [{"text": f"one two\n\n{n} {'abc'[n % 3]}"} for n in range(6)]
    (tmp_path / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = steps.last_words(tmp_path / "words.jsonl", lambda word: word == " b")
    assert found == [{"prompt": f"one two\n\n{n}", "target": " b"} for n in (1, 4)]

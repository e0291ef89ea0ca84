"""What comes after the trainings of smollm2-stages.sh: models are measured and judged, and the page is written."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import limbeck
from limbeck.planning.cost.size import Size
from limbeck.probes.interval import Interval
from limbeck.probes.overlap import Overlap
from tests.helpers.models import llama, texts, write_teacher
from tests.helpers.pages import check_page
from tests.test_smollm2 import RESULTS, measured, script

DIGEST = "736d2e16dcc9c1bd"  # of the criterion; it stood before the first run, and a change needs other seeds
SEEDS = (410, 411, 412)
LEVELS = {  # nats per token on stories and on answers, in which on-policy is better and chat costs something
    "teacher": (2.0, 2.1),
    "start": (2.5, 4.0),
    "on-policy": (2.4, 4.0),
    "off-policy": (2.45, 4.0),
    "more": (2.4, 4.1),
    "on-policy, chat": (2.7, 3.0),
    "more, chat": (2.7, 3.2),
    "more, more": (2.3, 4.1),
}
OWN = {"start": 0.9, "on-policy": 0.5, "off-policy": 0.7, "more": 0.8}
RATES = {"on-policy": (2.5, 2.4), "more": (2.3, 2.4), "chat": (3.5, 3.0)}
FLOPS_STEPS, ROWS, LENGTH = 130, 2, 512


def record(folder: Path, **about) -> None:
    usual = {"teacher": {"passes": 0.5, "parameters": 99}, "seconds": 60.0, "versions": {"limbeck": "0"}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(usual | about))


def own(file: Path, kl: float) -> None:
    """40 documents with texts of 50 tokens, half of which ended."""
    ones, noise = np.ones(40), np.random.default_rng(0).normal(0, 0.01, 40)
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = dict.fromkeys(("tokens", "shared", "mass", "teachers_mass", "entropy", "teachers_entropy"), 50 * ones)
    Overlap(**columns, kl=50 * (kl + noise), texts=2 * ones, ended=ones).save(file)


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    here = tmp_path / "runs"
    for place, hidden in (("start/student", 32), ("whole", 64), ("builtin", 64)):
        llama(hidden=hidden).config.save_pretrained(here / place)
    monkeypatch.setattr(script("smollm2-stages"), "TEACHER", str(here / "builtin"))
    arms = [{"name": name, "seed": seed, "steps": steps} for seed in SEEDS for name, steps in
            (("student", 100), ("off-policy@flops", FLOPS_STEPS))]  # fmt: skip
    plan = {"tokens": 100_000, "rows": ROWS, "length": LENGTH}
    student = {"parameters": 9, "shape": "layers=2"}
    record(here / "start", plan=plan | {"arms": []}, student=student, signature={"seed": 400})
    record(here / "on-policy", plan=plan | {"arms": arms})
    record(here / "more", plan=plan | {"arms": [one for one in arms if one["name"] == "student"]})
    record(here / "answered", written={"prompt_tokens": 300, "tokens": 700})
    for run in ("on-policy-chat", "more-chat", "more-more"):
        for seed in SEEDS:
            record(here / run / str(seed), plan=plan)
    (here / "chat").mkdir()
    (here / "chat" / "train.jsonl").write_text("{}\n{}\n")
    study = script("smollm2-stages")
    for arm, levels in LEVELS.items():
        for seed in {"teacher": (0,), "start": (400,)}.get(arm, SEEDS):
            for text, level in zip(study.TEXTS, levels, strict=True):
                measured(study.file_of(here, text, arm, seed), level, seed % 10)
            if arm in OWN:
                own(study.file_of(here, "own", arm, seed), OWN[arm])
    for stage, levels in RATES.items():
        for rate, level in zip(("3e-4", "1e-3"), levels, strict=True):
            measured(here / "rates" / f"{stage}-{rate}" / "measurements" / "student-seed390.safetensors", level, 0)
    return here


def judged(runs: Path, out: Path) -> dict:
    script("smollm2-stages").judge(runs, out)
    return json.loads((out / "results.json").read_text())


def test_the_criterion_is_that_which_stood_before_the_first_run():
    criterion = script("smollm2_stages_criterion")
    file = RESULTS / "smollm2_stages_criterion.py"
    assert criterion.digest() == hashlib.sha256(file.read_bytes()).hexdigest()[:16] == DIGEST


def test_made_runs_are_judged_by_the_criterion(runs, tmp_path):
    found = judged(runs, tmp_path / "out")
    claims = found["claims"]
    assert {name: one["verdict"] for name, one in claims.items()} == {
        "own texts": "confirmed",
        "stories": "confirmed",
        "answers": "confirmed",
        "chat": "refuted",
    }
    assert {arm: round(one["value"], 3) for arm, one in claims["own texts"]["gains"].items()} == {
        "off-policy": 0.2,
        "more": 0.3,
    }
    assert claims["answers"]["gains"]["more, chat"]["value"] == pytest.approx(0.2)
    assert claims["chat"]["gains"]["more, more"]["value"] == pytest.approx(-0.4)
    assert found["learned"]["value"] == pytest.approx(0.9)
    assert found["levels"]["on-policy"]["kl"]["value"] == pytest.approx(0.5, abs=0.01)
    assert found["levels"]["start"]["ended"]["value"] == pytest.approx(0.5)
    assert {stage: one["chosen"] for stage, one in found["rates"].items()} == {
        "on-policy": "1e-3",
        "more": "3e-4",
        "chat": "1e-3",
    }
    assert (found["criterion"], found["seeds"]) == (DIGEST, list(SEEDS))
    assert found["documents"] == {"stories": 40, "answers": 40}


@pytest.mark.parametrize(
    ("claim", "gains", "verdict"),
    [
        ("own texts", [(0.1, 0.05), (0.1, 0.05)], "confirmed"),
        ("own texts", [(0.1, 0.05), (0.1, 0.2)], "inconclusive"),
        ("own texts", [(0.1, 0.05), (-0.1, 0.05)], "refuted"),
        ("stories", [(-0.01, 0.005)], "confirmed"),
        ("stories", [(-0.02, 0.005)], "inconclusive"),
        ("chat", [(-0.03, 0.005)], "refuted"),
    ],
)
def test_each_claim_has_its_least_difference(claim, gains, verdict):
    found = [Interval(value, value - half, value + half, 40) for value, half in gains]
    assert script("smollm2_stages_criterion").judged(claim, found) == verdict


def test_stages_have_as_many_flops(runs):
    study = script("smollm2-stages")
    own, teacher, whole = (Size.of(llama(hidden=hidden).config).forward_flops(LENGTH) for hidden in (32, 64, 64))
    first = (3 * own + teacher) * FLOPS_STEPS * ROWS * LENGTH
    assert study.tokens(runs, "first") == round(first / (3 * own))
    second = (3 * own + 0.5 * teacher) * 100_000 + whole * 1000
    assert study.tokens(runs, "second") == round(second / (3 * own))


def test_every_model_has_its_folder(runs, capsys):
    study = script("smollm2-stages")
    found = {key: str(folder.relative_to(runs)) for key, folder in study.models(runs).items()}
    assert found["start", 400] == "start/student"
    assert found["on-policy", 410] == "on-policy/student"
    assert found["on-policy", 411] == "on-policy/seeds/seed411/student"
    assert found["off-policy", 410] == "on-policy/baselines/off-policy@flops-seed410/student"
    assert found["more", 412] == "more/seeds/seed412/student"
    assert found["more, chat", 411] == "more-chat/411/student"
    assert len(found) == 1 + 6 * 3
    study.main("model", runs, "more", "411")
    study.main("rate", runs, "chat")
    assert capsys.readouterr().out.splitlines() == [
        f"--student {runs / 'more/seeds/seed411/student'}",
        "--lr 1e-3",
    ]


def test_runs_of_the_script_are_those_that_are_read():
    """Folders that the study reads are written by the script, and by nothing else."""
    text = (RESULTS / "smollm2-stages.sh").read_text(encoding="utf-8")
    written = set(re.findall(r"--out \$out/([a-z$/-]+)", text))
    assert written == {
        "answered", "whole", "logits", "chat-logits", "start", "rates/on-policy-$lr", "rates/more-$lr", "rates/chat-$lr",
        "on-policy", "more", "$first-chat/$seed", "more-more/$seed",
    }  # fmt: skip
    assert set(re.findall(r"\$study ([a-z]+)", text)) == {"whole", "rate", "tokens", "model", "measure", "judge"}


@pytest.mark.long
def test_models_are_measured_on_both_texts_and_on_their_own(tmp_path, monkeypatch):
    study, here = script("smollm2-stages"), tmp_path / "runs"
    write_teacher(tmp_path)
    shutil.copytree(tmp_path / "teacher", here / "whole")
    for name in study.TEXTS.values():
        data = tmp_path / f"{name}.jsonl"
        data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(60)))
        limbeck.capture(teacher=str(here / "whole"), data=str(data), tokens=640, length=32, threads=1, out=here / name)
    folders = {("start", 400): here / "whole", ("more, chat", 410): here / "whole"}
    monkeypatch.setattr(study, "models", lambda runs: folders)
    monkeypatch.setattr(study, "LENGTH", 32)
    study.measure_all(here)
    found = study.own_texts(here, "start")
    assert float(found[0].kl.sum()) == pytest.approx(0.0, abs=1e-6), "it is its own teacher"
    assert not study.own_texts(here, "more, chat"), "only first stages are measured on their own texts"
    before = {file: file.stat().st_mtime_ns for file in (here / "measured").rglob("*.safetensors")}
    assert len(before) == 3 * 2 + 1
    study.measure_all(here)
    assert {file: file.stat().st_mtime_ns for file in (here / "measured").rglob("*.safetensors")} == before


def test_the_page_is_written_from_the_results(runs, tmp_path):
    out = tmp_path / "out"
    judged(runs, out)
    (out / "effects.svg").write_text("<svg/>")
    check_page(out)
    written = (out / "README.md").read_text(encoding="utf-8")
    assert "4 claims: 3 confirmed, 1 refuted." in written
    assert "than as much compute of anything else; it costs nothing on stories." in written
    assert "and costs more than 0.02 nats on stories against as much compute spent on stories" in written


def test_the_committed_page_is_that_of_its_results():
    folder = RESULTS / "smollm2-stages"
    if not (folder / "results.json").exists():
        assert not (folder / "README.md").exists(), "figures that stand in for results are not published"
        return
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert found["criterion"] == DIGEST
    assert (folder / "README.md").read_text(encoding="utf-8") == script("smollm2_stages_page").page(found)

"""The sample package of examples/plugin: installed as pip would, each of its six kinds is used from Python and a command line."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.helpers.models import texts, write_corpus, write_teacher

PLUGIN = Path(__file__).parents[1] / "examples" / "plugin"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the package installed in ``site``, a teacher, and a text as CSV."""
    folder = tmp_path_factory.mktemp("plugin")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    source = folder / "source"
    subprocess.run(["cp", "-r", str(PLUGIN), str(source)], check=True)  # a build leaves folders beside its source
    done = subprocess.run([*command, "--target", str(folder / "site"), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    write_teacher(folder)
    write_corpus(folder)
    rows = ['"' + text.replace('"', '""') + '"' for text in texts(120)]
    (folder / "texts.csv").write_text("\n".join(["text", *rows]), encoding="utf-8")
    return folder


def python(place: Path, *words: str, status: int = 0) -> str:
    """What a process of Python with the package prints."""
    env = {**os.environ, "PYTHONPATH": str(place / "site"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], cwd=place, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 else done.stderr


def limbeck(place: Path, *words: str, status: int = 0) -> str:
    return python(place, "-m", "limbeck", *words, status=status)


@pytest.mark.long
def test_a_student_is_distilled_by_its_objective_from_its_source(place):
    words = ("--teacher", "teacher", "--data", "csv:texts.csv", "--objective", "0.5*LogitMSE + 0.5*CrossEntropy")
    more = ("--tokens", "2k", "--length", "32", "--baselines", "none", "--out", "student", "--any-teacher", "--json")
    found = json.loads(limbeck(place, "distil", *words, *more))
    assert found["readings"]
    run = json.loads((place / "student" / "run.json").read_text())
    assert run["signature"]["data"] == "csv:texts.csv"
    assert "LogitMSE" in json.dumps(run["signature"])


@pytest.mark.long
def test_a_decoder_of_its_mixer_is_trained_probed_and_exported(place):
    words = ("--data", "text.jsonl", "--vocab", "300", "--width", "16", "--layers", "2")
    limbeck(
        place,
        "pretrain",
        *words,
        "--mixers",
        "average:gated=true,attention",
        "--tokens",
        "2k",
        "--length",
        "32",
        "--out",
        "own",
    )
    found = json.loads(limbeck(place, "probe", "own/model", "--probe", "top5", "--length", "32", "--json"))
    top5 = found["readings"]["top5_accuracy"]
    assert 0 <= top5["low"] <= top5["value"] <= top5["high"] <= 1
    assert top5["n"] > 1
    assert "measured_on" in found
    exported = json.loads(limbeck(place, "export", "own/model", "--to", "npz", "--out", "weights", "--json"))
    assert exported["kl_nats"] == 0.0
    assert (place / "weights" / "model.npz").stat().st_size > 0
    said = limbeck(place, "export", "own/model", "--to", "npz", "--dtype", "float16", "--out", "half", status=2)
    assert "an npz archive has float32 alone" in said
    # without the package the folder names what is missing; with its own code beside it, it runs
    without = "import limbeck, sys; limbeck.load('own/model')"
    env = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", without], cwd=place, env=env, capture_output=True, text=True, check=False
    )
    assert "there is no mixer 'average'" in done.stderr
    assert "One of a package is there once that package is installed" in done.stderr
    assert "class Average(Mixer):" in (place / "own" / "model" / "limbeck_sample_mixer.py").read_text()


@pytest.mark.long
def test_its_paper_is_reproduced(place):
    found = json.loads(limbeck(place, "reproduce", "wald", "--scale", "small", "--json"))
    assert [one["verdict"] for one in found["judged"]] == ["confirmed"]
    assert found["criterion"]["digest"]
    page = (place / "runs" / "wald-small" / "README.md").read_text()
    assert "No register has this criterion" in page
    parts = json.loads((place / "runs" / "wald-small" / "run.json").read_text())["criteria"][0]["parts"]
    assert {"limbeck_sample.paper.judge_wald", "limbeck_sample.paper.CLEARLY", "probes.interval.wilson"} <= set(parts)


USE = """
import torch
from limbeck.corpora.source import SOURCES, read
from limbeck.exporters.named import EXPORTERS
from limbeck.models.mixers.documents import Documents
from limbeck.models.mixers.mixer import Dims
from limbeck.models.mixers.named import MIXERS
from limbeck.models.mixers.pattern import build
from limbeck.objectives import ForwardKL, parse
from limbeck.papers import PAPERS, recipe
from limbeck.plugins import PROBES
from limbeck.types import Chunk, Signal

for registry, name in ((SOURCES, "csv"), (EXPORTERS, "npz"), (MIXERS, "average"), (PAPERS, "wald"), (PROBES, "top5")):
    assert name in list(registry) and registry[name] is not None, name
assert len(list(read("csv:texts.csv"))) == 120
objective = parse("LogitMSE")
torch.manual_seed(0)
logits, p = torch.randn(5, 7), torch.randn(5, 7)
chunk = Chunk(torch.zeros(5, dtype=torch.long), torch.ones(5))
centred = (p - p.mean(-1, keepdim=True)) - (logits - logits.mean(-1, keepdim=True))
torch.testing.assert_close(objective(logits, Signal(p), chunk), centred.square().mean(-1) / 2)
torch.testing.assert_close(objective(p + 3, Signal(p), chunk), torch.zeros(5), atol=1e-6, rtol=0)
mixer = build("average", Dims(width=6, heads=1, kv_heads=1, head_dim=6))
x = torch.randn(2, 9, 6)
documents = Documents.of(torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5, 6, 0, 1]]))
v = mixer.v_proj(x)
expected = torch.stack([torch.stack([v[r, t - int(documents.reach[r, t]) : t + 1].mean(0) for t in range(9)]) for r in range(2)])
torch.testing.assert_close(mixer.parallel(x, documents), mixer.o_proj(expected), atol=1e-6, rtol=1e-5)
torch.testing.assert_close(mixer.recurrent(x, documents)[0], mixer.o_proj(expected), atol=1e-6, rtol=1e-5)
print(recipe("wald").title)
"""


@pytest.mark.long
def test_each_is_used_from_python(place):
    assert python(place, "-c", USE) == "How often the usual interval holds the truth\n"


def test_each_kind_is_there_in_one_file():
    groups = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]["entry-points"]
    kinds = ("objectives", "mixers", "probes", "sources", "exporters", "papers")
    assert set(groups) == {f"limbeck.{kind}" for kind in kinds}
    files = {value.partition(":")[0] for found in groups.values() for value in found.values()}
    assert {f"limbeck_sample.{file.stem}" for file in (PLUGIN / "limbeck_sample").glob("[a-z]*.py")} == files

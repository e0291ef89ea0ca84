"""`make studies`: the scripts of docs/results, which make the committed results, run with the code of today.

Commands of each shell script are read as limbeck reads them. Each Python script runs to its end at a tiny size, and writes every
value that the committed file of its study has.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from limbeck import cli, commands, dispatch
from limbeck.models.save import save
from limbeck.probes import Measurements
from limbeck.run.optim import learning_rate
from tests.helpers.models import llama, texts, tokenizer
from tests.test_headlines import script

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
STUDIES = sorted(RESULTS.glob("*.sh"))

# Stands for a program: writes down what it was called with.
RECORDER = """#!{python}
import json, os, sys

with open(os.environ["CALLS"], "a") as file:
    print(json.dumps(sys.argv), file=file)
"""
# Runs a script's main function with some of its constants smaller, and little text generated, as in conftest.py.
TINY = """
import json, sys
from importlib import import_module

folder, name, constants, *arguments = sys.argv[1:]
sys.path.insert(0, folder)
sys.argv = [f"{folder}/{name}.py", *arguments]
script = import_module(name)
vars(script).update(json.loads(constants))
cost, samples = (import_module(f"limbeck.probes.{name}") for name in ("cost", "samples"))
cost.REPEATS, cost.PROMPT, cost.NEW, samples.NEW = 1, 24, 8, 8
script.main(*arguments)
"""


def calls_of(study: Path, folder: Path) -> list[list[str]]:
    """Commands of a shell script, none of which is run."""
    (folder / "bin").mkdir()
    (folder / "models" / "stories-llama-260k").mkdir(parents=True)
    for name in ("limbeck", "python", "cp", "mkdir"):
        (folder / "bin" / name).write_text(RECORDER.format(python=sys.executable))
        (folder / "bin" / name).chmod(0o755)
    environment = {"PATH": str(folder / "bin"), "CALLS": str(folder / "calls"), "LIMBECK_TEST_DATA": str(folder)}
    subprocess.run([shutil.which("bash"), study], cwd=folder, env=environment, check=True)
    calls = [json.loads(line) for line in (folder / "calls").read_text().splitlines()]
    return [[Path(program).name, *arguments] for program, *arguments in calls]


@pytest.mark.parametrize("study", STUDIES, ids=[study.stem for study in STUDIES])
def test_the_commands_of_a_study_are_those_of_limbeck(study, tmp_path, monkeypatch):
    read = []

    def settings_of(*given: object) -> None:
        read.append(dispatch.settings_of(*given))
        (read[-1].out / "student").mkdir(parents=True, exist_ok=True)  # which a later command may read

    monkeypatch.setattr(commands, "RUN", dict.fromkeys(commands.RUN, settings_of))
    monkeypatch.chdir(tmp_path)
    calls = calls_of(study, tmp_path)
    for program, *arguments in calls:
        if program == "python":
            assert (ROOT / arguments[0]).is_file(), arguments
        elif program == "limbeck":
            monkeypatch.setattr(sys, "argv", [program, *arguments])
            with pytest.raises(SystemExit) as stop:
                cli.main()
            assert stop.value.code == 0, shlex.join(arguments)
    assert len(read) == sum(program == "limbeck" for program, *_ in calls)
    assert {program for program, *_ in calls} & {"limbeck", "python"}


def run(script: str, constants: dict, *arguments: object, data: Path | None = None) -> None:
    """Runs a script of docs/results to its end with smaller constants."""
    file = RESULTS / script
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "LIMBECK_TEST_DATA": str(data or "")}
    command = [sys.executable, "-c", TINY, file.parent, file.stem, json.dumps(constants), *arguments]
    process = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-4000:]


def read(file: Path):
    return json.loads(file.read_text(encoding="utf-8"))


def read_text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def names(value, place: str = "") -> set[str]:
    """Every name in a JSON value, behind those that it is in."""
    if isinstance(value, list):
        return set().union(*(names(one, place) for one in value))
    if not isinstance(value, dict):
        return set()
    return set().union(*({f"{place}/{key}"} | names(one, f"{place}/{key}") for key, one in value.items()))


@pytest.fixture
def stdlib(tmp_path) -> Path:
    """A text of the built-in teacher's kind."""
    source = Path(json.__file__).parent
    text = "".join(file.read_text(encoding="utf-8") for file in sorted(source.glob("*.py")))
    parts = [text[start : start + 900] for start in range(0, len(text), 1000)]
    write_rows(tmp_path / "text.jsonl", [{"text": part} for part in parts])
    return tmp_path / "text.jsonl"


def write_rows(file: Path, rows) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.long
def test_captured_logits_runs(tmp_path, stdlib):
    tiny = {"SEEDS": [0], "OBJECTIVES": ["ForwardKL"]}
    run("caches.py", tiny, tmp_path / "out", "builtin:stdlib", stdlib, "400k", "2k")
    found = read(tmp_path / "out" / "results.json")
    assert names(read(RESULTS / "caches" / "stdlib.json")) <= names(found)
    assert [(row["kind"], row["bytes"]) for row in found["rows"]] == [
        ("live", None),
        ("drawn", 48),
        ("coarse", 48),
        ("likeliest without the rest", 48),
    ]
    assert len({row["nats"] for row in found["rows"]}) == 4


@pytest.mark.long
def test_two_tokenizers_runs(tmp_path, stdlib):
    run("alignment.py", {"SEEDS": [0]}, tmp_path / "out", "builtin:stdlib", stdlib, 300, 6000)
    found = read(tmp_path / "out" / "results.json")
    assert names(read(RESULTS / "alignment" / "stdlib.json")) <= names(found)
    assert len({row["bits_per_byte"]["value"] for row in found["rows"]}) == len(found["rows"]) == 7


@pytest.mark.long
def test_verdicts_runs(tmp_path, stdlib):
    tiny = {"TRAININGS": 6, "GROUPINGS": 40, "SEEDS": [1], "JUDGED": [1]}
    run("verdicts.py", tiny, tmp_path / "out", "builtin:stdlib", stdlib, "400k", "2k")
    found = read(tmp_path / "out" / "results.json")
    assert names(read(RESULTS / "verdicts" / "results.json")) <= names(found)
    assert (tmp_path / "out" / "rates.svg").stat().st_size > 1000


@pytest.fixture
def folder_of_data(tmp_path) -> Path:
    """A folder of texts and models as `LIMBECK_TEST_DATA`, of random words."""
    data, words = tmp_path / "data", texts(40)
    turns = [{"from": "human", "value": words[0]}]
    answer = {"from": "gpt", "value": words[1]}
    write_rows(data / "tasks/preference/dpo_en_demo.jsonl", [{"conversations": turns, "chosen": answer}] * 3)
    for name in ("train", "test"):
        write_rows(data / f"tasks/gsm8k/{name}.jsonl", [{"question": one, "answer": one} for one in words])
    write_rows(data / "tasks/alpaca/alpaca_en_demo.jsonl", [{"instruction": "a", "input": "", "output": "b"}] * 3)
    for name in ("tinystories/train", "tinystories/train_v2", "c4/c4_demo", "python_stdlib/files"):
        write_rows(data / f"text/{name}.jsonl", [{"text": one} for one in words])
    save(llama(layers=3, hidden=48), data / "models/stories-llama-260k")
    tokenizer().save_pretrained(data / "tokenizers/gpt_neox_20b")
    return data


@pytest.mark.long
def test_packing_runs(tmp_path, folder_of_data):
    tiny = {"SEEDS": [0], "LENGTH": 32, "ROWS": 2, "STEPS": 2, "STUDENT": 40_000}
    run("packing.py", tiny, tmp_path / "out", data=folder_of_data)
    assert names(read(RESULTS / "packing" / "results.json")) <= names(read(tmp_path / "out" / "results.json"))


@pytest.mark.long
def test_law_coverage_runs(tmp_path):
    run("law-coverage.py", {}, tmp_path / "out.json", 1)
    assert names(read(RESULTS / "law-coverage" / "coverage.json")) <= names(read(tmp_path / "out.json"))


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak of memory as Linux gives it")
def test_streamed_runs(tmp_path):
    tiny = {"WIDTH": 512, "FFN": 1408, "VOCAB": 2048, "TOKENS": 256, "LENGTH": 64, "CHARACTERS": 600}
    run("streamed/streamed.py", tiny, tmp_path / "out.json", 288)
    found = read(tmp_path / "out.json")
    assert names(read(RESULTS / "streamed" / "streamed.json")) <= names(found)
    assert found["answers_equal_bytes"] == 1.0


def measured(file: Path, level: float) -> None:
    """A measurement of 40 documents of 100 tokens, about so many nats each token."""
    nats = 100 * level + np.random.default_rng(0).normal(0, 1, 40)
    file.parent.mkdir(parents=True, exist_ok=True)
    Measurements(np.full(40, 100.0), nats, np.ones((40, 15, 3))).save(file)


@pytest.mark.long
def test_stories_splits_and_judges(tmp_path):
    """Runs in which all three claims hold are found to be such."""
    runs = tmp_path / "runs"
    levels = {
        "single-use": {"teacher": 1.0, "student": 2.0, "cut+ce": 2.1, "cut+ce@flops": 1.9},
        "ten-uses": {"student": 2.2, "cut+ce": 2.6, "cut+ce@flops": 2.8},
    }
    on_short = {"50k": 2.7, "100k": 2.5, "200k": 2.4, "350k": 2.5}
    levels |= {f"cross-entropy-{tokens}": {"student": level} for tokens, level in on_short.items()}
    for name, arms in levels.items():
        for arm, level in arms.items():
            for seed in range(10, 13):
                measured(runs / name / "measurements" / f"{arm}-seed{seed}.safetensors", level + seed / 1e4)
    for name in ("single-use", "ten-uses"):
        shutil.copy(RESULTS / "stories" / name / "run.json", runs / name)
    write_rows(tmp_path / "text.jsonl", [{"text": f"story {number}"} for number in range(36)])
    script = [sys.executable, RESULTS / "stories.py"]
    subprocess.run([*script, "split", tmp_path / "split", tmp_path / "text.jsonl"], check=True)
    subprocess.run([*script, "judge", runs, tmp_path / "out"], check=True, capture_output=True)
    assert len((tmp_path / "split" / "held_out.jsonl").read_text().splitlines()) == 2
    assert len((tmp_path / "split" / "long.jsonl").read_text().splitlines()) == 34
    found = read(tmp_path / "out" / "results.json")
    assert [found[claim] for claim in ("once", "ten times", "break-even")] == ["confirmed"] * 3
    assert "cross-entropy at its best (4)" in found["student_better_by"]["ten-uses"]
    committed = read(RESULTS / "stories" / "results.json")
    assert {one for one in names(committed) if "at its best" not in one} <= names(found)


def imported(monkeypatch, *names: str):
    """Scripts of benchmarks and of docs/results, by name."""
    for folder in (RESULTS, ROOT / "benchmarks"):
        monkeypatch.syspath_prepend(folder)
    return [import_module(name) for name in names]


def test_models_that_are_timed_have_the_whole_vocabulary(monkeypatch):
    """A tokenizer of fewer tokens would leave limbeck fewer logits than the loop beside it computes."""
    steps, capturing = imported(monkeypatch, "steps", "capture")
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    assert steps.model_of(shape, 2500).vocab == 2500
    monkeypatch.setattr(capturing, "WIDTH", 64)
    monkeypatch.setattr(capturing, "LAYERS", 1)
    assert capturing.teacher(2500).vocab == 2500


def test_benchmarks_keep_what_their_numbers_depend_on(monkeypatch):
    (circumstances,) = imported(monkeypatch, "circumstances")
    monkeypatch.setattr(sys, "argv", ["benchmarks/losses.py", "--tokens", "a b"])
    found = circumstances.made_by("numpy", "no-such-package")
    assert set(found) == {"command", "date", "processor", "versions"}
    assert found["command"] == "python benchmarks/losses.py --tokens 'a b'"
    assert list(found["versions"]) == ["python", "limbeck", "torch", "numpy"]
    assert found["versions"]["numpy"] == np.__version__
    assert found["processor"]
    clocks = {
        file.stem for file in (ROOT / "benchmarks").glob("*.py") if "datetime" in file.read_text(encoding="utf-8")
    }
    assert clocks == {"circumstances"}, "each script has it from there"


def test_peers_have_the_schedule_of_limbeck(monkeypatch):
    (trainings,) = imported(monkeypatch, "pair_trainings")
    for steps in (1, 3, 30, 117):
        ours = [learning_rate(step, steps=steps, peak=1.0, schedule="wsd") for step in range(steps)]
        assert [trainings.share_of_peak(step, steps) for step in range(steps)] == ours


def test_a_contender_reads_the_tokens_that_fit_the_seconds(monkeypatch):
    (pair,) = imported(monkeypatch, "real_pair")
    cell = {"cpu_s": 40.0, "capture_cpu_s": 10.0, "training_cpu_s": 20.0, "read": 5000, "epochs": 1}
    assert pair.tokens_within(110.0, cell, epochs=1) == 100 * 5000 // 30  # 10 seconds are for loading and saving
    assert pair.tokens_within(150.0, cell, epochs=3) == 10_000
    assert pair.tokens_within(150.0, cell | {"epochs": 2}, epochs=1) == 140 * 5000 // 20


@pytest.mark.parametrize(
    ("rates", "spent"), [([1.0], [200.0]), ([0.6, 0.6], [120.0, 200.0]), ([0.6, 0.9, 0.3], [120.0, 300.0, 66.7])]
)
def test_a_training_that_took_another_time_is_made_again(monkeypatch, rates, spent):
    """Each attempt goes at its own rate, relative to what was known before; the third stays whatever it took."""
    (pair,) = imported(monkeypatch, "real_pair")
    made = []

    def cell(study, kind, contender, seed, *, tokens, epochs, bf16, attempt):
        cpu_s = tokens / 10 * rates[attempt]
        made.append(cpu_s)
        return {"cpu_s": cpu_s, "capture_cpu_s": 0.0, "training_cpu_s": cpu_s, "read": tokens, "epochs": epochs}

    monkeypatch.setattr(pair.Study, "cell", cell)
    study = pair.Study(SimpleNamespace(facts={"training_tokens": 10**6}), 30_000, 200.0, (1,), (2,), ("packed loop",))
    known = {"cpu_s": 3000.0, "capture_cpu_s": 0.0, "training_cpu_s": 3000.0, "read": 30_000, "epochs": 1}
    found = study._timed("packed loop", 2, [known], bf16=True)
    assert made == pytest.approx(spent, abs=0.1)
    assert found["cpu_s"] == made[-1]


def test_a_claim_about_peers_holds_where_all_intervals_do(monkeypatch):
    (pair,) = imported(monkeypatch, "real_pair")
    low, around, high = ({"low": at - 0.1, "high": at + 0.1} for at in (-0.5, 0.0, 0.5))
    assert pair.verdict([low, low], below=0.0) == "confirmed"
    assert pair.verdict([low, around], below=0.0) == "inconclusive"
    assert pair.verdict([low, high], below=0.0) == "refuted"
    assert pair.verdict([low, None], below=0.0) == "untested"
    assert pair.verdict([around], below=0.2) == "confirmed"


@pytest.mark.long
def test_the_comparison_with_peers_runs_and_continues(tmp_path, stdlib, monkeypatch):
    contenders = ["limbeck, trimmed", "packed loop", *(["TRL GKD"] if find_spec("trl") else [])]
    command = [sys.executable, ROOT / "benchmarks" / "real_pair.py", "--folder", tmp_path / "pair", "--text", stdlib]
    command += ["--teacher", "builtin:stdlib", "--shape", "layers=2,hidden=64,heads=4,kv_heads=2,ffn=128"]
    command += [
        "--tokens",
        "2000",
        "--seconds",
        "9",
        "--seeds",
        "1",
        "--time-seeds",
        "2",
        "--judged",
        "3",
        "--contenders",
        *contenders,
    ]
    subprocess.run(command, check=True, capture_output=True)
    found = read(tmp_path / "pair" / "results.json")
    assert {(cell["kind"], cell["contender"]) for cell in found["cells"]} == {
        (kind, name) for kind in ("tokens", "time") for name in contenders
    }
    for cell in found["cells"]:
        assert 0 < cell["loaded_cpu_s"] + cell["capture_cpu_s"] + cell["training_cpu_s"] < cell["cpu_s"]
        assert len(cell["documents"]["nats"]) == found["setting"]["held_out_documents"] == 3
    of_limbeck = [cell for cell in found["cells"] if cell["contender"] == "limbeck, trimmed"]
    assert [cell["epochs"] for cell in of_limbeck] == [1, 3]
    assert all(claim["verdict"] == "untested" for claim in found["claims"].values())
    (tables,) = imported(monkeypatch, "speed_tables")
    assert tables.real_pair(found).count("\n") == 1 + 2 * (len(contenders) + 1)
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "tokens in" not in again.stderr  # every training was there
    assert read(tmp_path / "pair" / "results.json")["cells"] == found["cells"]


@pytest.mark.long
def test_the_builtin_teacher_is_shipped_in_half_precision(tmp_path):
    (tmp_path / "results").mkdir()
    save(llama(), tmp_path / "run" / "model", card="A card.")
    for name in ("run.json", "readings.jsonl"):
        (tmp_path / "run" / name).write_text("{}")
    run("builtin-stdlib.py", {}, tmp_path / "run", tmp_path / "shipped", tmp_path / "results")
    assert (tmp_path / "shipped" / "README.md").read_text(encoding="utf-8") == "A card."
    assert read(tmp_path / "shipped" / "config.json")["dtype"] == "float16"
    assert {file.name for file in (tmp_path / "results").iterdir()} == {"run.json", "readings.jsonl"}


@pytest.fixture
def chat(tmp_path) -> Path:
    """A folder of the runs of smollm2-chat.sh, in which all claims hold but that on constraints at equal compute."""
    runs = tmp_path / "runs"
    about = {
        "plan": {"arms": [{"name": "student", "seed": seed} for seed in (200, 201, 202)], "tokens": 500_000},
        "teacher": {"parameters": 111_000_000},
        "student": {"parameters": 20_000_000},
        "vocabulary": {"tokens": [49152, 9000]},
    }
    answers = {"signature": {"temperature": 0.7}, "written": {"samples": 900, "stopped": 700}}
    about["plan"]["arms"] += [{"name": "cut+ce", "seed": seed} for seed in (200, 201, 202)]
    for file, value in (("20m", about), ("answered", answers)):
        (runs / file).mkdir(parents=True)
        (runs / file / "run.json").write_text(json.dumps(value))
    write_rows(runs / "text" / "train.jsonl", [{"messages": []}] * 5)
    arms = {"student": (2.0, 12), "cut": (5.0, 2), "cut+ce": (2.2, 8), "cut+ce@flops": (2.1, 12), "teacher": (1.0, 16)}
    for arm, (nats, share) in arms.items():
        for seed in range(200, 203):
            measured(runs / "20m" / "measurements" / f"{arm}-seed{seed}.safetensors", nats + seed / 1e4)
            if (arm, seed) != ("teacher", 201) and (arm != "cut" or seed == 200):
                rows = [
                    {"key": str(n), "constraints": 1, "followed": int(n % 20 < share), "loosely": 1}
                    | {"tokens": 10 + n, "ended": n % 2 == 0}
                    for n in range(200)
                ]
                found = {"left_out": 3, "rows": rows, "by_chance": [0.1] * 200}
                name = "teacher" if arm == "teacher" else f"{arm}-seed{seed}"
                (runs / "followed").mkdir(exist_ok=True)
                (runs / "followed" / f"{name}.json").write_text(json.dumps(found))
    return runs


def test_chat_judges_and_writes_its_page(tmp_path, chat):
    study, out = script("smollm2-chat"), tmp_path / "out"
    assert set(study.models(chat / "20m")) == {
        (arm, seed) for arm in ("student", "cut+ce") for seed in (200, 201, 202)
    } | {("cut", 200)}
    assert study.models(chat / "20m")["student", 201] == chat / "20m" / "seeds" / "seed201" / "student"
    study.judge(chat, out)
    found = read(out / "results.json")
    assert list(found["verdicts"].values()) == ["confirmed"] * 4 + ["inconclusive"]
    assert found["gains"]["after training"]["value"] == pytest.approx(0.5)  # 12 and 2 of 20
    assert found["gains"]["logits, equal tokens"]["value"] == pytest.approx(0.2)
    assert found["followed"]["teacher"]["followed"]["value"] == pytest.approx(0.8)
    assert found["seeds"] == [200, 201, 202]
    title, sentence, *_ = (out / "README.md").read_text(encoding="utf-8").split("\n\n")
    assert title == "# SmolLM2 made small for chat"
    assert re.fullmatch(r"[^|!#*\n][^\n]{20,240}\.", sentence)
    assert "The student follows 60.0 % (" in (out / "README.md").read_text(encoding="utf-8")


def test_the_page_on_chat_is_that_of_its_results():
    folder = RESULTS / "smollm2-chat"
    if not folder.exists():
        pytest.skip("its results are made by `bash docs/results/smollm2-chat.sh`, which takes hours")
    made = re.compile(r"(<!-- (?:made by index\.py|table \w+): begin -->).*?(<!-- )", re.DOTALL)
    written = (
        made.sub(r"\1\2", text)
        for text in (read_text(folder / "README.md"), script("chat_page").page(read(folder / "results.json")))
    )
    assert len(set(written)) == 1, "run: python docs/results/smollm2-chat.py judge ..."


def test_prompts_for_chat_are_each_there_once_and_split(tmp_path):
    tasks, study = tmp_path / "tasks", script("smollm2-chat")
    write_rows(
        tasks / "alpaca/alpaca_en_demo.jsonl",
        [{"instruction": "a", "input": "b"}, {"instruction": "c " * 700, "input": ""}],
    )
    given = {"instruction": "a", "instances": [{"input": "b"}]}
    write_rows(tasks / "self_instruct/seed_tasks.jsonl", [given])
    write_rows(tasks / "self_instruct/user_oriented_instructions.jsonl", [given | {"instruction": "d"}])
    for name in ("mt_bench", "vicuna80"):
        write_rows(tasks / name / "question.jsonl", [{"turns": [name, "more"]}])
    turns = [{"from": "system", "value": "s"}, {"from": "human", "value": "e"}, {"from": "human", "value": "f"}]
    write_rows(tasks / "preference/dpo_en_demo.jsonl", [{"conversations": turns}])
    study.prompts(tmp_path, tmp_path / "out")
    rows = [json.loads(line) for line in read_text(tmp_path / "out" / "prompts.jsonl").splitlines()]
    assert [row["messages"][0]["content"] for row in rows] == ["a\n\nb", "d\n\nb", "mt_bench", "vicuna80", "e"]
    answers = [{"messages": [n], "prompt": n, "finish": "length" if n == 1 else "stop"} for n in range(12)]
    write_rows(tmp_path / "answered/text.jsonl", answers)
    study.split(tmp_path / "answered", tmp_path / "text")
    for name, expected in (("held_out", [0, 10]), ("train", [2, 3, 4, 5, 6, 7, 8, 9, 11])):
        rows = [json.loads(line) for line in read_text(tmp_path / "text" / f"{name}.jsonl").splitlines()]
        assert [row["messages"] for row in rows] == [[n] for n in expected]

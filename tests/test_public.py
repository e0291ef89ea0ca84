"""What a user finds at `limbeck` and at its command line: names, types, suggestions."""

import __future__

import ast
import inspect
import json
import math
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import limbeck
import limbeck.api
from limbeck.config import DistilSettings, ProbeSettings, known_keys, likely, resolve, settings_in
from limbeck.config.commands import BY_NAME, COMMANDS
from limbeck.dispatch import settings_of
from limbeck.errors import BadObjective, BadSetting
from limbeck.objectives import parse


def shown(*arguments: str, **environment: str) -> tuple[int, str]:
    """Exit status and output of a command."""
    process = subprocess.run(
        [sys.executable, "-m", "limbeck", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return process.returncode, process.stdout + process.stderr


@pytest.mark.long
def test_every_public_name_is_there_and_has_a_type():
    tree = ast.parse(Path(limbeck.__file__).read_text(encoding="utf-8"))
    typed = {
        name.asname: node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for name in node.names
    }
    typed = {name: module for name, module in typed.items() if name in limbeck.__all__}
    kept = {name: module for module, names in limbeck._PUBLIC.items() for name in names}
    assert typed == kept
    assert all(hasattr(limbeck, name) for name in limbeck.__all__)
    assert {"ALM", "ULD", "LimbeckError", "plan"} <= set(limbeck.__all__)
    assert limbeck.ALM is limbeck.objectives.ALM


def test_plan_is_called_by_its_name():
    said = limbeck.plan(params="600M", tokens="10B", candidates=["1.5B", "4B"])
    assert said == limbeck.api.plan(params="600M", tokens="10B", candidates="1.5B,4B")
    assert said["student"]["parameters"] == 600_000_000
    with pytest.raises(limbeck.LimbeckError, match=r"unknown key 'parms'; did you mean 'params'\?"):
        limbeck.plan(parms="600M")


def test_no_folder_or_file_takes_the_place_of_a_public_name():
    """Importing a submodule sets it on the package: `limbeck.export` would be a function at the first call, a module after it."""
    assert not {module.name for module in pkgutil.iter_modules(limbeck.__path__)} & set(limbeck.__all__)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("peak_lr", "lr"),
        ("--learning-rate", "lr"),
        ("seq-length", "seq_len"),
        ("length", "seq_len"),
        ("max_seq_length", "seq_len"),
        ("per_device_train_batch_size", "micro_batch"),
        ("output_dir", "out"),
        ("num_train_epochs", "tokens"),
        ("teacher_model_name_or_path", "teacher"),
        ("dataset_name", "data"),
        ("kd_ratio", "objective"),
        ("prune_target_params", "params"),
        ("objctive", "objective"),
        ("--learning_rte", "lr"),
        ("learnin-rate", "lr"),
        ("seq_lenght", "seq_len"),
        ("outptu_dir", "out"),
        ("tokns", "tokens"),
        ("lerning_rate", "lr"),
        ("--lerning-rate", "lr"),
        ("teacher_modle", "teacher"),
        ("sequence-lenght", "seq_len"),
        ("warmup_ratio", "warmup"),
        ("adam_beta2", "betas"),
        ("clip_grad_norm", "max_grad_norm"),
        ("save_steps", "save_every"),
        ("zzz", None),
    ],
)
def test_the_key_that_was_meant(given, meant):
    assert likely(given, known_keys(settings_in(DistilSettings).values())) == meant


def test_a_key_of_another_command_is_not_suggested():
    assert likely("kd_ratio", known_keys(settings_in(ProbeSettings).values())) is None
    with pytest.raises(BadSetting, match=r"unknown key 'peak_lr'; did you mean 'lr'\? The keys are: "):
        resolve(DistilSettings, None, {"peak_lr": 0.1})


@pytest.mark.parametrize(
    ("said", "meant"),
    [("GKD", "JensenShannon"), ("KD", "ForwardKL"), ("MiniLLM", "ReverseKL"), ("sft", "CrossEntropy"), ("TAI", "TAID")],
)
def test_the_objective_that_was_meant(said, meant):
    with pytest.raises(BadObjective, match=rf"there is no {said}; did you mean {meant}\? There are .*CrossEntropy, "):
        parse(said)


@pytest.mark.long
def test_the_command_line_shows_its_version_and_the_flag_that_was_meant():
    assert shown("--version") == (0, f"limbeck {limbeck.__version__}\n")
    status, text = shown("distil", "--max-seq-len", "3")
    assert status == 2
    assert "No such option: --max-seq-len" in text
    assert "--seq-len" in text.replace("--max-seq-len", "")
    assert "--lr" not in text


@pytest.mark.long
def test_old_spellings_are_aliases_that_help_does_not_show():
    for old, value, message in (
        ("--length", "x", "--seq-len: expected a count such as 250k, 6M or 1.3B, got 'x'"),
        ("--kind", "best", "--codec: unknown codec 'best'. There are: auto, sampled, top-k, got 'best'"),
    ):
        assert shown("capture", old, value) == shown("capture", f"{old}={value}") == (2, f"limbeck: {message}\n")
        assert f"{old} " not in shown("capture", "--help")[1]
    status, text = shown("distil", "--learning-rate", "3")
    assert (status, text) == (2, "limbeck: --lr: expected at most 1, got '3'\n")


def test_without_arguments_it_shows_what_one_does_in_order():
    status, text = shown()
    steps = ["plan", "doctor", "distil", "probe", "capture"]
    assert status == 0
    assert [line.split()[1] for line in text.splitlines() if line.startswith("  limbeck")] == [*steps, "distil"]
    assert "limbeck --help lists all commands" in text


@pytest.mark.parametrize("width", [80, 150])
def test_help_has_a_section_for_each_kind_of_flag_and_is_as_wide_as_the_terminal(width):
    lines = shown("distil", "--help", COLUMNS=str(width))[1].splitlines()
    assert 0.9 * width < max(map(len, lines)) <= width
    titles = [line.removesuffix(":") for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert titles == [
        *(
            "Arguments",
            "Model",
            "Data",
            "Training",
            "On-policy",
            "Comparison",
            "Mixture of layers",
            "Low rank",
            "Teacher on a server",
        ),
        *("Machine", "Output"),
    ]
    text = " ".join(" ".join(lines).split())
    page = (Path(__file__).parents[1] / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (`.*`) \| (.*) \|$", page.split("## limbeck distil\n")[1].split("## limbeck ")[0], re.MULTILINE
    )
    assert len(rows) == 1 + len(list(BY_NAME["distil"].taken()))
    for flag, told in rows:
        assert flag.strip("`").split("`")[0].split()[0] in text
        assert told.replace("\\|", "|") in text


def test_help_does_not_wait_for_torch():
    loaded = "import sys; sys.argv = ['limbeck', 'distil', '--help']\nfrom limbeck.cli import main\ntry: main()\n"
    loaded += "except SystemExit: print(sorted({'torch', 'transformers'} & sys.modules.keys()))"
    text = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout
    assert text.endswith("[]\n")


def test_functions_show_their_parameters_and_suggest_the_one_that_was_meant():
    parameters = inspect.signature(limbeck.distil).parameters
    assert parameters["schedule"].default == "wsd"
    assert parameters["seq_len"].annotation == "int | str | None"
    assert "lr: Peak learning rate." in limbeck.distil.__doc__
    with pytest.raises(BadSetting, match=r"unknown key 'tokns'; did you mean 'tokens'\?"):
        limbeck.distil(tokns="2M")
    with pytest.raises(BadSetting, match="unknown key 'objective'"):
        limbeck.shrink(objective="TAID")  # a setting of the same class, which this command does not look at
    with pytest.raises(BadSetting, match="unknown key 'lr'"):
        limbeck.capture(lr=0.1)
    with pytest.raises(BadSetting, match="distil\\(\\) takes 1 positional arguments, got 2"):
        limbeck.distil("run.toml", "6M")
    with pytest.raises(BadSetting, match="'length' is another spelling of a key that is given too"):
        limbeck.distil(seq_len=32, length=64)
    with pytest.raises(BadSetting, match="--points: it is needed and was not given"):
        limbeck.predict(task="addition", params="6M")


def test_an_objective_made_in_python_is_the_text_that_it_prints():
    made = [0.5 * limbeck.CrossEntropy() + 0.5 * limbeck.TAID(start=0.2), "ForwardKL"]
    assert resolve(DistilSettings, None, {"objective": made}).objectives == (str(made[0]), "ForwardKL")
    assert str(parse(resolve(DistilSettings, None, {"objective": made[0]}).objective)) == str(made[0])


def test_results_are_values_and_mappings_of_their_json_form():
    found = limbeck.plan(params="600M", tokens="10B", candidates=["1.5B", "4B"])
    assert isinstance(found, limbeck.PlanResult)
    assert found.student["parameters"] == found["student"]["parameters"] == 600_000_000
    assert found.to_dict() == json.loads(found.json()) == found == dict(found)
    assert found.mixture is None
    with pytest.raises(AttributeError, match="cannot assign to field 'tokens'"):
        found.tokens = 3
    reading = {"value": 1.5, "low": 1.0, "high": None, "unit": "nats/token", "n": 7}
    row = {"out": "runs/x", "student": "runs/x/student", "readings": {"student": {"held_out": reading}}, "verdict": "v"}
    one = limbeck.DistilResult.of(row, Path("runs/x"))
    loss = one.readings["student"]["held_out"]
    assert (one.student, loss.value, loss.n, math.isnan(loss.high)) == (Path("runs/x/student"), 1.5, 7, True)
    sweep = limbeck.DistilResult.of({"out": "runs", "members": {"6M": row}}, Path("runs"))
    assert sweep.members["6M"] == one
    with pytest.raises(BadSetting, match=r"several students: take \.members\[NAME\]\.student, of 6M"):
        _ = sweep.student
    assert not limbeck.DistilResult.of({}, Path("runs"))


def test_settings_describe_themselves():
    for command in COMMANDS:
        words = [setting.word for setting in command.taken()]
        assert len(words) == len(set(words)), command.name
        for setting in command.taken():
            told = command.described(setting)
            assert told.endswith(".") or not setting.flag.section, (command.name, setting.key, told)
            assert told[0].isupper() or setting.key == "recipe", (command.name, setting.key)


def test_the_stub_agrees_with_the_functions():
    """Names, order, kinds, defaults, annotations and results; a call with every default is a call without them."""
    stub: dict = {}
    text = Path(limbeck.api.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    exec(compile(text, "api.pyi", "exec", flags=__future__.annotations.compiler_flag), stub)
    declared = {name: found for name, found in stub.items() if inspect.isfunction(found)}
    assert set(declared) == {command.name for command in COMMANDS if command.result}
    for name, function in declared.items():
        ours, theirs = inspect.signature(getattr(limbeck.api, name)), inspect.signature(function)
        assert as_text(ours) == as_text(theirs), name
        required = [one for one in ours.parameters.values() if one.default is one.empty]
        given = {key: one.default for key, one in ours.parameters.items() if key != "file"}
        if not required:
            assert settings_of(name, None, given) == settings_of(name, None, {}), name


def as_text(signature: inspect.Signature) -> list[tuple[str, str, object, str]]:
    """A signature, with its annotations spelled one way, but for the default that conftest.py changes for all tests."""
    result = inspect.Parameter("result", inspect.Parameter.KEYWORD_ONLY, annotation=signature.return_annotation)
    return [
        (one.name, one.kind.name, one.name != "any_teacher" and one.default, ast.unparse(ast.parse(one.annotation)))
        for one in [*signature.parameters.values(), result]
    ]


def test_values_that_are_not_joined_are_met_with_how():
    status, text = shown("distil", "--data", "a.jsonl", "b.jsonl", "c.jsonl")
    assert status == 2
    assert "extra argument(s) (c.jsonl). Join several values of a flag with commas: a.jsonl,b.jsonl" in text


@pytest.mark.parametrize(
    "words",
    [
        ("--objective", "ForwardKL", "--objective", "JSD"),
        ("--lr", "1", "--learning-rate", "2"),
        ("--seed=1", "--seed=1"),
    ],
)
def test_a_flag_that_is_given_twice_is_refused(words):
    status, text = shown("distil", *words)
    assert status == 2
    assert f"{words[0].partition('=')[0]} is given 2 times, and only the last would count: give it once" in text


@pytest.mark.long
def test_values_by_position_may_be_several():
    status, text = shown("cache", "merge", "out", "shard-1", "shard-2")
    assert (status, "is given" in text) == (2, False), "there are no such shards"

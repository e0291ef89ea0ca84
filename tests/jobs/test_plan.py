"""`limbeck plan`: its answers as a user reads them, and what it says of a question that cannot be answered."""

import json
import os
import re
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from transformers import LlamaConfig, OPTConfig

from limbeck import cli
from limbeck.api import plan
from limbeck.errors import BadModel, BadPoints
from limbeck.jobs.plan.device import Limits, largest_student
from limbeck.jobs.plan.job import _vocabulary
from limbeck.jobs.plan.show import _blocks
from limbeck.models.anatomy import Anatomy
from limbeck.models.configuration import load_config
from limbeck.models.declared import read_anatomy
from limbeck.planning.cost.gpus import gpu
from limbeck.planning.cost.size import Size
from limbeck.planning.laws import fit
from limbeck.planning.laws.points import Point, write_points
from limbeck.students.shape import Shape, config_of
from tests.helpers.zoo import CONFIGS
from tests.planning.test_laws import runs, valley

FORWARD = ("--params", "600M", "--tokens", "10B", "--candidates", "1.5B,4B,8B,32B")


@pytest.fixture
def limbeck(monkeypatch, capsys, tmp_path):
    """Runs `limbeck plan` in this process; gives (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        monkeypatch.setattr(sys, "argv", ["limbeck", "plan", *map(str, argv)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return run


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A folder with a configuration and nothing else: a teacher of 21 million parameters."""
    folder = tmp_path_factory.mktemp("teacher")
    LlamaConfig(
        vocab_size=4096,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=10,
        num_attention_heads=6,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)
    return folder


def test_three_planners_stand_side_by_side(limbeck):
    status, out, _ = limbeck(*FORWARD)
    assert status == 0
    for words in ("ratio rule, published", "distillation law, published", "local fit: none", "1.5B ←", "assumed:"):
        assert words in out, out
    assert "20 tokens per parameter" in out
    assert "without embeddings" in out
    assert "40% of its dense bfloat16 peak" in out
    assert (
        "break-even, uses of each forward pass of the teacher from which on it gains: 1.5B 1.0 times, 4B 1.0 times"
        in out
    )
    assert "8B 1.3 times, 32B 3.6 times; here 1.0" in out
    status, out, _ = limbeck(*FORWARD, "--text-tokens", "1B")
    assert "; here 10.0" in out
    assert "its logits are used 10.0 times" in out


def test_json_is_one_object_that_any_parser_reads(limbeck):
    status, out, _ = limbeck(*FORWARD, "--free-teacher", "--json")
    result = json.loads(out, parse_constant=pytest.fail)
    assert status == 0
    assert [p["planner"] for p in result["planners"]] == ["ratio rule, published", "distillation law, published"]
    rows = result["planners"][1]["rows"]
    assert [row["teacher"] for row in rows] == [None, "1.5B", "4B", "8B", "32B"]
    assert rows[1]["loss"]["value"] == pytest.approx(2.4308, abs=1e-3)
    assert result["costs"][0]["flops"] == 6 * 6e8 * 1e10


@pytest.mark.long
def test_bare_sizes_need_neither_torch_nor_scipy():
    code = (
        "import sys; from limbeck.api import plan; plan(params='600M', tokens='10B', candidates='4B');"
        "assert not {'torch', 'transformers', 'scipy'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def hub_cache(home, name, folder) -> None:
    """A cache of the hub that holds a model's config.json and nothing else."""
    model, commit = home / "hub" / f"models--{name.replace('/', '--')}", "0" * 40
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(commit)
    (model / "snapshots" / commit).mkdir(parents=True)
    (model / "snapshots" / commit / "config.json").write_bytes((folder / "config.json").read_bytes())


@pytest.mark.long
@pytest.mark.parametrize("hub", [False, True])
@pytest.mark.parametrize(
    "flags", ["--params 2M --tokens 100M --candidates MODEL,50M", "--teacher MODEL --gpu L4 --shrink 2"]
)
def test_a_configuration_is_counted_without_torch_and_transformers(teacher, tmp_path, flags, hub):
    hub_cache(tmp_path, "someone/model", teacher)
    flags = flags.replace("MODEL", "someone/model" if hub else str(teacher)).split()
    code = (
        f"import sys; sys.argv = ['limbeck', 'plan', *{flags}]\n"
        "from limbeck import cli\n"
        "try: cli.main()\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "loaded = {'torch', 'transformers', 'scipy'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "distillation law, published" in done.stdout


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gpt2-untied", "gpt_neox"])
@pytest.mark.parametrize("asked", [{"shrink": 2.0}, {"device_memory": "30kB", "length": 8}])
def test_counting_and_building_answer_alike(tmp_path, monkeypatch, name, asked):
    CONFIGS[name].save_pretrained(tmp_path)
    questions = (
        {"teacher": str(tmp_path), "gpu": "L4"} | asked,
        {"params": "1k", "tokens": "1M", "candidates": str(tmp_path)},
    )
    assert read_anatomy(tmp_path / "config.json") is not None
    counted = [plan(**question) for question in questions]
    monkeypatch.setattr("limbeck.jobs.plan.job.read_anatomy", lambda file: None)
    assert [plan(**question) for question in questions] == counted


def test_what_is_not_declared_is_built(tmp_path):
    for name, config in (("opt", OPTConfig(num_hidden_layers=2)), ("qwen3", CONFIGS["qwen3"])):
        config.save_pretrained(tmp_path / name)
    silent = json.loads((tmp_path / "qwen3" / "config.json").read_text())
    del silent["head_dim"]  # 128 by the class, whatever the width
    (tmp_path / "qwen3" / "config.json").write_text(json.dumps(silent))
    for name in ("opt", "qwen3"):
        size = Size.of(load_config(tmp_path / name))
        cost = plan(params="1k", tokens="1M", candidates=str(tmp_path / name))["costs"][0]
        assert cost["flops"] == (6e3 + size.forward_flops(1024)) * 1e6
    assert size.attention == 4 * 128
    with pytest.raises(BadModel, match="a opt model cannot be pruned"):
        plan(teacher=str(tmp_path / "opt"), gpu="L4")


def test_a_candidate_may_be_a_folder_without_weights(teacher):
    result = plan(params="2M", tokens="100M", candidates=[str(teacher), "50M"])
    known, bare = result["costs"]
    size = Size.of(load_config(teacher))
    assert known["cache_bytes"] == size.cached_bytes(32) * 1e8 == (32 * 4 + 2) * 1e8
    assert known["full_cache_bytes"] == 2 * 4096 * 1e8
    assert bare["cache_bytes"] is None


def test_the_student_for_a_device_is_the_largest_that_keeps_to_it(teacher):
    result = plan(teacher=str(teacher), device_memory="20MiB", gpu="L4", length=1024)
    device = result["device"]
    assert 0.85 * 20 * 2**20 < device["student_bytes"] <= 20 * 2**20
    assert not device["teacher_fits"]
    assert result["student"]["parameters"] < 10.5e6
    assert result["tokens"] == 20 * result["student"]["without_embeddings"]
    assert result["costs"][0]["activations_counted"]


def test_a_plan_shows_whether_rows_are_whole_blocks(limbeck, teacher):
    _, out, _ = limbeck("--teacher", teacher, "--params", "15M", "--tokens", "100M")
    odd = "rows of its matrices: no multiple of 32 in hidden 360: q8_0 and q4_0 exports have these in float16"
    assert f"{odd}; multiples would cost 2% of the budget, or balance" in " ".join(out.split())
    assert _blocks({"hidden": 320, "heads x channels": 256, "ffn": 832}) == (
        "rows of its matrices: multiples of 32, so that q8_0 and q4_0 exports quantise all of them"
    )
    assert _blocks({"hidden": 40, "heads x channels": 64, "ffn": 104}) == odd.replace("360", "40, ffn 104")


def test_latency_is_bytes_over_bandwidth(teacher):
    config, limits = load_config(teacher), Limits(gpu("L4"), 1e9, 1e-4, 512)
    size = Size.of(config_of(largest_student(Anatomy.of(config), limits), config))
    assert limits.seconds(size) <= 1e-4
    assert limits.seconds(size) == pytest.approx(
        (2 * size.multiplied + 512 * 2 * 2 * size.layers * size.kv) / (0.6 * 0.3e12)
    )


def test_a_teacher_that_fits_needs_no_shrinking(limbeck, teacher):
    _, out, _ = limbeck("--teacher", teacher, "--device-memory", "24GiB", "--latency", "20ms")
    assert "the teacher itself fits the device" in out
    assert "no --gpu is named" in out
    assert Shape.of(load_config(teacher)).layers == 10


def test_a_pilot_is_the_third_planner(limbeck, tmp_path):
    write_points([*valley(), Point(1e6, 2e7, float("nan"), 5e6, 2.0, seed=9)], tmp_path / "points.json")
    status, out, _ = limbeck("--params", "3M", "--tokens", "60M", "--candidates", "4M,8M,30M", "--points", ".")
    assert status == 0
    assert "ratio rule, your pilot (fresh): a teacher of about 7" in out
    assert "distillation law, your pilot (fresh): cannot say: the supervised law has 6 parameters" in out
    assert "skipped row 46: student_loss is missing" in out


@pytest.mark.long
def test_a_pilot_large_enough_predicts_losses(limbeck, tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "fit_distillation_law", partial(fit.fit_distillation_law, draws=5))
    write_points(runs()[:60], tmp_path / "points.parquet")
    status, out, _ = limbeck(*FORWARD, "--points", ".", "--json")
    assert status == 0
    answer = json.loads(out)["planners"][-1]
    assert answer["planner"] == "distillation law, your pilot (fresh)"
    assert answer["rows"][1]["loss"]["value"] == pytest.approx(2.431, abs=0.02)
    assert "held-out cells" in answer["notes"][0]


def test_a_table_that_cannot_be_read_stops_the_plan(tmp_path):
    with pytest.raises(BadPoints, match="no such table"):
        plan(params="600M", tokens="10B", candidates="4B", points=tmp_path / "none")


BAD = [
    (("--params", "8B", "--tokens", "10B", "--candidates", "4B,8B"), ("none is larger", "8,000,000,000", "8B")),
    (("--params", "600M", "--candidates", "4B"), ("no tokens", "--tokens")),
    (("--tokens", "10B", "--candidates", "4B"), ("--params",)),
    ((), ("--candidates", "--teacher")),
    ((*FORWARD, "--shrink", "2.5"), ("--params 600,000,000", "--shrink 2.5")),
    ((*FORWARD, "--device-memory", "1GB"), ("--params 600,000,000", "--device-memory", "1.1 GiB")),
    ((*FORWARD, "--epsilon", "-0.1"), ("--epsilon", "expected at least 0", "-0.1")),
    ((*FORWARD, "--gpu", "H10O"), ("unknown GPU 'H10O'", "H100")),
    ((*FORWARD, "--device-memory", "24 apples"), ("--device-memory", "24GiB", "24 apples")),
    ((*FORWARD, "--teacher", "8B"), ("--candidates", "--teacher")),
    (("--teacher", "8B", "--gpu", "L4"), ("--teacher 8B", "configuration")),
    (("--teacher", "TEACHER"), ("--device-memory", "--latency")),
    (("--teacher", "TEACHER", "--latency", "20ms"), ("--latency", "--gpu")),
    (("--teacher", "TEACHER", "--gpu", "L4", "--device-memory", "80GB"), ("--device-memory", "L4", "24 GB")),
    (("--teacher", "TEACHER", "--params", "9M", "--device-memory", "4MB"), ("--params 9,000,000", "--device-memory")),
    (("--teacher", "TEACHER", "--device-memory", "1kB"), ("no student", "budget")),
    (("--params", "1M", "--tokens", "1M", "--candidates", "EMPTY"), ("config.json",)),
]


@pytest.mark.parametrize(("flags", "words"), BAD, ids=[" ".join(flags) for flags, _ in BAD])
def test_a_question_that_cannot_be_answered_is_one_message(limbeck, teacher, tmp_path, flags, words):
    (tmp_path / "empty").mkdir()
    named = {"TEACHER": teacher, "EMPTY": "./empty"}
    status, out, err = limbeck(*(named.get(flag, flag) for flag in flags))
    assert status == 2, (out, err)
    assert out == ""
    assert "Traceback" not in err
    assert err.count("limbeck: ") == 1
    for word in words:
        assert word in err, err


def test_a_long_path_leaves_the_numbers_their_room(limbeck, teacher, tmp_path):
    far = tmp_path / ("a-folder-with-a-long-name-" * 5)
    far.symlink_to(teacher)
    status, out, _ = limbeck("--teacher", far, "--device-memory", "24MB")
    assert status == 0
    assert "…" not in out
    assert re.search(r"on L4: \d+\.\d\d of 22\.89 MiB", out)


def test_a_plan_says_what_a_trimmed_vocabulary_gives(teacher):
    """A tied embedding: each token less is one row of the student's width less."""
    found = plan(teacher=str(teacher), params="5M").student
    width = int(dict(pair.split("=") for pair in found["shape"].split(","))["hidden"])
    assert found["vocabulary"]["tokens"] == 4096
    assert found["vocabulary"]["share"] == pytest.approx(4096 * width / found["parameters"])
    trimmed = plan(teacher=str(teacher), params="5M", vocab="1k").student
    assert trimmed["vocabulary"]["tokens"] == 1000
    large = LlamaConfig(vocab_size=32_000, hidden_size=64, num_hidden_layers=2, num_attention_heads=4)
    size = Size.of(large)  # embedding and head, not tied
    assert _vocabulary(size)["trimmed"]["8192"] == size.parameters - 2 * (32_000 - 8192) * 64


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--vocab", "8k"), "has 4,096 tokens, so nothing would be trimmed"),
        (("--vocab", "auto"), "limbeck doctor with --data and --vocab auto says how many"),
    ],
)
def test_a_plan_of_a_vocabulary_that_cannot_be_is_refused(limbeck, teacher, flags, words):
    status, _, err = limbeck("--teacher", teacher, "--params", "5M", *flags)
    assert status == 2
    assert words in " ".join(err.split())


def test_a_vocabulary_belongs_to_a_teacher_or_to_mixers(limbeck):
    status, _, err = limbeck(*FORWARD, "--vocab", "8k")
    assert status == 2
    assert "goes with --teacher" in err


def test_a_stop_is_planned_from_samples_numbers_and_noise(limbeck):
    """The figures are those of an independent computation at a signal-to-noise ratio of 5, in shares of the labels' variance."""
    status, out, _ = limbeck("--samples", "200", "--trainable", "100", "--snr", "5", "--json")
    found = json.loads(out)["overtraining"]
    assert status == 0
    assert found["held_out"] == pytest.approx({"stop": 0.354 / 1.2, "ridge": 0.348 / 1.2, "end": 2 / 6}, abs=6e-4)
    assert found["expected"]
    assert found["weight_decay"] == pytest.approx(1 / 10)
    assert found["training"]["end"] == pytest.approx(0.5 / 6)
    _, out, _ = limbeck("--samples", "1M", "--trainable", "100", "--snr", "5")
    assert "over-training hardly matters" in out
    _, out, _ = limbeck("--samples", "100", "--trainable", "100", "--snr", "5")
    assert "over-training is expected, held-out error rises without bound" in out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--samples", "5k"), "--samples without --trainable and --snr"),
        (("--samples", "5k", "--trainable", "4k", "--snr", "0"), "--snr"),
        (("--samples", "5k", "--trainable", "4k", "--snr", "nan"), "--snr"),
        (("--samples", "5k", "--trainable", "4k", "--snr", "5", "--params", "6M"), "--params about a student"),
    ],
)
def test_a_stop_that_cannot_be_planned_is_refused(limbeck, flags, words):
    status, _, err = limbeck(*flags)
    assert status == 2
    assert words in " ".join(err.split())


@pytest.mark.parametrize(("samples", "numbers"), [(400, 100), (100, 200)])
def test_the_planned_stop_and_weight_decay_are_those_of_the_mean_error(limbeck, samples, numbers):
    """A read-out of inputs of variance 1, trained as the page says, has the held-out error that was planned."""
    _, out, _ = limbeck("--samples", str(samples), "--trainable", str(numbers), "--snr", "4", "--json")
    found = json.loads(out)["overtraining"]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, numbers))
    w = rng.normal(size=(numbers, 300)) * np.sqrt(0.8 / numbers)
    y = x @ w + rng.normal(size=(samples, 300)) * np.sqrt(0.2)
    stopped, rate = np.zeros_like(w), found["stop"] / 200
    for _ in range(200):
        stopped -= rate * x.T @ (x @ stopped - y) / samples
    ridge = np.linalg.solve(x.T @ x / samples + found["weight_decay"] * np.eye(numbers), x.T @ y / samples)
    for student, planned in ((stopped, "stop"), (ridge, "ridge")):
        assert 0.2 + ((student - w) ** 2).sum(0).mean() == pytest.approx(found["held_out"][planned], rel=0.03)

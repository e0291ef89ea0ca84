"""`limbeck distil --trained lora`: what is trained, what it costs, what a run leaves, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import limbeck
from limbeck.config import DistilSettings, ImportSettings
from limbeck.disk import read_lines
from limbeck.errors import BadSetting
from limbeck.jobs.common import adapters
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.rates import fresh_rate_of, full_rate_of, rate_of
from limbeck.jobs.distil.adapters import StudentAdapters, check_adapters
from limbeck.jobs.importing.job import import_model
from limbeck.models.configuration import load_config
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.planning.checks.price import Price
from limbeck.planning.cost.memory import Narrow
from limbeck.planning.cost.size import Size
from limbeck.planning.cost.training import estimate
from limbeck.report.card import model_card
from limbeck.run.world import alone
from limbeck.students.adapters import adapted_layers
from limbeck.students.nf4 import BYTES, through_nf4
from tests.helpers.models import llama, tokenizer, write_corpus, write_teacher
from tests.helpers.ranks import on_ranks
from tests.helpers.stops import stopped_before

RANK, LENGTH = 2, 32


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with a teacher and a corpus."""
    folder = tmp_path_factory.mktemp("adapted")
    write_teacher(folder)
    write_corpus(folder)
    return folder


def distil(here: Path, out: Path, **more: Any) -> Any:
    keys: dict[str, Any] = {"teacher": str(here / "teacher"), "data": str(here / "text.jsonl"), "shrink": 2.0}
    keys |= {"tokens": 512, "length": LENGTH, "batch_tokens": 128, "threads": 1, "any_teacher": True, "lr": 0.003}
    return limbeck.distil(**keys | {"trained": "lora", "rank": RANK, "out": out} | more)


@pytest.fixture(scope="module")
def done(here) -> Path:
    """A run of adapters with both baselines of all weights."""
    distil(here, here / "out", baselines="full,full@flops")
    return here / "out"


@pytest.mark.long
def test_the_student_is_the_untrained_one_with_its_adapters_and_nothing_else_moved(done, tmp_path):
    import_model(ImportSettings(model=str(done / "adapter"), out=tmp_path / "merged"))
    merged, student, base = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "merged", done / "student", done / "cut")
    )
    assert merged.keys() == student.keys()
    assert all(torch.equal(merged[name], student[name]) for name in merged)
    moved = {name for name in base if not torch.equal(base[name], student[name])}
    assert moved == {name for name in base if "_proj" in name}


@pytest.mark.long
def test_equal_compute_is_what_the_formula_of_flops_says(done, here):
    """A step: 6 FLOPs a multiplied weight, or 4 where it is frozen and 6 an adapter's number, and the teacher's 2."""
    student, teacher = (Size.of(load_config(folder)) for folder in (done / "cut", here / "teacher"))

    def attending(size: Size) -> float:
        return 2 * (LENGTH + 1) * size.layers * size.attention

    shapes = [w.shape for n, w in load_file(done / "cut" / "model.safetensors").items() if "_proj" in n]
    own = sum(6 * RANK * (rows + columns) for rows, columns in shapes)
    adapted = 4 * student.multiplied + 3 * attending(student) + own
    whole = 6 * student.multiplied + 3 * attending(student)
    taught = 2 * teacher.multiplied + attending(teacher)
    run = json.loads((done / "run.json").read_text())
    assert run["adapters"] == {
        "rank": RANK,
        "alpha": 2 * RANK,
        "numbers": own // 6,
        "whole": pytest.approx(whole / adapted),
    }
    assert run["teacher"]["price"] == pytest.approx(taught / adapted)
    steps = {arm["name"]: arm["steps"] for arm in run["plan"]["arms"]}
    assert steps["student"] == steps["full"] == 4
    assert steps["full@flops"] == round(4 * (adapted + taught) / (whole + taught))
    planned = StudentAdapters.of(settings(rank=RANK), load_config(done / "cut"), length=LENGTH, half=True)
    assert planned is not None
    assert planned.share == 1.0  # of fresh+kd and full, which train all
    how: dict[str, Any] = {"length": LENGTH, "tokens": 1, "batch_tokens": 128, "itemsize": 4, "device": "cpu"}
    cost = estimate(student, teacher, adapters=planned.size, trained=0.1, **how)
    assert cost.flops_per_token == pytest.approx(adapted + taught)
    assert cost.bytes["AdamW's moments"] == round(0.1 * 8 * student.parameters)
    under = sum(rows * columns for rows, columns in shapes)
    assert cost.bytes["student's weights"] == 4 * student.parameters - 2 * under
    all_too = estimate(student, teacher, adapters=planned.size, **how)  # beside it all weights are trained
    assert all_too.bytes["student's weights"] == 4 * student.parameters
    price = Price.of(student, teacher, length=LENGTH, generated=0.5, adapters=planned.size)
    assert price.ratio == pytest.approx((adapted + taught + 0.5 * whole / 3) / adapted)


def test_all_trainings_of_weights_keep_their_proportion_to_the_rate_of_adapters():
    parameters = 6_000_000
    usual, given = settings(), settings(lr=0.003)
    factor = 0.003 / rate_of(usual, parameters)
    assert factor != 1
    assert rate_of(given, parameters) == 0.003
    for rate in (full_rate_of, fresh_rate_of):
        assert rate(given, parameters) == pytest.approx(factor * rate(usual, parameters))
    whole = DistilSettings(teacher="t", data="d", lr=0.003)
    assert fresh_rate_of(whole, parameters) == 0.003


@pytest.mark.long
def test_frozen_weights_in_two_bytes_go_with_all_that_a_run_computes_with_them(here, monkeypatch, tmp_path):
    """A run in bfloat16 of a student that is stored in it generates, is measured meanwhile, and comes to the same weights."""
    teacher = llama(layers=3, hidden=48, tok=tokenizer())
    save(teacher, tmp_path / "teacher", dtype=torch.bfloat16)
    how: dict[str, Any] = {"rollouts": 0.5, "rollout_tokens": 8, "objective": "ReverseKL", "eval_every": 2}
    how["teacher"] = str(tmp_path / "teacher")
    how |= {"dtype": "bfloat16", "baselines": "none"}
    holding, held = adapters.hold_in_half, []

    def kept(model, *, bf16):
        holding(model, bf16=bf16)
        held.extend(layer.weight.dtype for layer in adapted_layers(model).values())

    monkeypatch.setattr(adapters, "hold_in_half", kept)
    distil(here, tmp_path / "half", **how)
    assert set(held) == {torch.bfloat16}
    monkeypatch.setattr(adapters, "hold_in_half", lambda model, *, bf16: None)
    distil(here, tmp_path / "whole", **how)
    half, whole = (load_file(tmp_path / name / "student" / "model.safetensors") for name in ("half", "whole"))
    assert all(torch.equal(half[name], whole[name]) for name in whole)
    rows = [read_lines(tmp_path / name / "held_out.jsonl") for name in ("half", "whole")]
    assert [row["loss_nats"] for row in rows[0]] == [row["loss_nats"] for row in rows[1]]


@pytest.mark.long
def test_a_run_says_that_adapters_were_trained(done):
    run = json.loads((done / "run.json").read_text())
    differences = {one["name"] for one in json.loads((done / "verdict.json").read_text())["differences"]}
    assert {"full - student", "full@flops - student"} <= differences
    page, card = (done / "report.html").read_text(), (done / "student" / "README.md").read_text()
    for words in ("all weights, equal compute", f"adapters of rank {RANK}", "the same training of all weights"):
        assert words in page.replace("&nbsp;", " ")
    assert f"What was trained are adapters of rank {RANK}, {run['adapters']['numbers'] / 1000:.2f} k numbers" in card
    assert (load(done / "student").lineage or {})["adapters"] == {"rank": RANK, "alpha": 2.0 * RANK}
    assert "pruned" not in model_card({"lineage": {"adapters": {"rank": 2, "alpha": 4.0}}}, [])
    rates = [max(row["lr"] for row in read_lines(done / at / "metrics.jsonl")) for at in (".", "baselines/full-seed0")]
    assert rates == [0.003, pytest.approx(0.001)]


def settings(**more: Any) -> DistilSettings:
    return DistilSettings(**{"teacher": "teacher", "trained": "lora"} | more)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"trained": "full", "rank": 4}, "--rank 4: it describes adapters, and all weights are trained"),
        ({"trained": "full", "baselines": "full"}, "--baselines full: all weights are trained anyway"),
        ({"mixers": "based"}, "--trained lora does not go with --mixers: new mixers have no trained weights"),
        ({"low_rank": 0.5}, "does not go with --low-rank"),
        ({"qat": "int8"}, "does not go with --qat: the weights that are quantised would not be trained"),
        ({"rounds": 2}, "does not go with --rounds"),
        ({"learngene": "linear"}, "does not go with --learngene"),
        ({"weights_dtype": "bfloat16"}, "does not go with --weights-dtype"),
    ],
)
def test_what_does_not_go_with_adapters_is_refused_with_its_reason(given, message):
    with pytest.raises(BadSetting, match=message):
        check_adapters(settings(**given), Environment(alone(), bf16=False))


@pytest.mark.long
def test_memory_is_that_of_adapters_where_no_baseline_trains_all_weights(done):
    few = settings(rank=RANK, baselines="cut,cut+ce")
    planned = StudentAdapters.of(few, load_config(done / "cut"), length=LENGTH, half=False)
    assert planned is not None
    assert planned.share == planned.size.numbers / Size.of(load_config(done / "cut")).parameters
    assert settings().compared[-2:] == ("full", "full@flops")
    with pytest.raises(BadSetting, match=r"--rank 500: the matrix model\.layers\.0"):
        StudentAdapters.of(settings(rank=500), load_config(done / "cut"), length=LENGTH, half=False)


@pytest.mark.long
def test_weights_in_4_bits_cost_a_quarter_of_those_in_two_bytes(done):
    """While they are trained on; measuring the student beside its start counts too, in the format of the arithmetic."""
    config, student = load_config(done / "cut"), Size.of(load_config(done / "cut"))
    planned = StudentAdapters.of(settings(rank=RANK, trained="qlora"), config, length=LENGTH, half=True)
    assert planned is not None
    assert planned.share < 1, "no baseline of all weights unless it is named"
    under = sum(w.numel() for n, w in load_file(done / "cut" / "model.safetensors").items() if "_proj" in n)
    how: dict[str, Any] = {"adapters": planned.size, "trained": planned.share, "length": LENGTH, "tokens": 1}
    how |= {"batch_tokens": 128, "itemsize": 2}
    how["device"] = "cuda"
    cost = estimate(student, None, **how)
    assert cost.bytes["student's weights"] == 4 * (student.parameters - under) + round(17 / 32 * under)
    assert cost.bytes["student's weights in half precision"] == 2 * (student.multiplied - under)
    largest = max(w.numel() for n, w in load_file(done / "cut" / "model.safetensors").items() if "_proj" in n)
    assert cost.bytes["a layer's weights"] == (4 + 2) * largest
    large = replace(student, parameters=10**9)
    for held, itemsize in ((BYTES, 2), (2.0, 4)):
        how["adapters"] = replace(planned.size, narrow=Narrow(10**9, held))
        compared = estimate(large, None, **how).bytes
        assert compared["student's weights"] == compared["those of its start"] == itemsize * 10**9
    how["adapters"] = replace(planned.size, narrow=Narrow(10**9, BYTES), alone=True)
    alone = estimate(large, None, **how).bytes
    assert "those of its start" not in alone
    assert alone["head of its start"] == 4 * student.rows * student.hidden


def test_a_student_is_distilled_on_weights_in_4_bits(here, tmp_path):
    """The student has the rounded weights; so do its adapters where they are merged again; a stopped run comes to the same."""
    how = {"trained": "qlora", "tokens": 384}
    assert settings(trained="qlora").compared == ("cut", "cut+ce", "cut+ce@flops")
    with stopped_before(2):
        distil(here, tmp_path / "run", save_every=1, baselines="cut", **how)
    distil(here, tmp_path / "run", save_every=1, baselines="cut", **how)
    import_model(ImportSettings(model=str(tmp_path / "run" / "adapter"), out=tmp_path / "merged"))
    merged, student, base = (
        load_file(folder / "model.safetensors")
        for folder in (tmp_path / "merged", tmp_path / "run" / "student", tmp_path / "run" / "cut")
    )
    assert all(torch.equal(merged[name], student[name]) for name in student)
    rounded = {name: through_nf4(w.float()) if "_proj" in name else w for name, w in base.items()}
    for name, weight in student.items():
        left = (weight - rounded[name]).double()
        assert torch.linalg.matrix_rank(left, atol=1e-6) <= RANK if "_proj" in name else torch.equal(weight, base[name])
    page, card = ((tmp_path / "run" / name).read_text() for name in ("report.html", "student/README.md"))
    assert "weights that were rounded to 4 bits (NF4). The student has the rounded weights." in page
    assert (load(tmp_path / "run" / "student").lineage or {})["adapters"]["four_bit"] is True
    assert "merged into the weights, which were rounded to 4 bits (NF4)." in card
    distil(here, tmp_path / "whole", baselines="cut", **how)
    whole = load_file(tmp_path / "whole" / "student" / "model.safetensors")
    assert all(torch.equal(whole[name], student[name]) for name in whole)


@pytest.mark.long
def test_a_stopped_run_continues_to_the_same_bits_and_keeps_the_best_weights(here, tmp_path):
    other = tmp_path / "other.jsonl"  # on which the loss rises, so that the best weights are not the last
    other.write_text("".join(json.dumps({"text": f"{n} zq%&xj;;kv#" * 9}) + "\n" for n in range(40)))
    how = {"baselines": "none", "eval_every": 1, "weights": "last", "lr": 0.02, "eval_data": str(other)}
    distil(here, tmp_path / "whole", **how)
    with stopped_before(2):
        distil(here, tmp_path / "parts", save_every=1, **how)
    (checkpoint,) = (tmp_path / "parts").glob("step-*")
    names = [name for name in load_file(checkpoint / "tensors.safetensors") if name.startswith("model.")]
    assert names
    assert all("lora_" in name for name in names)
    distil(here, tmp_path / "parts", save_every=1, **how)
    for place in ("student", "best"):
        whole, parts = (load_file(tmp_path / name / place / "model.safetensors") for name in ("whole", "parts"))
        assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.long
@pytest.mark.parametrize("trained", ["lora", "qlora"])
def test_two_processes_train_the_adapters_of_one(here, tmp_path, trained):
    how = {"baselines": "none", "trained": trained}
    distil(here, tmp_path / "one", **how)

    def work(_: Any) -> bool:
        distil(here, tmp_path / "two", **how)
        return True

    assert on_ranks(2, work, mesh="replicate") == [True, True]
    one, two = (load_file(tmp_path / name / "student" / "model.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(one[name], two[name], atol=2e-5) for name in one)

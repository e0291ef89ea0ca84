"""`limbeck tune`: all weights or adapters, other text in between, what is measured, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import limbeck
from limbeck.disk import read_lines, sha256_of
from limbeck.errors import BadFolder, BadModel, BadSetting
from limbeck.jobs.tune import evaluation
from limbeck.models.load import load
from limbeck.probes import Measurements
from limbeck.report.start import BEFORE
from limbeck.report.tuned import tuned_verdict
from tests.helpers.models import texts, write_asked, write_corpus, write_teacher
from tests.helpers.stops import stopped_before

TINY: dict[str, Any] = {"seq_len": 32, "tokens": 512, "batch_tokens": 128, "threads": 1, "lr": 0.003}


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A model, questions with answers, and other text."""
    place = tmp_path_factory.mktemp("tune")
    write_teacher(place)
    write_corpus(place)
    write_asked(place)
    return place


def tune(here: Path, out: Path, **more: Any) -> Any:
    keys = {"student": str(here / "teacher"), "data": str(here / "asked.jsonl"), "out": out} | TINY | more
    return limbeck.tune(**keys)


@pytest.fixture(scope="module")
def lora(here, tmp_path_factory):
    """A tuning of adapters with other text and all its baselines: (result, folder)."""
    out = tmp_path_factory.mktemp("lora") / "run"
    how = {"replay": f"{here / 'text.jsonl'}:0.25", "stay": "0.5*ForwardKL", "trained": "lora", "rank": 2}
    return tune(here, out, **how), out


def test_the_tuned_model_is_its_base_with_the_adapters(lora, here, tmp_path):
    _, out = lora
    limbeck_import(out / "adapter", tmp_path / "merged")
    merged, student = (load_file(folder / "model.safetensors") for folder in (tmp_path / "merged", out / "student"))
    assert merged.keys() == student.keys()
    assert all(torch.equal(merged[name], student[name]) for name in merged)
    base = load_file(here / "teacher" / "model.safetensors")
    moved = {name for name in base if not torch.equal(base[name], student[name])}
    assert moved == {name for name in base if "_proj" in name}


def limbeck_import(folder: Path, out: Path, **keys: Any) -> None:
    from limbeck.config import ImportSettings
    from limbeck.jobs.importing.job import import_model

    import_model(ImportSettings(model=str(folder), out=out, **keys))


def test_a_run_says_what_was_learned_and_forgotten(lora):
    result, out = lora
    assert list(result.readings) == ["cut", "student", "full", "full@flops", "data-alone"]
    before, after = (result.readings[name] for name in ("cut", "student"))
    assert after["held_out"].value < before["held_out"].value
    assert after["other_kl_teacher_student"].value < result.readings["data-alone"]["other_kl_teacher_student"].value
    assert "kl_teacher_student" not in before
    assert "The tuned model has a loss" in result.verdict
    assert "documents of other text tuning" in result.verdict
    page = (out / "report.html").read_text()
    for words in ("teacher, tuned", "before tuning", "all weights, equal compute", "on other text"):
        assert words in page
    assert '<th scope="row">rank</th>' in page
    assert '<th scope="row">subspace</th>' not in page  # which is of lora-xs
    card = (out / "student" / "README.md").read_text()
    assert "adapters of rank 2, " in card
    assert "25 % of the rows were other text, which kept it near the model before (" in card


def test_arms_have_equal_tokens_or_equal_compute(lora):
    _, out = lora
    plan = json.loads((out / "run.json").read_text())["plan"]
    steps = {arm["name"]: arm["steps"] for arm in plan["arms"]}
    assert steps["student"] == steps["full"] == steps["data-alone"] == 4
    assert steps["full@flops"] == 3  # of 1 + 1 + 0.25 passes for 1 + 2 + 0.25, about
    assert plan["flops"]["full@flops"] == pytest.approx(plan["flops"]["student"], rel=0.15)
    assert plan["flops"]["data-alone"] < plan["flops"]["student"]
    rates = {
        arm: max(row["lr"] for row in read_lines(out / folder / "metrics.jsonl")) for arm, folder in FOLDERS.items()
    }
    assert rates == {"student": 0.003, "full": pytest.approx(0.0003)}


FOLDERS = {"student": ".", "full": "baselines/full-seed0"}


@pytest.mark.long
def test_seeds_and_baselines_are_added_to_what_is_there(here, tmp_path):
    one = tune(here, tmp_path / "run")
    first = sha256_of(tmp_path / "run" / "student" / "model.safetensors")
    more = tune(here, tmp_path / "run", seeds=3)
    assert sha256_of(tmp_path / "run" / "student" / "model.safetensors") == first
    assert set(one.readings) == set(more.readings) == {"cut", "student"}
    assert "not decided" in one.verdict
    assert "not decided" not in more.verdict
    assert not (tmp_path / "run" / "adapter").exists()


@pytest.mark.parametrize(
    "how",
    [
        {"trained": "lora-xs", "rank": 2, "baselines": "none"},
        pytest.param({"replay": "0.5", "stay": "ForwardKL"}, marks=pytest.mark.long),
    ],
)
def test_a_stopped_run_continues_to_the_same_bits(how, here, tmp_path):
    if "replay" in how:
        how = how | {"replay": f"{here / 'text.jsonl'}:0.5", "baselines": "none"}
    tune(here, tmp_path / "whole", **how)
    with stopped_before(2):
        tune(here, tmp_path / "parts", save_every=1, **how)
    (checkpoint,) = (tmp_path / "parts").glob("step-*")
    if "rank" in how:
        names = load_file(checkpoint / "tensors.safetensors")
        assert all("lora_" in name for name in names if name.startswith("model."))
    tune(here, tmp_path / "parts", save_every=1, **how)
    both = [load_file(tmp_path / name / "student" / "model.safetensors") for name in ("whole", "parts")]
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])


@pytest.mark.long
def test_the_best_adapters_are_taken(here, tmp_path):
    out = tmp_path / "run"
    tune(here, out, trained="lora", rank=2, eval_every=1, patience=3, lr=0.9, baselines="none", tokens=1024)
    taken = json.loads((out / "training.json").read_text())["taken_step"]
    losses = {row["step"]: row["loss_nats"] for row in read_lines(out / "held_out.jsonl")}
    assert losses[taken] == min(losses.values())
    assert not list(out.glob("best-*"))


@pytest.mark.long
def test_the_best_of_several_rates_is_taken_on_documents_that_judge_nothing(here, tmp_path):
    out = tmp_path / "run"
    rates = {"lr": "1e-5,3e-3,0.9", "trained": "lora", "rank": 2, "baselines": "full"}
    tune(here, out, tokens=2048, **rates)
    run = json.loads((out / "run.json").read_text())
    tried = {(one["what"], one["rate"]): one["nats"] for one in run["trials"]}
    assert list(tried) == [("adapters", 1e-5), ("adapters", 3e-3), ("adapters", 0.9)] + [
        ("full", pytest.approx(rate)) for rate in (1e-6, 3e-4, 0.09)
    ]
    for what in ("adapters", "full"):
        own = {rate: nats for (of, rate), nats in tried.items() if of == what}
        assert run["rates"][what] == min(own, key=own.__getitem__)
    used = {
        arm: max(row["lr"] for row in read_lines(out / folder / "metrics.jsonl")) for arm, folder in FOLDERS.items()
    }
    assert used == {"student": run["rates"]["adapters"], "full": run["rates"]["full"]}
    watched = set(json.loads((out / "watched.json").read_text())["documents"])
    judged = load_file(out / "measurements" / "student-seed0.safetensors")["tokens"]
    assert watched
    assert not judged[sorted(watched)].any()
    assert not (out / "rates").exists()
    assert tune(here, out, tokens=2048, **rates).verdict


@pytest.mark.long
def test_a_stage_of_a_mixture_begins_where_it_is_asked_for_though_other_rows_are_read(here, tmp_path, capsys):
    """Half of the steps on each source, at whatever share of replay."""
    for name in ("a", "b"):
        lines = [json.dumps({"text": text}) for text in texts(60, seed=ord(name))]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    data = f"{tmp_path / 'a.jsonl'}:1; 0.5: {tmp_path / 'b.jsonl'}:1"
    tune(here, tmp_path / "run", data=data, replay=f"{here / 'text.jsonl'}:0.5", tokens=1024, baselines="none")
    mixture = json.loads((tmp_path / "run" / "run.json").read_text())["mixture"]
    read = [one["passes"] * one["tokens"] for one in mixture]
    assert read[0] / sum(read) == pytest.approx(0.5, abs=0.05)


@pytest.mark.long
def test_documents_begin_in_the_tuned_model_as_they_were_trained(here, tmp_path):
    tune(here, tmp_path / "run", data=str(here / "text.jsonl"), frame="none", tokens=128)
    assert load(here / "teacher").tokenizer.bos_token is not None
    assert load(tmp_path / "run" / "student").tokenizer.bos_token is None


@pytest.mark.parametrize(("rank", "subspace"), [(2, ""), (16, ""), (16, "random")])
def test_flops_of_adapters_are_what_a_step_takes(here, rank, subspace):
    """Counted by PyTorch on a step, but for the head, which is not computed by autograd here: relative to all weights."""
    from torch.utils.flop_counter import FlopCounterMode

    from limbeck.config import TuneSettings
    from limbeck.jobs.common.environment import Environment
    from limbeck.jobs.tune.plan import TunePlan
    from limbeck.run.world import alone
    from limbeck.students.adapters import AdapterPlan, adapt
    from limbeck.students.subspaces import subspaces
    from tests.helpers.models import batch

    def counted(plan):
        model = load(here / "teacher", train=True)
        if plan is not None:
            inside = subspaces(model, "random", plan.rank, gradients={}) if plan.subspace else None
            adapt(model, plan, seed=0, subspaces=inside)
        rows = batch(4, 32, vocab=model.vocab)
        with FlopCounterMode(display=False) as counter:
            model(rows).logits().sum().backward()
        return counter.get_total_flops()

    how = {"trained": "lora-xs", "subspace": "random"} if subspace else {"trained": "lora"}
    settings = TuneSettings(student=str(here / "teacher"), data=str(here / "asked.jsonl"), rank=rank, length=32, **how)
    plan = TunePlan.of(settings, Environment(alone(), bf16=False))
    ratio = plan.flops(adapters=True, replay=False) / plan.flops(adapters=False, replay=False)
    adapters = AdapterPlan(rank, rank, subspace)
    assert ratio == pytest.approx(counted(adapters) / counted(None), rel=0.06)


def test_a_baseline_that_was_trained_once_is_compared_once():
    rng = np.random.default_rng(0)
    seeds = [Measurements(nats=rng.random(40), tokens=np.ones(40), bins=np.zeros((40, 15, 3))) for _ in range(4)]
    arms = {"cut": seeds[:1], "student": seeds[1:], "full": seeds[3:]}
    found = tuned_verdict(arms, {"cut": seeds[:1], "student": seeds[1:]}, start=BEFORE, used="", plan={})
    assert {one.name: one.seeds for one in found.differences} == {
        "cut - student": 3,
        "full - student": 1,
        "student - cut on other text": 3,
    }


def test_another_objective_is_compared_with_cross_entropy(here, tmp_path):
    result = tune(here, tmp_path / "run", objective="CrossEntropy + 0.1*ForwardKL", tokens=256)
    assert list(result.readings) == ["cut", "student", "ce"]
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [one["steps"] for one in run["plan"]["arms"]] == [2, 2]
    assert run["plan"]["flops"]["ce"] / run["plan"]["flops"]["student"] == pytest.approx(3 / 4)
    assert "the same tuning by cross-entropy" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.long
def test_a_run_does_not_continue_with_other_text_of_replay(here, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text((here / "text.jsonl").read_text())
    how = {"replay": f"{other}:0.5", "tokens": 128, "baselines": "none"}
    tune(here, tmp_path / "run", **how)
    other.write_text("\n".join(json.dumps({"text": text}) for text in texts(90, seed=9)))
    with pytest.raises(BadFolder, match=r"the text of --replay changed since the run in"):
        tune(here, tmp_path / "run", seeds=2, **how)


def test_adapters_on_weights_in_4_bits_are_compared_with_no_training_of_all_weights(here, tmp_path, capsys):
    result = tune(here, tmp_path / "run", trained="qlora", rank=2, tokens=256)
    assert list(result.readings) == ["cut", "student"]
    assert "adapters of rank 2 on weights in 4 bits, " in " ".join(capsys.readouterr().err.split())
    assert (
        "merged into the weights, which were rounded to 4 bits (NF4)"
        in (tmp_path / "run" / "student" / "README.md").read_text()
    )
    verdict = json.loads((tmp_path / "run" / "verdict.json").read_text())
    assert any("rounded to 4 bits (NF4), in which they were held" in note for note in verdict["notes"])
    limbeck_import(tmp_path / "run" / "adapter", tmp_path / "merged")
    merged, student = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "merged", tmp_path / "run" / "student")
    )
    assert all(torch.equal(merged[name], student[name]) for name in student)


@pytest.mark.long
def test_where_memory_is_scarce_no_two_models_are_measured_at_once(here, tmp_path, monkeypatch):
    """The model before is compared by its hidden states, which a later seed computes again."""
    loaded: list[Path] = []

    def counted(folder, **how):
        loaded.append(Path(folder))
        return load(folder, **how)

    monkeypatch.setattr(evaluation, "load", counted)
    how = {"trained": "qlora", "rank": 2, "tokens": 256, "replay": f"{here / 'text.jsonl'}:0.25", "dtype": "bfloat16"}
    alone = tune(here, tmp_path / "alone", **how, baselines="none")
    assert [folder.name for folder in loaded] == ["student"]
    with monkeypatch.context() as together:
        together.setattr(evaluation, "measured_alone", lambda *_: False)
        both = tune(here, tmp_path / "both", **how, baselines="none")
    for name in ("kl_teacher_student", "other_kl_teacher_student", "top1_agreement"):
        one, other = (result.readings["student"][name].value for result in (alone, both))
        assert one == pytest.approx(other, rel=1e-5)
    assert (tmp_path / "alone" / "samples.json").read_text() == (tmp_path / "both" / "samples.json").read_text()
    assert not (tmp_path / "alone" / "measurements" / "cut-states").exists()
    loaded.clear()
    tune(here, tmp_path / "alone", **how, baselines="none", seeds=2)
    assert [folder.name for folder in loaded] == ["student"]


def test_a_mistake_in_the_rank_does_not_keep_the_folder(here, tmp_path):
    with pytest.raises(BadSetting, match="--rank 500"):
        tune(here, tmp_path / "run", trained="lora", rank=500)
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"trained": "lora", "dtype": "bfloat16", "optimizer": "adamw-bf16", "weights_dtype": "bfloat16"},
            "would round the frozen",
        ),
        ({"stay": "ForwardKL"}, "--stay ForwardKL: it is the objective of other text, of which there is none"),
        ({"replay": "{text}:0.1", "stay": "TAID"}, "the same in all steps, such as ForwardKL"),
        ({"replay": "{text}:0.001"}, r"of the 16 rows of this training none would be of the other text"),
        ({"replay": "{text}:2"}, "expected a source and its share of the rows, between 0 and 1"),
        ({"replay": "{text}"}, "expected a source and its share of the rows, between 0 and 1"),
        ({"lr": "0.1,2"}, "expected a learning rate above 0 and up to 1, or several"),
        ({"rank": 4}, "--rank 4: it describes adapters, and all weights are trained: give --trained lora or qlora too"),
        ({"alpha": 8}, r"--alpha 8\.0: it describes adapters"),
        ({"subspace": "random"}, "--subspace random: it describes adapters"),
        ({"trained": "lora", "subspace": "random"}, "--subspace random: it is where lora-xs freezes"),
        ({"trained": "lora", "rank": 500}, r"--rank 500: the matrix model\.layers\.0"),
        ({"baselines": "full"}, "--baselines full: all weights are trained anyway"),
        ({"baselines": "data-alone"}, "--baselines data-alone: no other text is read"),
        (
            {"baselines": "ce"},
            "by cross-entropy where --objective is another, and it would be the same model",
        ),
        ({"baselines": "ce", "objective": "0.4*CrossEntropy + 0.6*CrossEntropy"}, "it would be the same model"),
        ({"baselines": "ce", "objective": "DPO"}, "and with pairs that is chosen"),
        ({"mask_input": 0.4, "objective": "DPO"}, "--objective DPO compares two completions .* of masked input"),
        ({"baselines": "cut+ce"}, "unknown baseline 'cut\\+ce'"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_long(given, message, here, tmp_path):
    given = {
        key: value.format(text=here / "text.jsonl") if isinstance(value, str) else value for key, value in given.items()
    }
    with pytest.raises(BadSetting, match=message):
        tune(here, tmp_path / "run", **given)
    assert not list(tmp_path.glob("run/**/metrics.jsonl"))


@pytest.mark.long
def test_a_run_does_not_continue_from_other_weights(here, tmp_path):
    write_teacher(tmp_path)
    how = {"student": str(tmp_path / "teacher"), "tokens": 128}
    tune(here, tmp_path / "run", **how)
    write_teacher(tmp_path, seed=4)
    with pytest.raises(BadFolder, match=r"the weights of .*teacher changed since the run in"):
        tune(here, tmp_path / "run", **how)


def test_a_folder_of_adapters_is_no_model_and_says_how_it_becomes_one(lora, here, tmp_path):
    _, out = lora
    with pytest.raises(BadModel, match="merge them into their base with limbeck import FOLDER --out MODEL"):
        load(out / "adapter")
    with pytest.raises(BadSetting, match="holds no adapters"):
        limbeck_import(out / "student", tmp_path / "merged", base=str(here / "teacher"))
    write_teacher(tmp_path, seed=4)
    with pytest.raises(BadModel, match="belong to other weights than those of teacher"):
        limbeck_import(out / "adapter", tmp_path / "merged", base=str(tmp_path / "teacher"))

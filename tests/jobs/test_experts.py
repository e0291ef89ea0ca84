"""Dense students of mixtures of experts: shrunk, distilled from the live teacher and from captured logits, and reported."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import limbeck
from limbeck.errors import BadSetting
from limbeck.models.build import build
from limbeck.models.language_model import LanguageModel
from limbeck.models.save import save
from limbeck.students.dense import EXPERTS
from tests.helpers.models import tokenizer, write_corpus
from tests.models.test_mixture_teachers import TEACHERS
from tests.students.test_dense import MIXTURES

LENGTH = 16


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A text, and random mixtures of experts with one tokenizer."""
    place, tok = tmp_path_factory.mktemp("experts"), tokenizer(300)
    write_corpus(place, count=40)
    configs = {name: make() for name, make in MIXTURES.items()} | TEACHERS
    for name in ("qwen3_moe", "qwen2_moe", "deepseek_v3", "gpt_oss"):
        torch.manual_seed(0)
        config = type(configs[name])(**configs[name].to_dict() | {"vocab_size": 300, "initializer_range": 0.02})
        save(LanguageModel(build(config), tok, name), place / name, dtype=torch.bfloat16)
    return place


def asked(here: Path, teacher: str, out: Path, **more):
    return {"teacher": str(here / teacher), "data": str(here / "text.jsonl"), "length": LENGTH, "out": out} | more


@pytest.mark.long
@pytest.mark.parametrize("method", EXPERTS)
def test_shrink_makes_a_dense_student_and_says_of_what(method, here, tmp_path):
    limbeck.shrink(**asked(here, "qwen2_moe", tmp_path / "out", params="15k", experts=method))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.model_type == "qwen2"
    assert model.dtype == torch.bfloat16  # of the teacher's folder
    experts = json.loads((tmp_path / "out" / "lineage.json").read_text())["experts"]
    assert (experts["of"], experts["method"], experts["experts"], experts["shared"]) == (
        "qwen2_moe",
        method,
        [2, 5],
        20,
    )
    card = (tmp_path / "out" / "README.md").read_text()
    said = {
        "chosen": "Each FFN was made of 2 of its 5 experts and the shared expert; those chosen have ",
        "merged": "The 5 experts of each layer were merged into 2 by their routing weights, beside the shared expert.",
    }
    assert said[method] in card


def test_experts_need_a_mixture_and_a_student_that_is_pruned(here, tmp_path):
    with pytest.raises(BadSetting, match="deepseek_v3 is no mixture of experts that becomes a dense student"):
        limbeck.shrink(**asked(here, "deepseek_v3", tmp_path / "out", experts="merged"))
    keys = asked(here, "qwen3_moe", tmp_path / "out", experts="merged", student=str(here / "qwen3_moe"))
    with pytest.raises(BadSetting, match="--student and --experts both define the student"):
        limbeck.distil(**keys)


@pytest.mark.parametrize(("more", "flag"), [({"method": "wanda"}, "--method"), ({"depth": "random"}, "--depth")])
def test_scores_need_a_student_that_is_pruned(more, flag, here, tmp_path):
    keys = asked(here, "qwen3_moe", tmp_path / "out", student=str(here / "qwen3_moe"), **more)
    with pytest.raises(
        BadSetting, match=f"{flag} scores what is pruned out of the teacher, and with --student nothing"
    ):
        limbeck.distil(**keys)


@pytest.mark.long
def test_a_mixture_is_distilled_to_a_dense_student_live_and_from_captured_logits(here, tmp_path):
    budget = {"tokens": "2k", "batch_tokens": 128, "baselines": ("cut",), "params": "15k"}
    limbeck.distil(**asked(here, "qwen3_moe", tmp_path / "live", **budget))
    limbeck.capture(**asked(here, "qwen3_moe", tmp_path / "logits"))
    keys = {"teacher": str(tmp_path / "logits"), "out": tmp_path / "captured"}
    limbeck.distil(**keys | budget)
    weights = [(tmp_path / run / "cut" / "model.safetensors").read_bytes() for run in ("live", "captured")]
    assert weights[0] == weights[1]
    report = (tmp_path / "live" / "report.html").read_text()
    assert "made dense, untrained" in report
    assert "Each FFN was made of 2 of its 5 experts" in report
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "live" / "student")
    assert student.config.model_type == "qwen3"
    assert json.loads((tmp_path / "live" / "student" / "lineage.json").read_text())["experts"]["method"] == "chosen"


@pytest.mark.long
@pytest.mark.parametrize("name", ["deepseek_v3", "gpt_oss"])
def test_other_mixtures_teach_live_and_captured(name, here, tmp_path):
    student = tmp_path / "student"
    limbeck.shrink(**asked(here, "qwen3_moe", student, params="15k"))
    budget = {"tokens": "2k", "batch_tokens": 128, "baselines": (), "student": str(student)}
    limbeck.distil(**asked(here, name, tmp_path / "live", **budget))
    limbeck.capture(**asked(here, name, tmp_path / "logits"))
    limbeck.distil(**{"teacher": str(tmp_path / "logits"), "out": tmp_path / "captured"} | budget)
    found = [_held_out(tmp_path / run) for run in ("live", "captured")]
    assert found[0]["teacher"] == pytest.approx(found[1]["teacher"], rel=1e-4)
    assert found[0]["student"] == pytest.approx(found[1]["student"], rel=0.02)


def _held_out(run: Path) -> dict[str, float]:
    rows = [json.loads(line) for line in (run / "readings.jsonl").read_text().splitlines()]
    return {row["model"]: row["value"] for row in rows if row["name"] == "held_out"}

"""`--dtype auto`: float32 or bfloat16 by the device's units and the width of the models; a begun run keeps its format."""

import json
from pathlib import Path

import pytest
import torch

from limbeck.config import DistilSettings
from limbeck.config.defaults import WIDE
from limbeck.errors import BadFolder
from limbeck.jobs.common import environment
from limbeck.jobs.common.environment import environment_of
from limbeck.jobs.common.folder import claim, signature_of, update
from limbeck.objectives import ForwardKL
from limbeck.report.card import model_card
from limbeck.run.optim import adamw
from limbeck.run.step import LossTerm, train_step
from limbeck.run.world import alone
from tests.helpers.models import batch, frozen, llama, tokenizer


@pytest.fixture
def units(monkeypatch):
    """Says whether the processor has units for bfloat16, whatever this machine has."""

    def units(there: bool | None) -> None:
        monkeypatch.setattr(environment, "multiplies_bfloat16", lambda device: there)

    units(True)
    return units


def model(folder: Path, width: int) -> str:
    """A folder with the configuration of a Llama of this width."""
    folder.mkdir()
    sizes = {"hidden_size": width, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 300, **sizes}))
    return str(folder)


def settings(out: Path, **changes) -> DistilSettings:
    return DistilSettings(**{"teacher": "teacher", "out": out, "device": "cpu"} | changes)


def begin(out: Path, *, bf16: bool, **changes) -> None:
    """Leaves a run that has come to something in a folder."""
    claim(out, signature_of(settings(out, **changes), "distil", bf16=bf16))
    (out / "cut").mkdir()


@pytest.mark.parametrize(("width", "expected"), [(WIDE - 8, torch.float32), (WIDE, torch.bfloat16)])
def test_auto_is_bfloat16_for_wide_models_on_a_processor_that_has_it(width, expected, units, tmp_path):
    assert environment_of(settings(tmp_path / "run"), model(tmp_path / "model", width)).dtype == expected


@pytest.mark.parametrize("there", [False, None])
def test_auto_is_float32_on_other_processors(there, units, tmp_path):
    units(there)
    assert not environment_of(settings(tmp_path / "run"), model(tmp_path / "model", 4 * WIDE)).bf16


def test_the_widest_model_decides(units, tmp_path):
    student, teacher = model(tmp_path / "student", 64), model(tmp_path / "teacher", WIDE)
    assert environment_of(settings(tmp_path / "run"), student, None, teacher).bf16
    assert environment_of(settings(tmp_path / "run"), student, width=WIDE).bf16
    assert not environment_of(settings(tmp_path / "run"), student, None).bf16
    assert not environment_of(settings(tmp_path / "run")).bf16


def test_a_given_format_is_taken(units, tmp_path):
    wide, narrow = model(tmp_path / "wide", WIDE), model(tmp_path / "narrow", 64)
    assert not environment_of(settings(tmp_path / "run", dtype="float32"), wide).bf16
    assert environment_of(settings(tmp_path / "run", dtype="bfloat16"), narrow).bf16


@pytest.mark.parametrize("before", [False, True])
def test_a_begun_run_keeps_the_format_it_was_begun_in(before, units, tmp_path):
    begin(tmp_path / "run", bf16=before)
    units(not before)
    again = environment_of(settings(tmp_path / "run"), model(tmp_path / "model", WIDE))
    assert again.bf16 is before
    claim(tmp_path / "run", signature_of(settings(tmp_path / "run"), "distil", bf16=again.bf16))


def test_a_run_that_came_to_nothing_decides_nothing(units, tmp_path):
    claim(tmp_path / "run", signature_of(settings(tmp_path / "run"), "distil", bf16=False))
    assert environment_of(settings(tmp_path / "run"), model(tmp_path / "model", WIDE)).bf16


def test_students_of_a_begun_sweep_keep_their_format(units, tmp_path):
    out = tmp_path / "run"
    run = claim(out, signature_of(settings(out), "family"))
    update(out, run, members=["20M", "10M"])
    begin(out / "10M", bf16=False)
    assert not environment_of(settings(out), model(tmp_path / "model", WIDE)).bf16


def test_a_run_that_was_given_its_format_is_not_continued_with_auto(units, tmp_path):
    begin(tmp_path / "run", bf16=False, dtype="float32")
    again = environment_of(settings(tmp_path / "run"), model(tmp_path / "model", WIDE))
    assert again.bf16
    with pytest.raises(BadFolder, match=r"dtype: 'float32' there, 'auto' now"):
        claim(tmp_path / "run", signature_of(settings(tmp_path / "run"), "distil", bf16=again.bf16))


@pytest.mark.parametrize(
    ("bf16", "how"),
    [(False, "in float32 and"), (True, "in mixed precision (weights in float32, products in bfloat16) and")],
)
def test_a_card_says_in_which_format_a_student_was_trained(bf16, how):
    run = {"teacher": {"name": "t"}, "student": {"parameters": 9, "dtype": "bfloat16"}, "plan": {"tokens": 100}}
    card = model_card(run | {"objective": "ForwardKL", "lineage": {}, "signature": {"bf16": bf16}}, [])
    assert f"It was trained {how} rounded to bfloat16 at the end" in card


def trained(*, bf16: bool, steps: int = 20) -> tuple[torch.Tensor, list[float]]:
    """The gradient of the first step, and the losses of all, of a student that learns from a teacher in the same format."""
    words = tokenizer()
    teacher, student = (llama(layers=layers, hidden=64, seed=layers, tok=words) for layers in (3, 2))
    frozen(teacher).model.to(torch.bfloat16 if bf16 else torch.float32)
    optimizer, objective, rows = adamw(student.model, [], weight_decay=0.0), ForwardKL(), batch(4, vocab=len(words))
    for group in optimizer.param_groups:
        group["lr"] = 3e-3
    losses: list[float] = []
    for _ in range(steps):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            losses.append(train_step(student, [LossTerm(rows, objective, teacher)], optimizer, mesh=alone()).loss)
        if len(losses) == 1:
            first = torch.cat([p.grad.flatten() for p in student.model.parameters() if p.grad is not None])
    return first, losses


@pytest.mark.long
def test_losses_in_mixed_precision_agree_with_those_of_float32():
    """The guard of the default: the first gradient points the same way, and twenty losses are within half a percent."""
    (exact, losses), (rounded, others) = (trained(bf16=bf16) for bf16 in (False, True))
    assert torch.nn.functional.cosine_similarity(exact, rounded, dim=0) > 0.995
    assert others == pytest.approx(losses, rel=5e-3)
    assert others != losses  # it was in another format
    assert losses[-1] < 0.7 * losses[0]

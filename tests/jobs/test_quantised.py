"""distil --qat: students that are trained with the weights of a GGUF file."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

import limbeck
from limbeck.corpora import TokenStore
from limbeck.errors import BadModel, BadSetting
from limbeck.exporters.gguf.exporter import GgufExporter
from limbeck.exporters.gguf.writer import write_gguf
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.held_out import HeldOut
from limbeck.jobs.distil import arms
from limbeck.models.gguf.container import opened
from limbeck.models.gguf.families import family_of
from limbeck.models.gguf.quantiser import Quantiser
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.probes.measurements import Measurements, measure
from limbeck.run.world import alone
from limbeck.students.shape import Shape, choose
from tests.helpers.kills import forked, result
from tests.helpers.models import llama, texts

SHAPE = "layers=1,hidden=32,heads=4,kv_heads=2,ffn=64"


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("quantised")
    save(llama(layers=2, hidden=64), folder / "teacher")
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(60)))
    return folder


def keys(here: Path, **more):
    usual = {"teacher": str(here / "teacher"), "data": str(here / "text.jsonl"), "length": 32, "threads": 1}
    shape = {} if more.keys() & {"params", "student"} else {"shape": SHAPE}
    return (
        usual | shape | {"tokens": "1k", "batch_tokens": 128, "baselines": ("ptq",), "qat": "int4", "lr": 1e-2} | more
    )


@pytest.fixture(scope="module")
def done(here) -> Path:
    limbeck.distil(**keys(here), out=here / "done")
    return here / "done"


def measured(out: Path, name: str) -> Measurements:
    return Measurements.load(out / "measurements" / f"{name}-seed0.safetensors")


@pytest.mark.long
def test_the_student_holds_what_the_file_reads_again(done):
    """Each matrix of the folder is what `gguf` makes of its own blocks, so an export writes the codes that were trained."""
    student = load(done / "student")
    places = Quantiser.of(student.config, "q4_0").places
    assert {place.kind for place in places.values()} == {"q4_0", "q8_0"}
    for name, parameter in student.model.named_parameters():
        if name in places:
            kind = GGMLQuantizationType[places[name].kind.upper()]
            assert np.array_equal(dequantize(quantize(parameter.numpy(), kind), kind), parameter.numpy()), name
    assert student.lineage["quantised"]["kind"] == "q4_0"
    assert load(done / "baselines" / "ptq-seed0" / "student").lineage["quantised"]["kind"] == "q4_0"
    assert "quantised" not in load(done / "cut").lineage


@pytest.mark.long
def test_an_export_holds_the_trained_values(done, tmp_path):
    """Of each tensor the file has the type of the training, and its numbers, read again, are the student's."""
    student = load(done / "student")
    write_gguf(student, tmp_path / "model.gguf", "q4_0")
    file, config = opened(tmp_path / "model.gguf"), student.config
    ours = {name: parameter.numpy() for name, parameter in student.model.named_parameters()}
    places = Quantiser.of(config, "q4_0").places
    for name, there in family_of(config).names(ours, layers=config.num_hidden_layers).items():
        kind = places[name].kind if name in places else "f32"
        assert file.tensors[there].tensor_type.name.lower() == kind, name
        assert np.array_equal(file.values(there), family_of(config).write(name, ours[name], config)), name


@pytest.mark.long
def test_an_export_to_another_format_says_that_it_rounds_again(done, tmp_path):
    student, said = load(done / "student"), {}
    for kind in ("q4_0", "f32", "q8_0", "bf16"):
        (tmp_path / kind).mkdir()
        notes = GgufExporter(kind).write(student, tmp_path / kind, dtype=None)
        said[kind] = [note for note in notes if "trained for q4_0" in note]
    assert {kind: len(notes) for kind, notes in said.items()} == {"q4_0": 0, "f32": 0, "q8_0": 1, "bf16": 1}
    assert "gguf:q8_0 rounds its numbers once more" in said["q8_0"][0]


@pytest.mark.long
def test_what_is_measured_is_the_quantised_student(done):
    """The folder, loaded as any model, has the nats of the report; quantising it once more changes nothing."""
    found = limbeck.probe(str(done / "student"), probe="likelihood", length=32, threads=1).readings
    run = measured(done, "student")
    assert found["held_out"].value == pytest.approx(run.nats.sum() / run.tokens.sum(), rel=1e-6)
    again = load(done / "student")
    before = [parameter.clone() for parameter in again.model.parameters()]
    Quantiser.of(again.config, "q4_0").quantise(again)
    assert all(torch.equal(a, b) for a, b in zip(before, again.model.parameters(), strict=True))


@pytest.mark.long
def test_quantising_afterwards_is_the_control(here, done):
    """ptq is the training without --qat, quantised at its end; the report has the paired difference and says what was done."""
    limbeck.distil(**keys(here, qat=None, baselines=(), student_dtype="float32"), out=here / "plain")
    plain, control = load(here / "plain" / "student"), load(done / "baselines" / "ptq-seed0" / "student")
    Quantiser.of(plain.config, "q4_0").quantise(plain)
    for name, parameter in control.model.named_parameters():
        assert torch.equal(parameter, plain.model.get_parameter(name)), name
    verdict = json.loads((done / "verdict.json").read_text())
    (one,) = [one for one in verdict["differences"] if one["name"] == "ptq - student"]
    a, b = measured(done, "ptq"), measured(done, "student")
    assert one["value"] == pytest.approx((a.nats.sum() - b.nats.sum()) / b.tokens.sum(), rel=1e-6)
    assert one["value"] != 0
    assert one["low"] < one["high"]
    assert any("GGUF file of q4_0" in note and "limbeck export --to gguf:q4_0" in note for note in verdict["notes"])
    assert "quantised to q4_0 (straight-through" in (done / "student" / "README.md").read_text()
    assert "quantised after training" in (done / "report.html").read_text()
    assert json.loads((done / "run.json").read_text())["quantised"]["kind"] == "q4_0"


@pytest.mark.long
def test_the_start_is_measured_with_quantised_weights(here, done):
    """The baseline cut has the loss that a probe finds for it once it is quantised, and not the one of its own weights."""
    cut = load(done / "cut")
    run, store = measured(done, "cut"), TokenStore.open(done / "data" / "held_out")
    held_out = HeldOut(store, length=32, environment=Environment(alone(), bf16=False), trained=1000)
    losses = []
    for _ in range(2):
        found = measure(cut, None, held_out.batches(), documents=store.documents)
        losses.append(found.nats.sum() / found.tokens.sum())
        Quantiser.of(cut.config, "q4_0").quantise(cut)
    expected = run.nats.sum() / run.tokens.sum()
    assert losses[1] == pytest.approx(expected, rel=1e-6)
    assert losses[0] != pytest.approx(expected, rel=1e-4)


@pytest.mark.long
def test_a_run_killed_in_its_training_ends_with_the_same_bits(here, done, tmp_path):
    out, saved = tmp_path / "out", []
    from limbeck.run import saver as of_run

    def once(*given, **more):
        folder = of_save(*given, **more)
        saved.append(folder)
        raise KeyboardInterrupt

    of_save = of_run.save_checkpoint
    plan = arms.Shared.run

    def often(self, arm):
        run = plan(self, arm)
        run.plan = arms.replace(run.plan, save_every=3)
        return run

    def killed() -> None:
        arms.Shared.run = often
        of_run.save_checkpoint = once
        limbeck.distil(**keys(here), out=out)

    assert "KeyboardInterrupt" in forked(killed)
    (checkpoint,) = out.glob("step-*")
    assert checkpoint.name == "step-000003"
    assert not (out / "student").exists()
    assert forked(lambda: limbeck.distil(**keys(here), out=out)) == ""
    shutil.rmtree(out / ".lock", ignore_errors=True)
    mine, theirs = result(out), result(done)
    weights = [name for name in theirs if name.endswith(".safetensors")]
    assert len(weights) >= 5
    assert {name: mine[name] for name in weights} == {name: theirs[name] for name in weights}


@pytest.mark.long
def test_a_quantised_student_can_be_trained_further_in_full(here, done, tmp_path):
    more = {"student": str(done / "student"), "qat": None, "baselines": (), "tokens": "300"}
    limbeck.distil(**keys(here, **more), out=tmp_path / "out")
    assert "quantised" not in (load(tmp_path / "out" / "student").lineage or {})


def test_a_shape_is_chosen_that_blocks_divide(here):
    config = load(here / "teacher").config
    config.hidden_size, config.intermediate_size, config.num_attention_heads, config.head_dim = 576, 1536, 9, 64
    config.num_key_value_heads, config.num_hidden_layers = 3, 30
    for budget in (2_000_000, 7_000_000, 20_000_000):
        shape = choose(config, parameters=budget, multiple=32)
        assert shape.hidden % 32 == shape.ffn % 32 == shape.heads * 64 % 32 == 0
    assert choose(config, parameters=7_000_000, multiple=1) == choose(config, parameters=7_000_000)
    config.head_dim = 24
    assert choose(config, parameters=20_000_000, multiple=32).heads % 4 == 0
    assert isinstance(choose(config, parameters=20_000_000), Shape)


@pytest.mark.parametrize(
    ("more", "error", "says"),
    [
        (
            {"shape": "layers=1,hidden=32,heads=4,kv_heads=2,ffn=40"},
            BadModel,
            r"got model.layers.0.mlp.down_proj.weight with 40",
        ),
        ({"qat": None}, BadSetting, "--baselines ptq .* give --qat"),
        ({"mixers": "gdn", "baselines": ()}, BadSetting, "leave --mixers out, or --qat"),
        ({"student_dtype": "bfloat16"}, BadSetting, "--student-dtype bfloat16: with --qat .* float32"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(here, tmp_path, more, error, says):
    given = keys(here, **more)
    if "mixers" in more:
        given.pop("shape")
    with pytest.raises(error, match=says):
        limbeck.distil(**given, out=tmp_path / "out")


@pytest.mark.long
def test_a_capture_cuts_students_whose_rows_blocks_divide(here, tmp_path):
    """And a quantised training begins with one when the teacher is gone."""
    shutil.copytree(here / "teacher", tmp_path / "teacher")
    asked = {"teacher": str(tmp_path / "teacher"), "data": str(here / "text.jsonl"), "length": 32, "threads": 1}
    captured = tmp_path / "captured"
    limbeck.capture(**asked, tokens=640, params="40k", qat="int4", kind="drawn", out=captured)
    (folder,) = (captured / "cut").iterdir()
    shape = choose(load(here / "teacher").config, parameters=40_000, multiple=32)
    assert Shape.of(load(folder).config) == shape
    shutil.rmtree(tmp_path / "teacher")
    more = {"params": "40k", "qat": "int4", "tokens": "300", "batch_tokens": 128, "baselines": (), "threads": 1}
    limbeck.distil(teacher=str(captured), **more, out=tmp_path / "out")
    assert load(tmp_path / "out" / "student").lineage["quantised"]["kind"] == "q4_0"
    with pytest.raises(BadSetting, match="it is for the shapes of the students of --params"):
        limbeck.capture(**asked | {"teacher": str(here / "teacher")}, qat="int4", out=tmp_path / "none")

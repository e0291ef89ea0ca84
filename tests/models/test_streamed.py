"""A streamed teacher has the logits of one in memory, keeps its memory limit, and is refused for the same faults."""

import json
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BloomConfig, GraniteConfig

import limbeck
from limbeck.errors import BadModel, BadSetting
from limbeck.jobs.common.captured import Captured
from limbeck.models.build import new_model
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.models.memory import MemoryBudget, MemoryNeeds
from limbeck.models.save import save
from limbeck.models.streamed import StreamedModel, load_streamed
from limbeck.teachers.ref import ANSWERS
from limbeck.types import each
from tests.helpers.models import write_corpus, write_teacher
from tests.helpers.zoo import CONFIGS, animal, packed, words

LENGTH = 12
SMALL = 900_000.0  # bytes: hidden states do not fit beside two layers of an animal


def streamed(folder: Path, *, memory: float = SMALL, dtype: torch.dtype = torch.float32) -> StreamedModel:
    return load_streamed(folder, memory=memory, dtype=dtype, length=LENGTH, spill=folder.parent)


def shards(model: LanguageModel, folder: Path) -> Path:
    """Saves a model in many files."""
    model.model.save_pretrained(folder, max_shard_size="20KB")
    model.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good model folder to damage."""
    save(animal("llama"), tmp_path / "good")
    return tmp_path / "good"


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_the_model_in_memory(name, tmp_path):
    folder = shards(animal(name), tmp_path / name)
    batch = packed(rows=7, length=LENGTH)
    torch.testing.assert_close(streamed(folder)(batch).logits(), load(folder)(batch).logits(), rtol=0, atol=1e-5)


def test_in_half_precision_too_with_the_same_buffers(tmp_path):
    save(animal("gemma3_text"), tmp_path / "model")
    ours, theirs = (way(tmp_path / "model", dtype=torch.bfloat16) for way in (streamed, load))
    for (name, buffer), (other, expected) in zip(
        ours.about.model.named_buffers(), theirs.model.named_buffers(), strict=True
    ):
        assert (name, buffer.dtype) == (other, expected.dtype)
        assert torch.equal(buffer, expected), name
    batch = packed(rows=3, length=LENGTH)
    torch.testing.assert_close(ours(batch).logits(), theirs(batch).logits(), rtol=0, atol=0.05)


def test_spilled_and_kept_hidden_states_are_the_same(folder):
    small, large = streamed(folder), streamed(folder, memory=1e9)
    assert small.budget.spill
    assert not large.budget.spill
    batch = packed(rows=5, length=LENGTH)
    torch.testing.assert_close(small(batch).hidden, large(batch).hidden, rtol=0, atol=1e-6)
    assert [entry.name for entry in folder.parent.iterdir()] == ["good"]


def test_the_weights_of_a_layer_are_released_after_it_ran(folder, monkeypatch):
    model = streamed(folder)
    live = []
    run = StreamedModel._run

    def watched(self, layer, hidden, position):
        live.append([sum(not p.is_meta for p in one.parameters()) for one in self._layers])
        return run(self, layer, hidden, position)

    monkeypatch.setattr(StreamedModel, "_run", watched)
    model(packed(rows=2, length=LENGTH))
    tensors = len(list(model._layers[0].parameters()))
    assert live == [[tensors if i == layer else 0 for i in range(4)] for layer in range(4)]
    left = [name for name, parameter in model.about.model.named_parameters() if not parameter.is_meta]
    assert left == ["model.norm.weight"]
    assert model.about.parameters_count == load(folder).parameters_count


def test_many_batches_use_the_weights_in_one_pass(folder, monkeypatch):
    model = streamed(folder)
    passes = []
    enter = StreamedModel._enter
    monkeypatch.setattr(StreamedModel, "_enter", lambda self, *of: passes.append(len(of[0])) or enter(self, *of))
    batches = [packed(rows=rows, length=LENGTH, seed=rows) for rows in (1, 4, 2)]
    resident = load(folder)
    for (batch, outputs), expected in zip(each(model, batches), batches, strict=True):
        assert torch.equal(batch.tokens, expected.tokens)
        torch.testing.assert_close(outputs.logits(), resident(expected).logits(), rtol=0, atol=1e-5)
    assert passes == [3]


def test_too_little_memory_names_what_is_needed(folder):
    with pytest.raises(
        BadSetting, match=r"--device-memory 9.77 KiB: expected at least [\d.]+ KiB, which the largest layer"
    ) as caught:
        streamed(folder, memory=10_000)
    least = float(str(caught.value).split("at least ")[1].split(" KiB")[0]) * 2**10
    assert streamed(folder, memory=least).budget.peak <= least


def test_more_memory_is_used_for_what_helps_most():
    needs = MemoryNeeds(rest=0, embedding=2**20, layer=2**24, head=2**20, token=2**12, hidden=2**10, rows=1000)
    budgets = [
        MemoryBudget.of(needs, limit=limit * 2**20, length=64, kind="cpu", free=0) for limit in (20, 26, 44, 500)
    ]
    assert [budget.prefetch for budget in budgets] == [False, False, True, True]
    assert [budget.spill for budget in budgets] == [True, True, True, False]
    assert [budget.micro_tokens for budget in budgets] == sorted(budget.micro_tokens for budget in budgets)
    on_gpu = MemoryBudget.of(needs, limit=100 * 2**20, length=64, kind="cuda", free=2**40)
    assert (on_gpu.prefetch, on_gpu.spill, on_gpu.block_tokens) == (True, False, 2**19)


def _spoil(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


FAULTS = {
    "missing": (
        lambda tensors: tensors.pop("model.norm.weight"),
        "the weights lack 1 tensors .* model.norm.weight first",
    ),
    "unexpected": (
        lambda tensors: tensors.update(extra=torch.zeros(2)),
        "hold 1 tensors the configuration has no place",
    ),
    "shape": (
        lambda tensors: tensors.update({"model.norm.weight": torch.ones(31)}),
        r"model.norm.weight should be \(32,\) by the configuration, the weights have \(31,\)",
    ),
    "NaN": (
        lambda tensors: tensors["model.layers.3.mlp.up_proj.weight"][3].fill_(float("nan")),
        "32 of the 1280 values of model.layers.3.mlp.up_proj.weight are NaN or infinite .read as torch.float32.",
    ),
    "format": (
        lambda tensors: tensors.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)}),
        "expected model.norm.weight stored as one of F64, F32, F16, BF16, got I8",
    ),
    "another form": (
        lambda tensors: tensors.update({"model.norm.half": tensors.pop("model.norm.weight")}),
        "have model.norm.half where Transformers computes with model.norm.weight",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_of_another_model_are_refused(fault, folder):
    change, message = FAULTS[fault]
    _spoil(folder, change)
    with pytest.raises(BadModel, match=message):
        streamed(folder)


def test_a_missing_shard_and_pickles_are_refused(folder, tmp_path):
    split = shards(animal("llama"), tmp_path / "split")
    next(split.glob("model-00002-*")).unlink()
    with pytest.raises(BadModel, match=r"names the file model-00002-of-.*, which is missing"):
        streamed(split)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BadModel, match="pickled weights only"):
        streamed(folder)


def test_tied_tensors_may_be_stored_by_either_name_and_without_prefix(tmp_path):
    save(animal("gpt2"), tmp_path / "model")
    batch = packed(rows=2, length=LENGTH)
    expected = load(tmp_path / "model")(batch).logits()
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    renamed = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    renamed["lm_head.weight"] = renamed.pop("wte.weight")
    renamed["h.0.attn.bias"] = torch.zeros(1)  # a mask, in the files of older releases
    save_file(renamed, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    torch.testing.assert_close(streamed(tmp_path / "model")(batch).logits(), expected, rtol=0, atol=1e-5)


def test_architectures_are_tried_out_as_those_in_memory(tmp_path, monkeypatch):
    config = BloomConfig(vocab_size=48, hidden_size=32, n_layer=1, n_head=4)
    save(new_model(config, words(), 0), tmp_path / "bloom")
    with pytest.raises(BadModel, match="bloom is refused"):
        streamed(tmp_path / "bloom")
    small = {key: getattr(CONFIGS["llama"], key) for key in ("vocab_size", "hidden_size", "intermediate_size")}
    scaled = GraniteConfig(**small, num_hidden_layers=2, num_attention_heads=4, logits_scaling=3.0, pad_token_id=0)
    save(new_model(scaled, words(), 0), tmp_path / "granite")
    batch = packed(rows=2, length=LENGTH)
    ours, theirs = (way(tmp_path / "granite")(batch).logits() for way in (streamed, load))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    monkeypatch.delitem(limbeck.models.language_model.LOGIT_FACTORS, "granite")
    with pytest.raises(BadModel, match=r"granite is refused: its logits are not head\(hidden\)"):
        streamed(tmp_path / "granite")


def test_a_change_between_layers_is_refused(folder):
    model = streamed(folder)
    third = model.about.model.base_model.layers[2]
    third.register_forward_pre_hook(lambda module, given: (given[0] * 2, *given[1:]))
    with pytest.raises(BadModel, match="changes hidden states between layers"):
        model.verify()


def test_a_layer_argument_that_depends_on_tokens_is_refused(folder):
    model = streamed(folder)
    embedded = {}
    model.about.model.base_model.embed_tokens.register_forward_hook(
        lambda module, given, output: embedded.update(per_layer=output)
    )
    model.about.model.base_model.layers[1].register_forward_pre_hook(
        lambda module, given, named: (given, named | {"per_layer": embedded.pop("per_layer", None)}), with_kwargs=True
    )
    with pytest.raises(BadModel, match="depend on more than hidden states and positions"):
        model.verify()


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A teacher, a corpus, and logits captured from the teacher in memory."""
    place = tmp_path_factory.mktemp("streamed")
    write_teacher(place)
    write_corpus(place, count=40)
    captured(place, "resident")
    return place


def captured(here: Path, out: str, **keys):
    usual = {"teacher": str(here / "teacher"), "data": str(here / "text.jsonl"), "length": 16, "threads": 1}
    return limbeck.capture(**(usual | {"kind": "drawn", "out": here / out} | keys))


@pytest.mark.long
def test_a_streamed_capture_is_that_of_the_teacher_in_memory(here, capsys):
    found = captured(here, "streamed", stream=True, device_memory="12MiB")
    printed = capsys.readouterr().err
    assert "read from disk layer by layer" in printed
    assert "peak memory and samples of the teacher are left out" in printed
    ours, theirs = Captured(here / "streamed"), Captured(here / "resident")
    assert ours.logits.made_from == theirs.logits.made_from
    assert ours.facts["signature"] == theirs.facts["signature"]
    for name in (ANSWERS, "held_out"):
        kept = [(here / out / name / "answers-000000000000.arrow").read_bytes() for out in ("streamed", "resident")]
        assert sum(a != b for a, b in zip(*kept, strict=True)) <= len(kept[0]) // 100  # rounding at a code's border
    assert ours.measured.nats == pytest.approx(theirs.measured.nats, rel=1e-5)
    assert ours.samples == []
    assert {reading.name for reading in ours.cost} == {"parameters", "embedding_parameters"}
    kept = json.loads((here / "resident" / "certificate.json").read_text())
    mass = [certificate["exact_mass"]["value"] for certificate in (found["certificate"], kept)]
    assert mass[0] == pytest.approx(mass[1], abs=1e-3)
    result = limbeck.distil(
        teacher=str(here / "streamed"),
        shrink=2.0,
        tokens="1k",
        batch_tokens=128,
        threads=1,
        baselines=(),
        out=here / "d",
    )
    assert result["verdict"]


@pytest.mark.long
def test_a_streamed_capture_that_is_killed_goes_on(here):
    keys = {"stream": True, "device_memory": "12MiB"}
    process = get_context("fork").Process(target=captured, args=(here, "killed"), kwargs=keys)
    process.start()
    part = here / "killed" / ANSWERS / "answers-000000000000.part"
    while process.is_alive() and not part.exists():
        pass
    process.kill()
    process.join()
    captured(here, "killed", stream=True, device_memory="10MiB")  # another limit is no other capture
    ours, theirs = (Captured(here / out) for out in ("killed", "resident"))
    assert ours.logits.damaged() == []
    assert ours.logits.made_from == theirs.logits.made_from
    assert not [path for path in (here / "killed").iterdir() if path.name.startswith("tmp")]


@pytest.mark.long
def test_a_memory_limit_without_streaming_is_refused(here):
    with pytest.raises(
        BadSetting, match=r"--device-memory 1.00 GiB: it limits a teacher that is read layer by layer; add --stream"
    ):
        captured(here, "refused", device_memory="1GiB")
    assert not (here / "refused").exists()

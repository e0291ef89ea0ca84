"""The decoder as a Transformers model: equal to Llama with Llama's mixer, equal in both forms, saved with its code."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

import limbeck
from limbeck.errors import BadModel
from limbeck.models.auto import LimbeckConfig, LimbeckForCausalLM
from limbeck.models.build import new_model
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.models.mixers.named import MIXERS
from limbeck.models.save import save
from limbeck.models.weightless import load_without_weights, save_without_weights
from tests.helpers.models import tokenizer, write_corpus, write_teacher

SMALL = {"mamba2": "mamba2:state=6,head=8", "swa": "swa:5", "based": "based:4", "mamba": "mamba:4", "h3": "h3:8"}
ALL = [SMALL.get(name, name) for name in MIXERS]


def made(*mixers: str, seed: int = 0, **changes) -> LimbeckForCausalLM:
    shape = {
        "vocab_size": 50,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "chunk_size": 8,
        "initializer_range": 0.2,
        "pad_token_id": 0,
    }
    torch.manual_seed(seed)
    return LimbeckForCausalLM(LimbeckConfig(mixers=mixers, **(shape | changes))).eval()


def small_model(*mixers: str, **changes) -> LanguageModel:
    words = tokenizer()
    special = {name: getattr(words, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = made(*mixers, vocab_size=len(words), tie_word_embeddings=True, **special, **changes).config
    return new_model(config, words, 0, name="mixed")


def tokens(rows: int = 2, length: int = 16) -> torch.Tensor:
    return torch.randint(1, 50, (rows, length), generator=torch.Generator().manual_seed(0))


# Against Transformers' own decoders


@pytest.mark.parametrize(("config", "kind", "mixer"), [
    (LlamaConfig, LlamaForCausalLM, "attention"),
    (MistralConfig, MistralForCausalLM, "swa:5"),
])  # fmt: skip
@torch.no_grad()
def test_with_the_same_weights_it_is_llama_and_mistral(config, kind, mixer):
    ours = made(mixer, num_hidden_layers=2, tie_word_embeddings=False).double()
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names += ("num_key_value_heads", "head_dim", "max_position_embeddings", "pad_token_id")
    shape = {name: getattr(ours.config, name) for name in names}
    theirs = kind(config(**shape, rms_norm_eps=1e-6, **({"sliding_window": 5} if kind is MistralForCausalLM else {})))
    theirs = theirs.double().eval()
    changed = {"mixer_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm", "mixer.": "self_attn."}
    given = theirs.state_dict()
    for name, parameter in ours.named_parameters():
        for a, b in changed.items():
            name = name.replace(a, b)
        given[name].copy_(parameter)
    position = torch.cat([torch.arange(5), torch.arange(11)]).expand(2, -1)
    for more in ({}, {"position_ids": position}):
        a, b = ours(tokens(), use_cache=False, **more).logits, theirs(tokens(), use_cache=False, **more).logits
        assert (a - b).abs().max() < 1e-5  # theirs norms in float32


# Padding, packing and the cache


@pytest.mark.parametrize("mixer", ALL)
@torch.no_grad()
def test_decoding_token_by_token_equals_one_forward_pass(mixer):
    model = made("conv", mixer).double()
    x, pad = tokens(3, 9), torch.zeros(3, 4, dtype=torch.long)
    options = {"max_new_tokens": 8, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    alone = model.generate(x, attention_mask=torch.ones_like(x), **options)
    whole = model(alone.sequences).logits[:, 8:-1]
    assert (torch.stack(alone.logits, 1) - whole).abs().max() < 1e-5  # generate gives float32
    assert alone.past_key_values.get_seq_length() == 16
    layers = [layer.mixer for layer in model.model.layers]
    assert alone.past_key_values.nbytes() == 3 * sum(layer.state_bytes(16) for layer in layers)
    padded = model.generate(torch.cat([pad, x], 1), attention_mask=torch.cat([pad, torch.ones_like(x)], 1), **options)
    assert torch.equal(padded.sequences[:, 4:], alone.sequences)
    assert (torch.stack(padded.logits, 1) - torch.stack(alone.logits, 1)).abs().max() < 1e-6


@torch.no_grad()
def test_beams_carry_their_states_along():
    model, x = made(*ALL), tokens(2, 7)
    options = {"attention_mask": torch.ones_like(x), "max_new_tokens": 6, "num_beams": 3, "num_return_sequences": 2}
    beams = model.generate(x, do_sample=False, **options)
    assert torch.equal(beams, model.generate(x, do_sample=False, use_cache=False, **options))


@torch.no_grad()
def test_a_packed_row_is_its_documents_and_padding_changes_nothing():
    model, x = made(*ALL, position_embeddings="learned").double(), tokens(1, 17)
    position = torch.cat([torch.arange(6), torch.arange(11)])[None]
    packed = model(x, position_ids=position, use_cache=False).logits
    alone = torch.cat([model(x[:, :6]).logits, model(x[:, 6:]).logits], 1)
    assert (packed - alone).abs().max() < 1e-11
    mask = torch.tensor([[0] * 3 + [1] * 12 + [0] * 2])
    padded = model(x * mask, attention_mask=mask).logits
    assert (padded[:, 3:15] - model(x[:, 3:15]).logits).abs().max() < 1e-11


@torch.no_grad()
def test_a_cache_goes_on_from_a_packed_row():
    model, x = made(*ALL).double(), tokens(2, 17)
    position = torch.stack([torch.cat([torch.arange(6), torch.arange(11)]), torch.arange(17)])
    first = model(x[:, :10], position_ids=position[:, :10], use_cache=True)
    second = model(x[:, 10:], position_ids=position[:, 10:], past_key_values=first.past_key_values)
    whole = model(x, position_ids=position).logits
    assert (torch.cat([first.logits, second.logits], 1) - whole).abs().max() < 1e-11


@torch.no_grad()
def test_a_cache_repeats_and_forgets_but_cannot_be_shortened():
    model, x = made("attention", "gdn"), tokens(2, 5)
    cache = model(x, use_cache=True).past_key_values
    cache.batch_repeat_interleave(2)
    y = model(torch.tensor([[3], [4], [3], [4]]), past_key_values=cache).logits
    one = model(torch.cat([x[1:], torch.tensor([[4]])], 1)).logits[:, -1]
    assert (y[3] - one).abs().max() < 1e-5
    with pytest.raises(BadModel, match="cannot be shortened"):
        cache.crop(-1)
    cache.reset()
    assert cache.nbytes() == cache.get_seq_length() == 0


# As a module


def test_losses_hidden_states_and_checkpointed_gradients():
    model, x = made("conv", "based:4", "attention", num_hidden_layers=6).train(), tokens()
    outputs = model(x, labels=x, output_hidden_states=True)
    expected = torch.nn.functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), x[:, 1:].flatten())
    assert outputs.loss.item() == pytest.approx(expected.item(), abs=1e-6)
    assert len(outputs.hidden_states) == 7
    assert outputs.past_key_values is None  # none is kept in training
    assert torch.equal(model.lm_head(outputs.hidden_states[-1]), outputs.logits)
    last = model(x, logits_to_keep=1).logits  # one row may be multiplied by another kernel than many
    torch.testing.assert_close(last, outputs.logits[:, -1:])
    embedded = model(inputs_embeds=model.get_input_embeddings()(x))
    assert torch.equal(embedded.logits, outputs.logits)
    grads = torch.autograd.grad(outputs.loss, list(model.parameters()))
    with warnings.catch_warnings():  # the name that every version of Transformers 5 has is deprecated in the newest
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable()
    again = torch.autograd.grad(model(x, labels=x).loss, list(model.parameters()))
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(grads, again, strict=True))
    with pytest.raises(BadModel, match="expected input_ids or inputs_embeds, got neither"):
        model()


def test_the_loss_is_divided_by_what_the_trainer_counts():
    model, x = made("attention", "conv"), tokens(rows=2, length=9)
    mean, share = model(x, labels=x).loss, model(x, labels=x, num_items_in_batch=torch.tensor(160)).loss
    torch.testing.assert_close(share * 10, mean)


def test_a_new_model_has_the_values_of_the_papers():
    model = made("mamba:4", "hyena", "longconv", "rwkv4", "s4d", initializer_range=0.02)
    mamba, hyena, conv, rwkv, s4d = (layer.mixer for layer in model.model.layers)
    assert mamba.A_log.exp()[:4].tolist() == pytest.approx([1, 2, 3, 4])
    assert 0 < torch.nn.functional.softplus(mamba.dt_proj.bias).max() <= 0.1001
    assert mamba.in_proj.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert hyena.filter().std() > 0.01  # with weights of 0.02 it would be 1e-4
    assert conv.filter().std().item() == pytest.approx(64**-0.5, rel=0.2)
    assert rwkv.decay[-1].item() == pytest.approx(3)
    assert s4d.ssm.A_log.exp().unique().tolist() == pytest.approx([0.5])
    assert made("based", intermediate_size=0).model.layers[0].mlp is None


# In folders


@pytest.mark.long
def test_every_mixer_is_saved_loaded_and_verified(tmp_path):
    model = small_model(*ALL, position_embeddings="learned")
    save(model, tmp_path / "m")
    again = load(tmp_path / "m")
    x = tokens()
    assert torch.equal(model.model.eval()(x).logits, again.model(x).logits)
    assert again.config.mixers == ALL
    save_without_weights(again, tmp_path / "described")
    assert load_without_weights(tmp_path / "described", name="m").parameters_count == again.parameters_count
    assert limbeck.LimbeckForCausalLM is LimbeckForCausalLM
    assert type(AutoConfig.from_pretrained(tmp_path / "m")) is LimbeckConfig
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path / "m")) is LimbeckForCausalLM


WITHOUT = """
import importlib.abc, json, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("limbeck", "jaxtyping"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import torch
from transformers import AutoModelForCausalLM
x = torch.arange(1, 10)[None]
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
y = model.generate(x, attention_mask=torch.ones_like(x), max_new_tokens=8, do_sample=False)
model.save_pretrained(sys.argv[1] + "-again")
print(json.dumps([y.tolist(), model(x).logits.double().sum().item()]))
"""


@pytest.mark.long
@torch.no_grad()
def test_saved_models_write_the_same_in_a_process_without_limbeck(tmp_path):
    model, x = made(*ALL), torch.arange(1, 10)[None]
    model.save_pretrained(tmp_path / "m")
    y = model.generate(x, attention_mask=torch.ones_like(x), max_new_tokens=8, do_sample=False)
    (tmp_path / "without.py").write_text(WITHOUT)
    process = subprocess.run(
        [sys.executable, str(tmp_path / "without.py"), str(tmp_path / "m")],
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout) == [y.tolist(), model(x).logits.double().sum().item()]
    code = [{path.name for path in (tmp_path / folder).glob("*.py")} for folder in ("m", "m-again")]
    assert code[0] == code[1] >= {"models_decoder.py", "models_mixers_gla.py", "errors.py"}


WITH = """
import json, sys
import limbeck, torch
from transformers import AutoModelForCausalLM
x = torch.arange(1, 10)[None]
kind = limbeck.LimbeckForCausalLM  # from here on Transformers knows it
model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).double()
assert type(model) is kind is type(limbeck.load(sys.argv[1]).model)
asked = {"max_new_tokens": 20, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
with torch.no_grad():
    told = model.generate(x, attention_mask=torch.ones_like(x), **asked)
    scored = model(told.sequences, use_cache=False).logits[:, 8:-1]
print(json.dumps([told.sequences.tolist(), (torch.stack(told.logits, 1) - scored).abs().max().item()]))
"""


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1])
@torch.no_grad()
def test_a_new_process_generates_with_a_saved_model_of_any_pattern_as_it_scores(tmp_path, seed):
    pattern = [ALL[i] for i in torch.randperm(len(ALL), generator=torch.Generator().manual_seed(seed))]
    model, x = small_model(*pattern), torch.arange(1, 10)[None]
    save(model, tmp_path / "m")
    (tmp_path / "with.py").write_text(WITH)
    process = subprocess.run(
        [sys.executable, str(tmp_path / "with.py"), str(tmp_path / "m")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    y, apart = json.loads(process.stdout)
    assert apart < 1e-5  # generate gives float32
    ours = model.model.double().eval()
    assert y == ours.generate(x, attention_mask=torch.ones_like(x), max_new_tokens=20, do_sample=False).tolist()


@pytest.mark.long
def test_a_student_of_mixers_is_distilled(tmp_path):
    write_teacher(tmp_path)
    write_corpus(tmp_path)
    save(small_model("conv", "based:4", "swa:5", num_hidden_layers=3), tmp_path / "student")
    result = limbeck.distil(
        teacher=str(tmp_path / "teacher"),
        student=str(tmp_path / "student"),
        data=str(tmp_path / "text.jsonl"),
        tokens="1k",
        length=32,
        batch_tokens=128,
        baselines="none",
        seeds=1,
        out=tmp_path / "out",
        threads=1,
    )
    assert load(Path(result["out"]) / "student").config.mixers == ["conv", "based:4", "swa:5"]


@pytest.mark.long
@pytest.mark.parametrize(
    "imports",
    [
        "import limbeck; from transformers import AutoModelForCausalLM",
        "from transformers import AutoModelForCausalLM; import limbeck",
    ],
)
def test_importing_limbeck_is_enough_to_load_a_model(imports, tmp_path):
    made("conv", "attention").save_pretrained(tmp_path)
    code = f"{imports}; print(type(AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})).__name__)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout == "LimbeckForCausalLM\n"


# What a user gets wrong


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixers": ["conv", "bassed"]}, "mixers[1] = 'bassed': there is no mixer 'bassed', the nearest is 'based'"),
        ({"mixers": [3]}, "mixers[0] = '3': there is no mixer '3'"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"mixers": []}, "mixers: expected at least one"),
        (
            {"mixers": ["conv", "gla"], "num_hidden_layers": 3},
            "num_hidden_layers = 3: expected a multiple of the 2 mixers",
        ),
        (
            {"num_attention_heads": 4, "num_key_value_heads": 3},
            "num_key_value_heads = 3: expected a divisor of the 4 heads",
        ),
        ({"head_dim": 5}, "head_dim = 5: expected an even number"),
        ({"position_embeddings": "rope"}, "position_embeddings = 'rope': expected none or learned"),
    ],
)
def test_a_configuration_that_makes_no_decoder_is_an_error(changes, message, tmp_path):
    with pytest.raises(BadModel) as error:
        LimbeckConfig(**changes)
    assert message in str(error.value)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "limbeck", **changes}))
    with pytest.raises(BadModel) as error:
        load(tmp_path)
    assert message in str(error.value)

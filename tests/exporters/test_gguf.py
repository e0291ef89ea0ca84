"""GGUF files of models: the import makes the same model of them, and llama.cpp computes the same."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from transformers import Gemma2Config, LlamaConfig, PreTrainedTokenizerFast

from limbeck.errors import BadModel, BadSetting
from limbeck.exporters.gguf.chat import modelfile, template_of
from limbeck.exporters.gguf.runtime import LlamaCpp
from limbeck.exporters.gguf.writer import write_gguf
from limbeck.exporters.named import CannotRun, Format
from limbeck.models.gguf.container import opened
from limbeck.models.gguf.importer import import_gguf
from limbeck.models.gguf.numbers import Numbers
from limbeck.models.gguf.pre import SPLITS
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load, load_tokenizer
from limbeck.models.save import save
from limbeck.models.source import resolve
from limbeck.models.trim.choose import Asked, choose
from limbeck.models.trim.tokenizer import state_of, trimmed_tokenizer
from limbeck.types import Batch
from tests.helpers.models import texts, tokenizer

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
from gguf.quants import dequantize, quantize  # noqa: E402

from tests.helpers.gguf import random_model  # noqa: E402
from tests.models.test_gguf import CONFIGS  # noqa: E402

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def model_of(config, *, tok: PreTrainedTokenizerFast | None = None, name: str = "tiny") -> LanguageModel:
    return LanguageModel(random_model(config), tok or tokenizer(300), name)


def small(**keys) -> LlamaConfig:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    more = {"vocab_size": 300, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    return LlamaConfig(**sizes | more | {"num_key_value_heads": 2, "initializer_range": 0.2} | keys)


def packed(vocab: int, *, rows: int = 2, length: int = 48) -> Batch:
    """Rows of two documents each."""
    tokens = torch.randint(vocab, (rows, length), generator=torch.Generator().manual_seed(1))
    position = torch.cat([torch.arange(20), torch.arange(length - 20)]).expand(rows, -1)
    document = torch.zeros(rows, length, dtype=torch.long)
    return Batch(tokens, tokens, torch.ones(rows, length), position, document, torch.arange(rows))


def with_split(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer whose text is split as GGUF files call it."""
    state = json.loads(tokenizer(300).backend_tokenizer.to_str()) | {"pre_tokenizer": SPLITS[name].state()}
    special = {"bos_token": "<|bos|>", "eos_token": "<|eos|>", "pad_token": "<|pad|>"}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), **special)


@pytest.mark.long
@pytest.mark.parametrize("name", CONFIGS)
def test_the_import_gives_the_model_back(name, tmp_path):
    # Transformers gives folders of Qwen2 the split of Qwen2, whatever their files say
    model = model_of(CONFIGS[name], tok=with_split("qwen2") if name == "qwen2" else None)
    write_gguf(model, tmp_path / "m.gguf", "f32")
    import_gguf(tmp_path / "m.gguf", tmp_path / "m")
    again = load(tmp_path / "m")
    batch = packed(300)
    torch.testing.assert_close(again(batch).logits(), model(batch).logits(), atol=2e-5, rtol=2e-5)
    texts = ["the cat sat\n\n on 12 mats", " <|eos|> I'll"]
    assert [again.tokenizer(text).input_ids for text in texts] == [model.tokenizer(text).input_ids for text in texts]
    assert again.end == model.end


@pytest.mark.extras
@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "phi3"])  # whose window llama.cpp does not have
def test_llama_cpp_computes_the_same(name, tmp_path):
    model = model_of(CONFIGS[name])
    write_gguf(model, tmp_path / "m.gguf", "f32")
    found = LlamaCpp(tmp_path / "m.gguf")
    batch = packed(300)
    log_p, log_q = (one(batch).logits().log_softmax(-1) for one in (model, found))
    found.close()
    # llama.cpp keeps keys and values in half precision; a wrong layout gives a divergence of about 1
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1)
    assert float(divergence.mean()) < 3e-5
    assert float(divergence.max()) < 3e-4


def test_a_window_that_llama_cpp_does_not_have_is_said(tmp_path):
    tokens = write_gguf(model_of(CONFIGS["phi3"]), tmp_path / "m.gguf", "f32")
    assert any("llama.cpp reads phi3 without its sliding window of 4 tokens" in note for note in tokens.notes)


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_blocks_are_those_of_the_reference(kind, tmp_path):
    model = model_of(small(tie_word_embeddings=True))
    write_gguf(model, tmp_path / "m.gguf", kind)
    file = opened(tmp_path / "m.gguf")
    down = model.model.get_parameter("model.layers.0.mlp.down_proj.weight").numpy()
    type_ = gguf.GGMLQuantizationType[kind.upper()]
    np.testing.assert_array_equal(file.values("blk.0.ffn_down.weight"), dequantize(quantize(down, type_), type_))
    assert file.tensors["token_embd.weight"].tensor_type.name == "Q8_0"  # which is the head too
    assert "output.weight" not in file.tensors
    assert file.tensors["blk.0.attn_norm.weight"].tensor_type.name == "F32"
    assert file.metadata["general.file_type"] == {"q8_0": 7, "q4_0": 2}[kind]


@pytest.mark.parametrize(
    ("kind", "tied", "name", "shape", "expected"),
    [
        ("q4_0", False, "token_embd.weight", (300, 32), "q4_0"),
        ("q4_0", False, "output.weight", (300, 32), "q8_0"),
        ("q4_0", True, "token_embd.weight", (300, 32), "q8_0"),
        ("q4_0", True, "blk.0.attn_q.weight", (32, 40), "f16"),
        ("q4_0", True, "blk.0.attn_q.bias", (32,), "f32"),
        ("f16", True, "blk.0.attn_q.weight", (32, 40), "f16"),
        ("q8_0", True, "position_embd.weight", (64, 32), "f32"),
    ],
)
def test_each_tensor_has_its_number_format(kind, tied, name, shape, expected):
    assert Numbers(kind, tied).of(name, shape) == expected


def test_rows_without_a_token_get_one_that_is_unused(tmp_path):
    model = model_of(small(vocab_size=308))
    keys = write_gguf(model, tmp_path / "m.gguf", "f32").keys
    tokens, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    known = len(model.tokenizer)
    assert len(tokens) == len(types) == 308
    assert tokens[known:] == [f"[PAD{row}]" for row in range(known, 308)]
    assert set(types[known:]) == {5}
    assert keys["tokenizer.ggml.pre"] == "gpt-2"
    assert (keys["tokenizer.ggml.add_bos_token"], keys["tokenizer.ggml.add_eos_token"]) == (True, False)
    assert keys["tokenizer.ggml.eos_token_id"] == model.tokenizer.eos_token_id


def test_a_split_without_a_name_is_refused():
    tok = tokenizer(300)
    state = json.loads(tok.backend_tokenizer.to_str())
    state["pre_tokenizer"]["add_prefix_space"] = True
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), eos_token="<|eos|>")
    with pytest.raises(BadModel, match="splits text in a way that has no name in GGUF files"):
        write_gguf(model_of(small(), tok=other), Path("never"), "f32")


def sentencepiece(merges: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    """A vocabulary as SentencePiece's, whose tokens are those of the merges, bytes and three special ones."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += sorted({symbol for pair in merges for part in pair for symbol in part})
    tokens += [token for token in dict.fromkeys("".join(pair) for pair in merges) if token not in tokens]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    inner = Tokenizer(BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    inner.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


MERGES = [("\u2581", "a"), ("a", "b"), ("\u2581", "b"), ("\u2581a", "b"), ("\u2581", "ab"), ("b", "a")]


def test_scores_are_the_first_merge_of_each_token(tmp_path):
    tok = sentencepiece(MERGES)
    model = model_of(small(vocab_size=len(tok)), tok=tok)
    keys = write_gguf(model, tmp_path / "m.gguf", "f32").keys
    scores = dict(zip(keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.scores"], strict=True))
    expected = {"\u2581a": 0, "ab": -1, "\u2581b": -2, "\u2581ab": -3, "ba": -5, "a": 0, "<s>": 0}
    assert {token: scores[token] for token in expected} == expected
    types = dict(zip(keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"], strict=True))
    assert [types[token] for token in ("<unk>", "<s>", "<0x41>", "ab")] == [2, 3, 6, 1]
    assert keys["tokenizer.ggml.add_space_prefix"] is True


def test_merges_that_no_scores_stand_for_are_refused():
    apart = [MERGES[3], *MERGES[:3], *MERGES[4:]]
    model = model_of(small(vocab_size=len(sentencepiece(apart))), tok=sentencepiece(apart))
    with pytest.raises(BadModel, match="are apart in its tokenizer, so scores cannot stand for them"):
        write_gguf(model, Path("never"), "f32")


@pytest.mark.extras
def test_llama_cpp_reads_text_as_sentencepiece_does(tmp_path, test_data):
    """A real vocabulary of 512 tokens, whole and over real stories; its merges alone give the scores."""
    model = load(test_data / "models" / "stories-llama-260k")
    write_gguf(model, tmp_path / "m.gguf", "f32")
    found = LlamaCpp(tmp_path / "m.gguf")
    lines = (test_data / "text" / "tinystories" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:60]
    texts = [next(value for value in json.loads(line).values() if isinstance(value, str)) for line in lines]
    differ = [text for text in texts if found.tokenized(text) != model.tokenizer.encode(text, add_special_tokens=False)]
    found.close()
    assert len(texts) == 60
    assert differ == []


@pytest.mark.extras
def test_llama_cpp_reads_text_as_a_trimmed_vocabulary_does(smollm2, tmp_path):
    """A real vocabulary, of which a few thousand tokens stay; digits are split one by one."""
    whole = load_tokenizer(resolve(smollm2))
    state = state_of(whole, name="whole")
    text = "\n".join(texts(200)) + Path(__file__).read_text(encoding="utf-8")
    counts = np.bincount(whole(text, add_special_tokens=False).input_ids, minlength=len(whole))
    kept = choose(state, counts, Asked(), needed=(), rows=len(whole), name="whole")
    tok = trimmed_tokenizer(whole, kept, name="whole")
    model = model_of(small(vocab_size=len(tok)), tok=tok)
    exporter = Format.of("gguf:f32").exporter()
    exporter.write(model, tmp_path, dtype=None)
    found = exporter.read(tmp_path, model)  # compares the texts that tell splits apart
    assert len(tok) < len(whole) / 10
    assert found.vocab == len(tok)
    for line in (*texts(200), "x  12\n\n3", "\t12,345.678", "I'LL don't", "naïve 東京"):
        assert found.tokenized(line) == tok.encode(line, add_special_tokens=False)
    found.close()


@pytest.mark.extras
def test_a_file_that_llama_cpp_refuses_is_said(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + b"\0" * 60)
    with pytest.raises(CannotRun, match=r"llama\.cpp cannot load the file"):
        LlamaCpp(tmp_path / "m.gguf")


def test_a_cut_gemma_whose_layers_no_longer_alternate_is_refused(tmp_path):
    config = CONFIGS["gemma2"]
    cut = Gemma2Config(**config.to_dict() | {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3})
    with pytest.raises(BadModel, match="do not alternate"):
        write_gguf(model_of(cut), tmp_path / "m.gguf", "f32")


def test_rows_that_do_not_divide_into_blocks_are_named(tmp_path):
    """Of 2 layers of width 40: queries and outputs of 40 x 40, keys and values of 20 x 40, two of 64 x 40, the ends."""
    odd = small(hidden_size=40)
    (note,) = write_gguf(model_of(odd), tmp_path / "m.gguf", "q8_0").notes
    layer, down, ends, norms = 2 * 40 * 40 + 2 * 20 * 40 + 2 * 64 * 40, 64 * 40, 2 * 300 * 40, 5 * 40
    share = (2 * layer + ends) / (2 * (layer + down) + ends + norms)
    assert note.startswith(
        f"{share:.0%} of the numbers are float16 and not q8_0: their rows of 40 are no multiple of the 32"
    )
    assert write_gguf(model_of(odd), tmp_path / "n.gguf", "bf16").notes == ()
    assert write_gguf(model_of(small()), tmp_path / "o.gguf", "q4_0").notes == ()


def test_another_activation_is_refused(tmp_path):
    with pytest.raises(BadModel, match=r"hidden_act = 'relu' has no place in a GGUF file of architecture llama"):
        write_gguf(model_of(small(hidden_act="relu")), tmp_path / "m.gguf", "f32")


def test_numbers_beyond_half_precision_are_refused(tmp_path):
    model = model_of(small())
    with torch.no_grad():
        model.model.get_parameter("model.layers.0.mlp.up_proj.weight")[0, 0] = 70_000.0
    with pytest.raises(BadModel, match=r"ffn_up.weight: holds 7e\+04, expected finite numbers up to 6.55e\+04"):
        write_gguf(model, tmp_path / "m.gguf", "f16")


def test_a_full_disk_leaves_nothing(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    os.symlink("/dev/full", tmp_path / "m.gguf")
    with pytest.raises(OSError, match="No space left"):
        write_gguf(model_of(small()), tmp_path / "m.gguf", "f32")


def with_template(template: str | None) -> LanguageModel:
    tok = tokenizer(300)
    tok.chat_template = template
    return model_of(small(), tok=tok)


def test_a_modelfile_is_of_a_template_that_ollama_can_have():
    text, reason = modelfile(with_template(CHATML), "x.gguf")
    assert reason == ""
    assert text.startswith('FROM ./x.gguf\nTEMPLATE """{{ if .System }}<|im_start|>system\n')
    assert 'PARAMETER stop "<|eos|>"' in text
    plain, _ = modelfile(with_template(None), "x.gguf")
    assert 'TEMPLATE """{{ .Prompt }}"""' in plain
    other, reason = modelfile(with_template("{% for m in messages %}[{{ m['content'] }}]{% endfor %}"), "x.gguf")
    assert other is None
    assert "neither as ChatML nor as Llama 3" in reason


def test_the_system_message_of_a_template_goes_along():
    always = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + CHATML
    found = template_of(with_template(always))
    assert found is not None
    assert (found.name, found.system) == ("ChatML", "Be kind.")
    assert template_of(with_template(CHATML)).system is None


def test_formats_are_named_with_their_variants():
    assert Format.of("gguf:q8_0") == Format("gguf", "q8_0")
    assert Format.of("gguf:q8_0").folder == "gguf-q8_0"
    with pytest.raises(BadSetting, match="unknown variant 'q2' of gguf; there are f32, f16, bf16, q8_0, q4_0"):
        Format.of("gguf:q2")
    with pytest.raises(BadSetting, match="this format has none"):
        Format.of("folder:q8_0")
    with pytest.raises(BadSetting, match="did you mean 'gguf'"):
        Format.of("ggml")


def test_the_number_format_is_that_of_the_folder(tmp_path):
    save(model_of(small()), tmp_path / "m", dtype=torch.bfloat16)
    (tmp_path / "out").mkdir()
    Format.of("gguf").exporter().write(load(tmp_path / "m"), tmp_path / "out", dtype=None)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["Modelfile", "m-bf16.gguf"]

"""Trimmed tokenizers and models: text whose tokens are kept is segmented as before, all other text can still be written."""

import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GPTNeoXConfig, PreTrainedTokenizerFast

from limbeck.errors import BadModel, BadSetting
from limbeck.models.build import new_model
from limbeck.models.load import load, load_tokenizer
from limbeck.models.save import save
from limbeck.models.trim.choose import Asked, choose, ids_in
from limbeck.models.trim.closure import closure_of
from limbeck.models.trim.folder import load_trimmed, needed_ids, open_vocabulary, write_vocabulary
from limbeck.models.trim.model import Vocabulary, renumber, trim
from limbeck.models.trim.tokenizer import state_of, trimmed_state, trimmed_tokenizer
from tests.helpers.models import WORDS, batch, frozen, llama, texts, tokenizer

CORPUS = [
    *texts(80),
    "it's 12 o'clock, isn't it? 3.14 and 2026\n\n\tnew lines  and   spaces",
    "naïve café über straße — “quoted” 猫が好き 🙂 done",
    "unhappiness unhappily happiness happily unlikely likeliness",
]
SPECIAL = ["<s>", "</s>", "<unk>"]


def byte_level(pre=()) -> Tokenizer:
    """As GPT-2's, or with more before it, as SmolLM2's digits one by one."""
    made = Tokenizer(models.BPE())
    steps = [*pre, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    made.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=420,
            special_tokens=SPECIAL,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return made


def sentencepiece(kind: str) -> Tokenizer:
    """Spelled in characters with a sign for spaces, with bytes for what has no character, as Llama 2's."""
    special = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    if kind == "bpe":
        made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        trainer = trainers.BpeTrainer(vocab_size=460, special_tokens=special, show_progress=False)
    else:
        made = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=200, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
        )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    if kind == "unigram":
        made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    made.train_from_iterator([text for text in CORPUS if text.isascii()], trainer)
    if kind == "bpe":  # bytes are ordinary tokens of the model
        state = json.loads(made.to_str())
        state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
        made = Tokenizer.from_str(json.dumps(state))
    return made


def wordpiece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=260, special_tokens=SPECIAL, show_progress=False)
    )
    made.post_processor = processors.BertProcessing(("</s>", 1), ("<s>", 0))
    return made


def affixed() -> Tokenizer:
    """Merges of symbols marked inside and at the end of words."""
    made = Tokenizer(models.BPE(continuing_subword_prefix="##", end_of_word_suffix="</w>", unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=SPECIAL,
            continuing_subword_prefix="##",
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    return made


def ignoring_merges() -> Tokenizer:
    """A piece that is a token is that token, even one that no merge reaches, as in Llama 3's."""
    state = json.loads(byte_level().to_str())
    state["model"]["ignore_merges"] = True
    state["model"]["merges"] = [merge for i, merge in enumerate(state["model"]["merges"]) if i % 7]
    return Tokenizer.from_str(json.dumps(state))


KINDS = {
    "byte-level": byte_level,
    "digits": lambda: byte_level([pre_tokenizers.Digits(individual_digits=True)]),
    "ignore_merges": ignoring_merges,
    "sentencepiece": lambda: sentencepiece("bpe"),
    "unigram": lambda: sentencepiece("unigram"),
    "wordpiece": wordpiece,
    "affixed": affixed,
}
WRITES_ALL = ("byte-level", "digits", "ignore_merges", "sentencepiece")  # any text, byte for byte
MADE: dict[str, PreTrainedTokenizerFast] = {}


def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    if kind not in MADE:
        MADE[kind] = PreTrainedTokenizerFast(
            tokenizer_object=KINDS[kind](), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
        )
    return MADE[kind]


def encode(tok, text: str) -> list[int]:
    return tok.backend_tokenizer.encode(text, add_special_tokens=False).ids


def kept_of(tok, used: list[str], **asked) -> np.ndarray:
    ids = max(ids_in(state_of(tok, name="t"))) + 1
    found = [np.bincount(encode(tok, text), minlength=ids) for text in used]
    counts = np.sum([np.zeros(ids, np.int64), *found], axis=0)
    return choose(state_of(tok, name="t"), counts, Asked(**asked), needed=(), rows=ids, name="t")


def trimmed(tok, kept: np.ndarray) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(trimmed_state(state_of(tok, name="t"), kept, name="t")))


pieces = st.sampled_from(
    [*WORDS, "un", "happi", "ness", "ly", "like", "it's", "12", "3.14", "猫", "é", "\n", "  ", "x"]
)
some_text = st.lists(pieces, max_size=12).flatmap(lambda parts: st.sampled_from([" ".join(parts), "".join(parts)]))


@pytest.mark.parametrize("kind", KINDS)
@given(used=st.lists(some_text, max_size=4), new=some_text, least=st.integers(1, 3))
def test_text_of_kept_tokens_is_segmented_as_before(kind, used, new, least):
    tok = tokenizer_of(kind)
    kept = kept_of(tok, used, least=least)
    after = trimmed(tok, kept)
    unknown = tok.unk_token_id
    covered = 0
    for text in [*used, new]:
        ids = encode(tok, text)
        if set(ids) <= set(kept.tolist()) and unknown not in ids:
            assert kept[after.encode(text, add_special_tokens=False).ids].tolist() == ids
            covered += 1
    assert covered or least > 1 or unknown in [i for text in used for i in encode(tok, text)] or not used


@pytest.mark.parametrize("kind", WRITES_ALL)
@given(used=st.lists(some_text, max_size=2), text=st.text(max_size=30) | some_text)
def test_any_text_is_written_byte_for_byte(kind, used, text):
    tok = tokenizer_of(kind)
    after = trimmed(tok, kept_of(tok, used))
    back = after.decode(after.encode(text, add_special_tokens=False).ids, skip_special_tokens=False)
    assert back == tok.backend_tokenizer.decode(encode(tok, text), skip_special_tokens=False)
    if kind != "sentencepiece" or "▁" not in text:  # its sign for a space is read as one
        assert back == text


def test_without_the_closure_merges_are_out_of_reach():
    """What the closure is for: of a token alone, without those that lead to it, nothing is left but bytes."""
    tok = tokenizer_of("byte-level")
    (word,) = encode(tok, " while")
    base = closure_of(state_of(tok, name="t"), name="t").base
    alone = np.array(sorted({*base, word}))
    assert len(trimmed(tok, alone).encode(" while", add_special_tokens=False).ids) == len(" while")
    assert len(trimmed(tok, kept_of(tok, [" while"])).encode(" while", add_special_tokens=False).ids) == 1


def test_a_unigram_keeps_single_characters_and_the_lowest_score():
    """Without "a" the path through an unknown character would win, since the lowest score would be higher."""
    vocab = [("<unk>", 0.0), ("ab", -13.0), ("c", -13.0), ("bc", -1.0), ("a", -39.0), ("b", -60.0)]
    state = json.loads(Tokenizer(models.Unigram(vocab, unk_id=0)).to_str())
    counts = np.array([0, 1, 1, 0, 0, 0])
    kept = choose(state, counts, Asked(), needed=(), rows=6, name="t")
    assert kept.tolist() == [0, 1, 2, 4, 5]
    after = Tokenizer.from_str(json.dumps(trimmed_state(state, kept, name="t")))
    assert after.encode("abc").tokens == ["ab", "c"]
    worse = Tokenizer.from_str(json.dumps(trimmed_state(state, np.array([0, 1, 2, 3]), name="t")))
    assert worse.encode("abc").tokens != ["ab", "c"]


def test_every_id_of_a_tokenizer_json_is_renumbered():
    tok = tokenizer_of("wordpiece")
    kept = np.array([0, 1, 2, *(i for i in range(3, len(tok)) if i % 2)])
    after = trimmed_state(state_of(tok, name="t"), kept, name="t")
    assert sorted(after["model"]["vocab"].values()) == list(range(len(kept)))
    assert after["post_processor"]["sep"] == ["</s>", 1]
    state = copy.deepcopy(state_of(tokenizer_of("byte-level"), name="t"))
    state["post_processor"]["special_tokens"]["<s>"]["ids"] = [300]
    with pytest.raises(BadModel, match="id 300, which is not kept"):
        trimmed_state(state, np.arange(300), name="t")


def test_the_most_frequent_tokens_are_kept_that_fit():
    tok = tokenizer_of("byte-level")
    state = state_of(tok, name="t")
    base = len(closure_of(state, name="t").base)
    full = kept_of(tok, CORPUS)
    some = kept_of(tok, CORPUS, most=base + 12)
    assert base < len(some) <= base + 12
    assert set(some) < set(full)
    ids = np.concatenate([encode(tok, text) for text in CORPUS])
    counts = np.bincount(ids, minlength=420)
    best = int(np.argmax(np.where(np.isin(np.arange(420), [*closure_of(state, name="t").base]), 0, counts)))
    assert best in some
    with pytest.raises(BadSetting, match=f"{len(tok)} tokens, so nothing would be trimmed"):
        kept_of(tok, CORPUS, most=len(tok))
    with pytest.raises(BadSetting, match=f"bytes and special tokens of t are {base}"):
        kept_of(tok, CORPUS, most=base - 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"type": "WordLevel"}, "got WordLevel"), ({"dropout": 0.1}, "drops merges at random")],
)
def test_a_tokenizer_that_cannot_be_trimmed_is_refused(change, message):
    state = state_of(tokenizer_of("byte-level"), name="t")
    with pytest.raises(BadModel, match=message):
        closure_of(state | {"model": state["model"] | change}, name="t")


def test_a_trimmed_tokenizer_is_read_back_from_its_folder(tmp_path):
    tok = tokenizer(400)
    tok.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    kept = kept_of(tok, [texts(3)[0]])
    after = trimmed_tokenizer(tok, kept, name="t")
    after.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert state_of(again, name="t") == state_of(after, name="t")
    assert again.chat_template == tok.chat_template
    assert (again.bos_token, again.eos_token, again.pad_token) == (tok.bos_token, tok.eos_token, tok.pad_token)
    assert kept[again(texts(3)[0])["input_ids"]].tolist() == tok(texts(3)[0])["input_ids"]


def neox(tok):
    """A GPT-NeoX, whose head is not tied."""
    config = GPTNeoXConfig(
        vocab_size=len(tok) + 5,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        bos_token_id=tok.bos_token_id,
        eos_token_id=tok.eos_token_id,
    )
    return new_model(config, tok, 0, name="neox")


@pytest.mark.parametrize("build", [lambda tok: llama(tok=tok, pad=7), neox])
def test_a_trimmed_teacher_has_the_restricted_renormalised_distribution(build, tmp_path):
    """p'(t) = p(t) over the sum of p on the kept tokens, of the same hidden states to the bit; also after saving and loading."""
    tok = tokenizer(300)
    model = frozen(build(tok))
    kept = kept_of(tok, ["the cat sat on a mat"])
    assert len(kept) < 300
    save(model, tmp_path / "teacher")
    rows = batch(vocab=len(kept))
    whole = copy.deepcopy(rows)
    for name in ("tokens", "targets"):
        object.__setattr__(whole, name, torch.from_numpy(kept)[getattr(rows, name)])
    expected = model(whole)
    log_p = expected.logits().log_softmax(-1)[:, kept]
    log_p = log_p - log_p.logsumexp(-1, keepdim=True)
    vocabulary = write_vocabulary(
        tmp_path / "vocabulary", tmp_path / "teacher", kept, whole=300, name="teacher", facts={}
    )
    found = load_trimmed(tmp_path / "teacher", vocabulary)
    assert found.vocab == found.config.vocab_size == len(kept)
    assert torch.equal(found(rows).hidden, expected.hidden)
    torch.testing.assert_close(found(rows).logits().log_softmax(-1), log_p)
    assert found.config.eos_token_id == vocabulary.tokenizer.eos_token_id == kept.tolist().index(tok.eos_token_id)
    save(found, tmp_path / "trimmed")
    again = load(tmp_path / "trimmed")
    assert torch.equal(again(rows).logits(), found(rows).logits())
    assert again.lineage == {"vocabulary": vocabulary.lineage}
    assert (again.head.weight is again.model.get_input_embeddings().weight) == (build is not neox)


def test_a_vocabulary_on_disk_is_checked(tmp_path):
    tok = tokenizer(300)
    save(llama(tok=tok), tmp_path / "teacher")
    kept = kept_of(tok, ["the cat sat on a mat"])
    made = write_vocabulary(tmp_path / "v", tmp_path / "teacher", kept, whole=300, name="teacher", facts={"a": 1})
    assert np.array_equal(open_vocabulary(tmp_path / "v").kept, kept)
    assert made.digest == open_vocabulary(tmp_path / "v").digest
    file = tmp_path / "v" / "vocabulary.json"
    there = json.loads(file.read_text())
    there["kept"][-1] += 1
    file.write_text(json.dumps(there))
    with pytest.raises(BadModel, match=r"vocabulary\.json"):
        open_vocabulary(tmp_path / "v")


def test_ids_in_settings_are_renumbered_and_one_that_is_gone_raises():
    tok = tokenizer(300)
    kept = np.array([0, 1, 2, 10, 20])
    vocabulary = Vocabulary(kept, tok, 300, "t")
    model = llama(tok=tok)
    generation = copy.deepcopy(model.model.generation_config)
    generation.eos_token_id, generation.suppress_tokens, generation.bad_words_ids = [1, 20], [10], [[2, 10]]
    generation.pad_token_id = 5000  # never had a token
    renumber(generation, vocabulary, name="t")
    assert (generation.eos_token_id, generation.suppress_tokens, generation.bad_words_ids) == ([1, 4], [3], [[2, 3]])
    assert generation.pad_token_id is None
    generation.eos_token_id = 30
    with pytest.raises(BadModel, match="id 30, which is not kept"):
        renumber(generation, vocabulary, name="t")


def test_a_model_of_another_tokenizer_is_refused():
    tok, other = tokenizer(300), tokenizer(280)
    kept = kept_of(tok, ["the cat sat on a mat"])
    vocabulary = Vocabulary(kept, trimmed_tokenizer(tok, kept, name="t"), 300, "t")
    assert vocabulary.is_of(tok)
    with pytest.raises(BadModel, match="whose vocabulary was trimmed, got another"):
        trim(llama(tok=trimmed_tokenizer(other, np.arange(262), name="t")), vocabulary)


def test_the_ids_of_configurations_stay(tmp_path):
    save(llama(tok=tokenizer(300)), tmp_path / "teacher")
    assert needed_ids(tmp_path / "teacher") == {0, 1, 2}


@pytest.mark.long
@pytest.mark.parametrize("name", ["gpt2", "llama2", "gpt_neox_20b", "storyllamas_4096"])
def test_real_tokenizers_segment_stories_as_before(test_data, stories, name):
    tok = load_tokenizer(test_data / "tokenizers" / name)
    some = [json.loads(line)["text"] for line in stories.read_text().splitlines()[:60]]
    kept = kept_of(tok, some[:40])
    after = trimmed(tok, kept)
    assert len(kept) < 0.99 * len(tok)
    for text in some[:40]:
        assert kept[after.encode(text, add_special_tokens=False).ids].tolist() == encode(tok, text)
    for text in some[40:]:
        back = after.decode(after.encode(text, add_special_tokens=False).ids)
        assert back == tok.backend_tokenizer.decode(encode(tok, text))

"""A tokenizer trained here gives every text back; documents are framed; of conversations the answers are learned."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from limbeck.corpora import Document, Frame, conversation, document_tokens, frame, train_tokenizer
from limbeck.corpora.tokenizer import BOS, EOS, fingerprint
from limbeck.errors import BadCorpus, BadSetting

TEXTS = [
    "def f(x):\n    if x:\n        return x\n    return None\n" * 4,
    "the cat said hello to the other cat",
    "grüße 日本",
]
VOCAB = 300
TURN = "<|bos|>{{ m.role }}\n"
END = "<|eos|>\n"
PROMPT = "{% if add_generation_prompt %}<|bos|>assistant\n{% endif %}"
PLAIN = "{% for m in messages %}" + TURN + "{{ m.content }}" + END + "{% endfor %}" + PROMPT
MARKED = (
    "{% for m in messages %}"
    + TURN
    + "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|eos|>{% endgeneration %}"
    + "{% else %}{{ m.content }}<|eos|>{% endif %}{{ '\n' }}{% endfor %}"
    + PROMPT
)
FORGETFUL = (
    "{% for m in messages %}" + TURN + "{% if loop.last %}{{ m.content }}{% endif %}" + END + "{% endfor %}" + PROMPT
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, vocab=VOCAB)


def with_template(tokenizer, template):
    copy = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, bos_token="<|bos|>", eos_token="<|eos|>", pad_token="<|pad|>"
    )
    copy.chat_template = template
    return copy


def chat(*contents, roles=("user", "assistant")):
    return Document("a.jsonl:3", messages=[{"role": roles[i % 2], "content": c} for i, c in enumerate(contents)])


def learned_text(tokenizer, spoken):
    return tokenizer.decode(np.array(spoken.tokens)[spoken.learned])


@given(st.text())
def test_any_text_comes_back(tokenizer, text):
    for special in (False, True):
        tokens = tokenizer.encode(text, add_special_tokens=special)
        assert tokenizer.decode(tokens[special:]) == text


def test_a_line_break_and_its_indentation_become_one_token(tokenizer):
    assert "\n       " in [tokenizer.decode([token]) for token in tokenizer.encode(TEXTS[0])]


def test_special_tokens_come_first_and_the_size_is_kept(tokenizer):
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 2)
    assert len(tokenizer) == VOCAB
    assert len(train_tokenizer(["ab"], vocab=4096)) < 300  # there is nothing more to merge
    assert tokenizer("cat")["input_ids"][0] == tokenizer.bos_token_id


def test_training_twice_gives_the_same_tokenizer(tokenizer):
    assert fingerprint(train_tokenizer(iter(TEXTS), vocab=VOCAB)) == fingerprint(tokenizer)


def test_a_vocabulary_of_bytes_alone_is_made_without_reading_the_text():
    alone = train_tokenizer(map(pytest.fail, ["the text was read"]), vocab=259)
    assert len(alone) == 259
    assert alone.decode(alone("grüße\n  x", add_special_tokens=False)["input_ids"]) == "grüße\n  x"


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert fingerprint(again) == fingerprint(tokenizer)
    assert again.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
    assert again.decode(again.encode(" a , b", add_special_tokens=False)) == " a , b"


def test_fingerprint_changes_with_the_template_but_not_with_use(tokenizer):
    copy = with_template(tokenizer, None)
    before = fingerprint(copy)
    copy(["a", "the cat said"], padding=True, truncation=True, max_length=2)
    assert fingerprint(copy) == before
    copy.chat_template = PLAIN
    assert fingerprint(copy) != before


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(BadSetting, match=r"at least 259 tokens \(256 bytes and 3 special ones\), got 258"):
        train_tokenizer(["a"], vocab=258)


def test_documents_are_framed_by_bos_and_what_closes_them(tokenizer):
    assert frame(tokenizer) == Frame(0, 1)
    assert frame(tokenizer, end=0) == Frame(0, 0)
    cat = tokenizer.encode("cat", add_special_tokens=False)
    assert document_tokens(tokenizer, ["cat", ""], frame=Frame(0, 1)) == [[0, *cat, 1], [0, 1]]
    assert document_tokens(tokenizer, ["cat"], frame=Frame(None, 1)) == [[*cat, 1]]
    assert document_tokens(tokenizer, ["cat"], frame=Frame(None, None)) == [cat]


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("models/stories-llama-260k", Frame(1, 2)),
        ("models/slm4096-gpt2-212k", Frame(None, None)),
        ("tokenizers/gpt2", Frame(50256, 50256)),
        ("tokenizers/llama2", Frame(1, 2)),
    ],
)
def test_frames_of_real_tokenizers(test_data, folder, expected):
    assert frame(AutoTokenizer.from_pretrained(test_data / folder)) == expected


@pytest.mark.parametrize("template", [PLAIN, MARKED])
@given(contents=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=6))
def test_only_the_assistants_turns_and_their_ends_are_learned(tokenizer, template, contents):
    contents = [content.replace("<|", "") for content in contents]
    chatty = with_template(tokenizer, template)
    spoken = conversation(chatty, chat(*contents))
    said = contents[1::2]
    assert learned_text(chatty, spoken) == "".join(content + "<|eos|>" for content in said)
    assert spoken.bytes == sum(len(content.encode()) for content in said)
    rendered = chatty.apply_chat_template(chat(*contents).messages, tokenize=False)
    assert chatty.decode(spoken.tokens) == rendered
    assert len(spoken.learned) == len(spoken.tokens)


def test_both_kinds_of_template_agree(tokenizer):
    plain, marked = (
        conversation(with_template(tokenizer, t), chat("hi", "hello", "cat?", "\n yes")) for t in (PLAIN, MARKED)
    )
    assert plain.tokens == marked.tokens
    assert (plain.learned == marked.learned).all()


@pytest.mark.parametrize("template", [PLAIN, MARKED])
def test_spaces_at_the_ends_of_a_turn_are_told_apart_where_offsets_leave_them_out(tokenizer, template):
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["post_processor"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    trimming = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), bos_token=BOS, eos_token=EOS
    )
    trimming.chat_template = template.replace("\n", " ")  # so the prompt ends in a space that is not learned
    spoken = conversation(trimming, chat(" ", "\n  one  ", "two", "\nthree"))
    assert learned_text(trimming, spoken) == "\n  one  <|eos|>\nthree<|eos|>"


def test_generation_prompt_is_no_part_of_what_is_learned(tokenizer):
    chatty = with_template(tokenizer, PLAIN)
    prompt = chatty.apply_chat_template(chat("hi").messages, add_generation_prompt=True)["input_ids"]
    spoken = conversation(chatty, chat("hi", "hello"))
    assert spoken.tokens[: len(prompt)] == prompt
    assert np.flatnonzero(spoken.learned)[0] == len(prompt)


def refusal(tokenizer, document):
    with pytest.raises(BadCorpus) as caught:
        conversation(tokenizer, document)
    assert str(caught.value).startswith("a.jsonl:3: ")
    return str(caught.value)


def test_conversations_that_cannot_be_learned_from_are_refused(tokenizer):
    assert "expected a tokenizer with a chat template for 'messages'" in refusal(tokenizer, chat("hi", "hello"))
    plain = with_template(tokenizer, PLAIN)
    assert "expected a turn of the assistant to learn from, got none" in refusal(plain, chat("hi"))
    forgetful = with_template(tokenizer, FORGETFUL)
    assert "writes message 1 the same whatever follows" in refusal(forgetful, chat("hi", "hello", "so", "yes"))
    strict = with_template(tokenizer, "{{ raise_exception('roles must alternate') }}")
    assert "got its refusal (roles must alternate)" in refusal(strict, chat("hi", "hello"))
    silent = with_template(tokenizer, "{% for m in messages %}a{% generation %}{% endgeneration %}{% endfor %}")
    assert "expected the chat template to write the assistant's turns, got no token" in refusal(
        silent, chat("hi", "hello")
    )
    slow = with_template(tokenizer, PLAIN)
    slow.__class__ = type("Slow", (PreTrainedTokenizerFast,), {"is_fast": False})
    assert "got a slow one (Slow): save it with a tokenizer.json" in refusal(slow, chat("hi", "hello"))

"""A trained tokenizer restores every text; documents are framed; the answers of conversations are learned."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from limbeck.corpora import Document, Frame, conversation, document_tokens, encode, frame, train_tokenizer
from limbeck.corpora.chat import completion, conversation_so_far
from limbeck.corpora.tokenizer import BOS, EOS, fingerprint
from limbeck.errors import BadCorpus, BadSetting, Mismatch
from limbeck.models.vocabulary import any_text_reaches, ids_of, require_rows_of, without_row

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


def learned_text(tokenizer, tokens_of_turns):
    return tokenizer.decode(np.array(tokens_of_turns.tokens)[tokens_of_turns.learned])


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


def test_a_vocabulary_too_small_for_all_bytes_is_refused():
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
    tokens_of_turns = conversation(chatty, chat(*contents))
    text_and_learned = contents[1::2]
    assert learned_text(chatty, tokens_of_turns) == "".join(content + "<|eos|>" for content in text_and_learned)
    assert tokens_of_turns.bytes == sum(len(content.encode()) for content in text_and_learned)
    rendered = chatty.apply_chat_template(chat(*contents).messages, tokenize=False)
    assert chatty.decode(tokens_of_turns.tokens) == rendered
    assert len(tokens_of_turns.learned) == len(tokens_of_turns.tokens)


def test_both_kinds_of_template_agree(tokenizer):
    plain, marked = (
        conversation(with_template(tokenizer, t), chat("hi", "hello", "cat?", "\n yes")) for t in (PLAIN, MARKED)
    )
    assert plain.tokens == marked.tokens
    assert (plain.learned == marked.learned).all()


@pytest.mark.parametrize("template", [PLAIN, MARKED])
def test_spaces_at_the_ends_of_a_turn_are_assigned_where_offsets_exclude_them(tokenizer, template):
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["post_processor"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    trimming = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), bos_token=BOS, eos_token=EOS
    )
    trimming.chat_template = template.replace("\n", " ")  # so the prompt ends in a space that is not learned
    tokens_of_turns = conversation(trimming, chat(" ", "\n  one  ", "two", "\nthree"))
    assert learned_text(trimming, tokens_of_turns) == "\n  one  <|eos|>\nthree<|eos|>"


def test_generation_prompt_is_no_part_of_what_is_learned(tokenizer):
    chatty = with_template(tokenizer, PLAIN)
    prompt = chatty.apply_chat_template(chat("hi").messages, add_generation_prompt=True)["input_ids"]
    tokens_of_turns = conversation(chatty, chat("hi", "hello"))
    assert tokens_of_turns.tokens[: len(prompt)] == prompt
    assert np.flatnonzero(tokens_of_turns.learned)[0] == len(prompt)


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


# What belongs to a conversation

TOOLS = "{% if tools %}{{ tools | tojson }}\n{% endif %}{% if loud is defined and loud %}LOUD\n{% endif %}" + PLAIN
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}" + (
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CALLS = (
    "{% for m in messages %}"
    + TURN
    + "{% if m['content'] is none %}CALL {{ m.tool_calls[0].name }}{% else %}{{ m.content }}{% endif %}"
    + END
    + "{% endfor %}"
    + PROMPT
)


def text_and_learned(tokenizer, *messages, **beside):
    document = Document("a.jsonl:3", messages=list(messages), **beside)
    tokens_of_turns = conversation(tokenizer, document)
    return tokenizer.decode(tokens_of_turns.tokens), learned_text(tokenizer, tokens_of_turns)


USER, YES = {"role": "user", "content": "so?"}, {"role": "assistant", "content": "yes"}


def test_functions_and_further_arguments_reach_the_template(tokenizer):
    chatty = with_template(tokenizer, TOOLS)
    written, learned = text_and_learned(chatty, USER, YES, tools=[{"name": "weather_of"}], template={"loud": True})
    assert written == ('[{"name": "weather_of"}]\nLOUD\n<|bos|>user\nso?<|eos|>\n<|bos|>assistant\nyes<|eos|>\n')
    assert learned == "yes<|eos|>"
    assert text_and_learned(chatty, USER, YES)[0] == "<|bos|>user\nso?<|eos|>\n<|bos|>assistant\nyes<|eos|>\n"


@pytest.mark.parametrize("template", [PLAIN, MARKED])
@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": False}, {"trainable": False}, {"weight": 0, "train": None}])
def test_a_turn_of_weight_0_is_read_and_not_learned(tokenizer, template, mark):
    chatty = with_template(tokenizer, template)
    no = {"role": "assistant", "content": "no", **mark}
    written, learned = text_and_learned(chatty, USER, no, USER, {**YES, "weight": 1})
    assert "no<|eos|>" in written
    assert learned == "yes<|eos|>"
    assert "expected an assistant turn of weight 1" in refusal(chatty, Document("a.jsonl:3", messages=[USER, no]))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({**YES, "weight": 0.5}, "expected the 'weight' of message 1 to be 0 or 1, got the number 0.5"),
        ({**YES, "train": "no"}, "expected the 'train' of message 1 to be 0 or 1, got the string 'no'"),
        ({**USER, "weight": 1}, "a turn of the user is learned, and only the assistant's are"),
    ],
)
def test_a_weight_that_cannot_be_honoured_is_refused(tokenizer, message, expected):
    document = Document("a.jsonl:3", messages=[USER, message, YES])
    assert expected in refusal(with_template(tokenizer, PLAIN), document)


def test_marks_that_are_not_one_a_turn_do_not_identify_a_turn_without_weight(tokenizer):
    twice = MARKED.replace("{% endgeneration %}", "{% endgeneration %}{% generation %} {% endgeneration %}")
    document = Document("a.jsonl:3", messages=[USER, {**YES, "weight": 0}, USER, YES])
    assert "marks 4 turns of 2" in refusal(with_template(tokenizer, twice), document)


def test_null_stays_only_where_the_template_tests_for_it(tokenizer):
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "weather_of"}]}
    assert text_and_learned(with_template(tokenizer, CALLS), USER, call)[1] == "CALL weather_of<|eos|>"
    assert text_and_learned(with_template(tokenizer, PLAIN), USER, call)[1] == "<|eos|>"  # and not None<|eos|>


def test_a_turn_ends_with_the_token_that_ends_it_whatever_it_is_called(tokenizer):
    tokenizers = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    other = PreTrainedTokenizerFast(tokenizer_object=tokenizers, bos_token=None, eos_token="<|eos|>")
    other.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    other.chat_template = CHATML
    assert text_and_learned(other, USER, YES, USER, YES)[1] == "yes<|im_end|>yes<|im_end|>"
    assert conversation(other, Document("", messages=[USER, YES])).bytes == 3
    other.chat_template = CHATML.replace("<|im_end|>", "")  # nothing ends a turn, and something special stands in it
    assert text_and_learned(other, USER, {**YES, "content": "a <|im_start|> b"})[1] == "a <|im_start|> b\n"


@pytest.mark.parametrize("look", ["", "{% if messages[0].role == 'system' %}S{% endif %}"])
def test_a_conversation_that_the_assistant_opens_is_learned_from_its_first_word(tokenizer, look):
    hello = {"role": "assistant", "content": "hello"}
    assert text_and_learned(with_template(tokenizer, look + PLAIN), hello, USER, YES)[1] == "hello<|eos|>yes<|eos|>"


def test_a_refusal_by_the_template_has_its_reason_and_the_roles(tokenizer):
    strict = "{% if messages[0].role != 'user' %}{{ raise_exception('begin with the user') }}{% endif %}" + PLAIN
    document = Document("a.jsonl:3", messages=[YES, USER, YES])
    message = refusal(with_template(tokenizer, strict), document)
    assert "got its refusal (begin with the user) of messages by assistant, user, assistant" in message


def test_a_template_without_a_generation_prompt_has_the_beginning_of_its_turns(tokenizer):
    """As of models whose template writes a header before each turn and never one alone; a space alone is the turn's."""
    turn = "{% for m in messages %}{{ m.role }}:\n{{ m.content }}<|eos|>{% endfor %}"
    found = conversation_so_far(with_template(tokenizer, turn), Document("", messages=[USER]))
    assert tokenizer.decode(found) == f"user:\n{USER['content']}<|eos|>assistant:\n"
    inst = "{% for m in messages %}{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else ' ' + m.content }}{% endfor %}"
    found = conversation_so_far(with_template(tokenizer, inst), Document("", messages=[USER]))
    assert tokenizer.decode(found) == f"[INST] {USER['content']} [/INST]"


def test_an_answer_begins_with_a_token_of_its_own(tokenizer):
    turn = "{% for m in messages %}{{ m.role }}:\n{{ m.content }}<|eos|>{% endfor %}"
    glued = with_template(tokenizer, turn + "{{ 'assistant:\n' if add_generation_prompt else '' }}")
    # a line break and blanks are one token, whose first half the prompt would hold
    document = Document("a.jsonl:3", messages=[USER, {"role": "assistant", "content": "        return x"}])
    tokens_of_turns = conversation(glued, document)
    prompt = conversation_so_far(glued, Document("", messages=[USER]))
    assert tokens_of_turns.tokens[: len(prompt)] == prompt
    assert learned_text(glued, tokens_of_turns) == "        return x<|eos|>"
    whole = glued.apply_chat_template(document.messages, tokenize=False)
    assert glued.decode(tokens_of_turns.tokens) == whole
    assert tokens_of_turns.tokens != glued(whole, add_special_tokens=False)["input_ids"]


@given(question=st.text(min_size=1), answer=st.text(min_size=1))
def test_a_completion_is_learned_and_its_prompt_is_read(tokenizer, question, answer):
    tokens_of_turns = completion(tokenizer, Document("", text=question + answer, prompt=len(question)))
    assert tokenizer.decode(np.array(tokens_of_turns.tokens)[tokens_of_turns.learned]) == answer
    assert tokenizer.decode(tokens_of_turns.tokens) == question + answer
    assert tokens_of_turns.bytes == len(answer.encode())


def test_what_opens_and_closes_a_text_is_not_put_there_twice(tokenizer):
    cat = tokenizer.encode("cat", add_special_tokens=False)
    texts = ["<|bos|>cat", "cat<|eos|>", "<|bos|>cat<|eos|>", "cat<|bos|>"]
    assert document_tokens(tokenizer, texts, frame=Frame(0, 1)) == [[0, *cat, 1]] * 3 + [[0, *cat, 0, 1]]


# Long texts


def llama_like(texts) -> PreTrainedTokenizerFast:
    """A tokenizer as Llama 2's: no pre-tokeniser, a space before every text, bytes for unknown characters."""
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    letters = sorted({c for text in texts for c in text.replace(" ", "▁")})
    vocab = {
        token: i for i, token in enumerate([*bytes_, *letters, "▁t", "▁th", "▁the", "at", "▁c", "▁cat", "▁▁", "e\n"])
    }
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("a", "t"), ("▁", "c"), ("▁c", "at"), ("▁", "▁"), ("e", "\n")]
    made = Tokenizer(models.BPE(vocab, merges, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=made)


WORDS = st.lists(
    st.sampled_from(
        [
            "the",
            "cat",
            " ",
            "  ",
            "\n",
            "\n\n",
            "1234567",
            "don't",
            "<|eos|>",
            "é",
            "日本",
            "e",
            "\t",
            "the cat sat",
            ". ",
        ]
    ),
    max_size=120,
).map(" ".join)


@pytest.mark.parametrize("kind", ["byte-level", "llama"])
@given(text=WORDS)
def test_a_long_text_has_the_tokens_of_the_whole(tokenizer, kind, text):
    made = tokenizer if kind == "byte-level" else llama_like([*TEXTS, "\n"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "PIECE", 40)
        patch.setattr(encode, "_WINDOW", 16)
        patch.setattr(encode, "TOGETHER", 100)
        (tokens,) = encode.encoded(made, [text])
    assert tokens.tolist() == made(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", ["byte-level", "llama"])
def test_a_long_text_is_cut_and_one_without_a_sure_place_is_not(tokenizer, kind, monkeypatch):
    monkeypatch.setattr(encode, "PIECE", 100)
    monkeypatch.setattr(encode, "_WINDOW", 16)
    made = tokenizer if kind == "byte-level" else llama_like([*TEXTS, "\n"])
    pieces = encode.pieces_of(made, "the cat sat " * 100)
    assert len(pieces) >= 10
    assert max(map(len, pieces)) < 210
    assert encode.pieces_of(made, "thecat" * 200) == ["thecat" * 200]
    joined = Tokenizer.from_str(made.backend_tokenizer.to_str())
    joined.add_tokens(["at sat"])  # a token that reaches over a blank
    crossing = PreTrainedTokenizerFast(tokenizer_object=joined)
    assert encode.pieces_of(crossing, "the cat sat " * 100) == ["the cat sat " * 100]


@pytest.mark.parametrize(
    "folder", ["models/stories-llama-260k", "tokenizers/gpt2", "tokenizers/gpt_neox_20b", "tokenizers/llama2"]
)
def test_real_tokenizers_cut_real_texts_without_a_trace(test_data, folder, monkeypatch):
    monkeypatch.setattr(encode, "PIECE", 1000)
    real = AutoTokenizer.from_pretrained(test_data / folder)
    text = next((test_data / "text" / "wikitext2").glob("*")).read_text(encoding="utf-8")[:30_000]
    assert len(encode.pieces_of(real, text)) > 20
    assert encode.encoded(real, [text])[0].tolist() == real(text, add_special_tokens=False, verbose=False)["input_ids"]


def test_truncation_and_padding_of_an_earlier_call_do_not_reach_a_text(tokenizer):
    copy = with_template(tokenizer, None)
    expected = copy("the cat said hello", add_special_tokens=False)["input_ids"]
    copy.backend_tokenizer.enable_truncation(2)
    copy.backend_tokenizer.enable_padding(length=64)
    assert encode.encoded(copy, ["the cat said hello"])[0].tolist() == expected


# The vocabulary


def test_a_vocabulary_ends_with_the_highest_id_and_tokens_without_a_row_are_errors(tokenizer):
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"].append({**state["added_tokens"][0], "id": VOCAB + 7, "content": "<image>"})
    state["model"]["vocab"]["<image>"] = VOCAB + 7
    gapped = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), bos_token=BOS, eos_token=EOS
    )
    assert len(gapped) == VOCAB + 1
    assert ids_of(gapped) == VOCAB + 8
    assert without_row(gapped, VOCAB) == {VOCAB + 7: "<image>"}
    assert not any_text_reaches(gapped, without_row(gapped, VOCAB))
    assert any_text_reaches(gapped, without_row(gapped, VOCAB - 1))
    assert any_text_reaches(gapped, {0: BOS})
    require_rows_of(gapped, gapped("cat")["input_ids"], VOCAB, where="a")
    with pytest.raises(
        Mismatch, match=r"a: contains the token '<image>' \(id 307\), but the model has rows only for 300"
    ):
        require_rows_of(gapped, gapped("cat <image>")["input_ids"], VOCAB, where="a")

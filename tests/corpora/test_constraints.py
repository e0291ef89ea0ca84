"""Families of constraints by examples and by properties, what records say of them, and pairs that contradict one another."""

import json
from itertools import combinations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from limbeck.corpora.document import Document
from limbeck.corpora.prompt import Prompt
from limbeck.corpora.tasks.checked_prompts import checked_of, passes
from limbeck.corpora.tasks.constraints import KINDS, Constraint, constraints_of, trained_of
from limbeck.corpora.tasks.constraints.families import FAMILIES
from limbeck.corpora.tasks.constraints.ifeval import IFEVAL
from limbeck.corpora.tasks.constraints.measures import count_sentences
from limbeck.errors import BadTask

FOLLOWED = [  # family, arguments, answers that follow it, answers that do not
    (
        "length",
        {"unit": "words", "at_least": 3},
        ["it's well-known now", "हिन्दी में लिखो"],
        ["a b", "a - !!! b", "a\0b\0c"],
    ),
    ("length", {"unit": "words", "at_most": 2}, ["a b", "a — b", "one\u200btwo three"], ["a b c", "a\u2003b\u2003c"]),
    (
        "length",
        {"unit": "sentences", "at_least": 2, "at_most": 2},
        [
            'He said "No." Then he left',
            "Dr. A. Smith, e.g. here. Why?!",
            "1. One thing.\n2. Another.",
            "好。是！",
            "- a\n- b",
        ],
        ["One.", "One. Two. Three.", "One. ... !!!", "Version 2.5 it is."],
    ),
    (
        "length",
        {"unit": "paragraphs", "at_least": 2, "at_most": 2},
        ["a\n\nb", "a\n \t\nb\nc", "a\n\n***\n\nb"],
        ["a\nb", "a\n\nb\n\nc", "a\n\n---"],
    ),
    ("count", {"text": "é", "at_least": 2}, ["É é", "e\u0301\u00e9"], ["e e", "é"]),
    ("count", {"text": "aa", "at_most": 1}, ["aaa", "b"], ["aaaa", "AA aa"]),
    (
        "contains",
        {"words": ["cat", "C++", "New York"]},
        ["The CAT's C++, new\n york."],
        ["cats C++ New York", "cat C New York"],
    ),
    ("contains", {"words": ["हिन्द"]}, ["हिन्द"], ["हिन्दी"]),
    ("lacks", {"texts": [",", "e"]}, ["a; b", "ab"], ["a, b", "thE", "the"]),
    (
        "starts",
        {"text": "In short"},
        [" in  short, no", "IN SHORT", "in short"],
        ["In shorts", "So in short", '"In short"'],
    ),
    ("ends", {"text": "The end."}, ["x. The end.\n", "the END."], ["The end", "Bathe end.", "The end. Really"]),
    ("ends", {"text": "end"}, ["the end"], ["weekend", "the end."]),
    ("case", {"case": "upper"}, ["ALL 2 OF US!", "ÄÖ"], ["All", "12", "漢字", "ﬁ"]),
    ("case", {"case": "lower"}, ["all 2 of us!", "ß"], ["All", "12", "漢字"]),
    (
        "bullets",
        {"at_least": 2, "at_most": 2},
        ["- a\n* b", "Well:\n  • a\n\t+ b\r\n"],
        ["- a", "- a\n- b\n- c", "-a\n-b", "- \n* !", "* * *\n- a", "**a**\n- b"],
    ),
    ("bullets", {"at_most": 0}, ["a - b", "***"], ["x\n- a"]),
    (
        "json",
        {},
        ['{"a": [{"b": {}}]}', "[1]", '```json\n{"a": 1}\n```', "```\n[]\n```", '{"a": "\\u0000"}'],
        [
            "{'a': 1}",
            'Here: {"a": 1}',
            "2",
            '"a"',
            "null",
            '{"a": NaN}',
            "[" * 100_000,
            '{"a": 1}{}',
            '{"a": "\0"}',
            "[1,]",
        ],
    ),
    (
        "json",
        {"keys": ["name", "año"]},
        ['{"año": 1, "name": null}'],
        ['{"name": 1}', '{"x": {"name": 1, "año": 1}}', '["name"]'],
    ),
    (
        "sections",
        {"marker": "Section", "at_least": 2, "at_most": 2},
        ["Section 1\na\nSECTION 2: b", "## Section 1\na\n**Section 2**", "intro\n\nsection  1.\n section 2 x"],
        [
            "Section 1\nsee Section 2",
            "Section 2\nSection 1",
            "Section 1\nSection 3",
            "Section1\nSection2",
            "Section 1\nSection 2b",
        ],
    ),
    ("sections", {"marker": "§", "at_least": 1}, ["§ 1 a"], ["§ 2 a", "§ 1111111111", "S 1"]),
    ("forbidden", {"words": ["cat", "new york"]}, ["concatenate the cats, New Yorkers"], ["A CAT.", "New\n York"]),
    (
        "frequency",
        {"word": "cat", "at_least": 2, "at_most": 2},
        ["cat cat's cats", "Cat-cat"],
        ["cat cats", "cat cat cat", "cat_cat"],
    ),
    ("language", {"script": "cyrillic"}, ["Да, 12!", "ё"], ["Да yes", "12!", "Dа"]),  # the last with a Cyrillic а
    ("language", {"script": "latin"}, ["Ja, é ﬁ ｗｉｄｅ"], ["да", "α", "1 + 1"]),
    ("language", {"script": "japanese"}, ["漢字とかな", "カー々"], ["漢字", "kana かな"]),
    ("language", {"script": "hangul"}, ["한국어"], ["漢", "abc"]),
    ("language", {"script": "devanagari"}, ["हिन्दी।"], ["ਪੰਜਾਬੀ"]),
    ("order", {"words": ["one", "two"]}, ["One, then two. One."], ["two one two", "one", "none two", "twoone two"]),
    (
        "repeat",
        {"text": "Say  it."},
        ["say it. Yes", "SAY\nIT.\n\nno"],
        ["Yes. Say it.", "Say it.", "Say it. !", "Say it Yes"],
    ),
]
BLANK = ["", " ", "\n\t", "\u3000", "\r\n\x0b"]


def test_examples_have_every_family():
    assert {family for family, *_ in FOLLOWED} == set(FAMILIES)
    assert len(FAMILIES) == 15
    assert not set(FAMILIES) & set(IFEVAL)


@pytest.mark.parametrize(("family", "arguments", "right", "wrong"), FOLLOWED)
def test_a_constraint_is_followed_or_not(family, arguments, right, wrong):
    (constraint,) = constraints_of([family], [arguments], "here")
    assert [constraint.follows(answer) for answer in right] == [True] * len(right)
    assert [constraint.follows(answer) for answer in wrong] == [False] * len(wrong)
    assert not any(constraint.follows(answer) for answer in BLANK)


@pytest.mark.long
@given(st.text(max_size=60) | st.text(' \n-*#."{}[]:,aA1é\0', max_size=60))
@example("\0" * 50)
@example("\ud800")
@example("-" * 5000 + "\n" * 5000)
def test_every_text_has_a_result_and_white_space_around_it_changes_none(answer):
    for family, arguments, *_ in FOLLOWED:
        constraint = Constraint(family, arguments)
        found = constraint.follows(answer)
        assert found in (True, False)
        assert constraint.follows(f"\n\n{answer.strip()} \n") == constraint.follows(answer.strip())


@given(st.lists(st.sampled_from(["one", "two", "Three."]), min_size=1, max_size=30), st.integers(0, 40))
def test_bounds_are_included(words, bound):
    answer, number = " ".join(words), len(words)
    at_least, at_most = (Constraint("length", {"unit": "words", key: bound}) for key in ("at_least", "at_most"))
    assert (at_least.follows(answer), at_most.follows(answer)) == (number >= bound, number <= bound)


@given(st.text("ab .!?\n-1", max_size=40))
def test_there_are_no_more_sentences_than_words(text):
    """On which a pair of constraints is said to be impossible."""
    assert count_sentences(text) <= sum(any(map(str.isalnum, one)) for one in text.split())


RECORD = {"instruction_id_list": ["contains", "punctuation:no_comma"], "kwargs": [{"words": ["cat"]}, {}]}


def test_a_record_and_an_answer_give_a_result_for_each_constraint():
    assert passes(RECORD, "A cat, well.") == (True, False)
    assert passes(RECORD, " ") == (False, False)
    assert passes(RECORD | {"answer": 4}, "The cat said 4") == (True, True, True)
    assert passes({"prompt": "Say hi."}, "hi") == ()
    trained = {"instruction_id_list": ["language:response_language"], "kwargs": [{"language": "de"}]}
    assert passes(trained, "ja") == ()
    assert trained_of(trained["instruction_id_list"]) == ["language:response_language"]
    checked = checked_of(Prompt(Document("here", text="Say cat.", checked_by=RECORD)))
    assert checked.parts == ("contains", "punctuation:no_comma")
    assert checked.check("cat") == (True, True)


def read(*constraints):
    return constraints_of([kind for kind, _ in constraints], [arguments for _, arguments in constraints], "f.jsonl:3")


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (
            ("lenght", {}),
            r"f.jsonl:3: unknown constraint 'lenght'; did you mean 'length'\? There are: length, count, .*repeat, ",
        ),
        ((3, {}), r"unknown constraint '3'\. There are: "),
        (("length", {"unit": "words"}), "f.jsonl:3: length: expected 'at_least', 'at_most' or both, got neither"),
        (
            ("length", {"unit": "lines", "at_most": 2}),
            "'unit' to be 'words' or 'sentences' or 'paragraphs', got the string 'lines'",
        ),
        (
            ("length", {"unit": "words", "atleast": 2}),
            r"unknown argument 'atleast'; did you mean 'at_least'\? It takes: unit, ",
        ),
        (("case", {"case": "upper", "x": 1}), r"case: unknown argument 'x'\. It takes: case"),
        (("punctuation:no_comma", {"x": 1}), "It takes none"),
        (("count", {"text": "e", "at_least": 3, "at_most": 2}), "'at_least' not to be above 'at_most', got 3 and 2"),
        (("count", {"text": "e", "at_least": -1}), "to be 0 or more"),
        (("count", {"text": " ", "at_least": 1}), "expected 'text' to be a text, got the string ' '"),
        (("count", {"text": "e", "at_least": True}), "expected 'at_least' to be a whole number, got a boolean"),
        (("contains", {"words": []}), "expected 'words' to be a list of texts"),
        (("contains", {"words": ["a", " "]}), "expected 'words' to be a list of texts"),
        (("order", {"words": ["a", "A"]}), "two or more different ones"),
        (("json", {"keys": "name"}), "expected 'keys' to be a list of texts, got the string 'name'"),
        (("language", {"script": "klingon"}), "expected 'script' to be 'arabic' or "),
    ],
)
def test_a_faulty_constraint_is_named(constraint, message):
    with pytest.raises(BadTask, match=message):
        read(constraint)


WORDS = ("length", {"unit": "words", "at_most": 3})
APART = [  # pairs that contradict one another, and a part of the reason
    (WORDS, ("length", {"unit": "words", "at_least": 4}), "4 words are more than 3 words"),
    (("length", {"unit": "words", "at_most": 0}), ("length", {"unit": "sentences", "at_least": 2}), "2 sentences are more"),
    (WORDS, ("bullets", {"at_least": 5}), "5 bullets are more than 3 words"),
    (WORDS, ("starts", {"text": "a b c d"}), "'a b c d' has more than 3 words"),
    (("length", {"unit": "sentences", "at_most": 1}), ("length", {"unit": "paragraphs", "at_least": 2}), "2 paragraphs are more"),
    (("contains", {"words": ["New York"]}), ("forbidden", {"words": ["york"]}), "'New York' has more than 0 times the word"),
    (("contains", {"words": ["cat"]}), ("lacks", {"texts": ["A"]}), "'cat' has more than 0 times 'a'"),
    (("frequency", {"word": "see", "at_least": 3}), ("count", {"text": "e", "at_most": 5}), "'see' has more than 5 times 'e'"),
    (("frequency", {"word": "a", "at_least": 3}), ("frequency", {"word": "A", "at_most": 2}), "3 times the word 'a' are more"),
    (("order", {"words": ["a", "b"]}), ("frequency", {"word": "b", "at_most": 0}), "word 'b'"),
    (("count", {"text": "e", "at_least": 1}), ("lacks", {"texts": ["e"]}), "1 times 'e' are more than 0"),
    (("starts", {"text": "The"}), ("starts", {"text": "Then"}), "cannot begin with both"),
    (("repeat", {"text": "Say it."}), ("starts", {"text": "Yes"}), "cannot begin with both"),
    (("ends", {"text": "end"}), ("ends", {"text": "weekend"}), "cannot end with both"),
    (("starts", {"text": "Yes"}), ("startend:quotation", {}), "cannot begin with both"),
    (("case", {"case": "upper"}), ("case", {"case": "lower"}), "one case"),
    (("case", {"case": "upper"}), ("change_case:english_lowercase", {}), "one case"),
    (("case", {"case": "upper"}), ("language", {"script": "hebrew"}), "hebrew have no case"),
    (("language", {"script": "han"}), ("language", {"script": "latin"}), "one script"),
    (("language", {"script": "cyrillic"}), ("contains", {"words": ["cat"]}), "'cat' is not of the script cyrillic"),
    (("json", {}), ("bullets", {"at_least": 1}), "no bullets"),
    (("json", {}), ("sections", {"marker": "Part", "at_least": 1}), "no bullets and headings"),
    (("json", {}), ("starts", {"text": "Sure"}), "brackets"),
    (("json", {}), ("ends", {"text": "bye"}), "brackets"),
    (("sections", {"marker": "Part", "at_least": 1}), ("lacks", {"texts": ["p"]}), "'Part' has more than 0 times 'p'"),
    (("keywords:existence", {"keywords": ["cat"]}), ("keywords:forbidden_words", {"forbidden_words": ["Cat"]}), "'cat'"),
    (("startend:end_checker", {"end_phrase": "a, b"}), ("punctuation:no_comma", {}), "times ','"),
    (
        ("length_constraints:number_words", {"relation": "at least", "num_words": 5}),
        ("length_constraints:number_words", {"relation": "less than", "num_words": 5}),
        "5 runs of letters are more than 4",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other", "why"), APART)
def test_a_contradiction_names_both(one, other, why):
    for pair in ((one, other), (other, one)):
        with pytest.raises(BadTask, match="contradict one another, since") as error:
            read(*pair)
        assert all(str(read(constraint)[0]) in str(error.value) for constraint in pair)
        assert why.split(" are more")[0] in str(error.value)


def test_examples_that_one_answer_follows_are_not_said_to_contradict_one_another():
    """A pair that is found is impossible, but for keywords of IFEval, which may stand in longer words."""
    answers = [answer for _, _, right, wrong in FOLLOWED for answer in (*right, *wrong) if len(answer) < 1000]
    everything = [Constraint(family, arguments) for family, arguments, *_ in FOLLOWED]
    everything += [Constraint(kind, arguments) for pair in APART for kind, arguments in pair[:2] if kind in FAMILIES]
    pairs = set()
    for answer in answers:
        pairs |= set(combinations([place for place, one in enumerate(everything) if one.follows(answer)], 2))
    assert len(pairs) > 500
    for one, other in pairs:
        assert read(*((everything[place].kind, everything[place].arguments) for place in (one, other)))


def test_sentences_without_spaces_may_be_more_than_words():
    constraints = [("length", {"unit": "words", "at_most": 2}), ("length", {"unit": "sentences", "at_least": 3})]
    assert all(one.follows("好。好。好。") for one in read(*constraints))


def test_ifevals_prompts_are_read_without_a_contradiction(test_data):
    file = test_data / "tasks" / "ifeval" / "input_data.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    found = [constraints_of(row["instruction_id_list"], row["kwargs"], str(row["key"])) for row in rows]
    assert len(rows) == 271
    assert sum(one is not None for one in found) == 228
    assert {constraint.kind for one in found for constraint in one or ()} == set(IFEVAL)
    assert set(IFEVAL) < set(KINDS)

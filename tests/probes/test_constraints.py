"""Constraints on answers: each kind by examples, files of prompts, strict and loose counts, chance, and the probe."""

import importlib
import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from limbeck.config import ProbeSettings
from limbeck.corpora.tasks.constraints import Constraint
from limbeck.corpora.tasks.constraints.ifeval import IFEVAL, TRAINED
from limbeck.errors import BadSetting, BadTask, Mismatch
from limbeck.jobs.probe.job import probe
from limbeck.probes.constraints import Item, answered, by_chance, followed, read_items
from limbeck.probes.constraints.probe import probe_constraints
from limbeck.probes.interval import wilson
from limbeck.probes.standard.local import local_task
from tests.helpers.models import frozen, llama, tokenizer, write_teacher
from tests.jobs.test_generated import CHAT

FOLLOWED = [  # kind, arguments, answers that follow it, answers that do not
    ("change_case:english_capital", {}, ["ALL 2 OF US!"], ["All", "12"]),
    ("change_case:english_lowercase", {}, ["all 2 of us!"], ["All", "12"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it. "}, [" say it. Yes"], ["Yes. Say it."]),
    (
        "combination:two_responses",
        {},
        ["a******b", "******a ****** b"],
        ["a", "a******a", "a******  ******b", "a******b******c"],
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[a] [b c]"], ["[a]", "[a\nb] [c]"]),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["x\nP.S. y", "p. s. y"],
        ["PS y", "P.P.S"],
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["x P.P.S y", "p.p. s"], ["P.S. y"]),
    ("detectable_content:postscript", {"postscript_marker": "N.B."}, ["n.b. y"], ["nxb. y"]),
    ("detectable_format:constrained_response", {}, ["Well. My answer is no."], ["my answer is no.", "My answer is"]),
    (
        "detectable_format:json_format",
        {},
        ['{"a": [1]}', '```json\n{"a": 1}\n```', "2"],
        ["{'a': 1}", 'Here: {"a": 1}'],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1\na\nSECTION 2 b", "SECTION1 SECTION 2 SECTION 3"],
        ["SECTION 1", "Section 1 Section 2", "SECTION a SECTION b"],
    ),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n- b", "x\n  * a\n  * b"],
        ["* a", "* a\n* b\n* c", "** a\n* b"],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* *b c*", "**a** *b*"],
        ["*a*", "* * *a*", "*a\nb* *c*"],
    ),
    ("detectable_format:title", {}, ["<<Joy>>\nx"], ["<Joy>", "<< >>", "<<a\nb>>"]),
    ("keywords:existence", {"keywords": ["Cat", "c++"]}, ["concatenate C++"], ["cat", "cat c"]),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, ["concatenate"], ["The CAT sat."]),
    ("keywords:frequency", {"keyword": "a", "relation": "at least", "frequency": 3}, ["Aardvark"], ["ad a"]),
    ("keywords:frequency", {"keyword": "a", "relation": "less than", "frequency": 2}, ["a b"], ["a a"]),
    ("keywords:letter_frequency", {"letter": "!", "let_relation": "at least", "let_frequency": 2}, ["!!"], ["!"]),
    ("keywords:letter_frequency", {"letter": "Q", "let_relation": "less than", "let_frequency": 1}, ["abc"], ["q"]),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Well"},
        ["a\n\nwell, b", 'a\n\n"Well" b'],
        ["a\n\nb", "well", "a\n\nwell b\n\nc", "\n\na\n\nwell"],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a\n***\nb", "***a***b***"],
        ["a", "a***b***c", "a *** *** b"],
    ),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, ["a b-c"], ["a b"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, ["it's"], ["a b c"]),
    ("punctuation:no_comma", {}, ["a; b"], ["a, b"]),
    ("startend:end_checker", {"end_phrase": "The End. "}, ['x "the end."', "The end. \n"], ["The end"]),
    ("startend:quotation", {}, [' "a" ', '""'], ['"', '"a', "'a'"]),
]
ITEM = {"key": 7, "prompt": "Say hi.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}


def test_examples_have_every_kind():
    assert {kind for kind, *_ in FOLLOWED} == set(IFEVAL)
    assert not set(IFEVAL) & set(TRAINED)


@pytest.mark.parametrize(("kind", "arguments", "right", "wrong"), FOLLOWED)
def test_a_constraint_is_followed_or_not(kind, arguments, right, wrong):
    constraint = Constraint(kind, arguments)
    assert [constraint.follows(answer) for answer in right] == [True] * len(right)
    assert [constraint.follows(answer) for answer in wrong] == [False] * len(wrong)
    assert not constraint.follows(" \n")


def item(*kinds, name="1"):
    return Item(name, "Say hi.", tuple(Constraint(kind, {}) for kind in kinds))


def test_loosely_first_line_last_line_and_asterisks_are_forgiven():
    both = item("startend:quotation", "punctuation:no_comma")
    answer = 'Sure, here it is:\n**"hi"**\nBye, you.'
    assert followed(answer, both) == 0
    assert followed(answer, both, loose=True) == 2
    assert followed('"hi"', both) == followed('"hi"', both, loose=True) == 2


def test_chance_is_what_answers_to_other_prompts_follow():
    items = [
        item("punctuation:no_comma"),
        item("startend:quotation"),
        item("punctuation:no_comma", "startend:quotation"),
    ]
    assert by_chance(["a", '"b, c"', '"d"'], items).tolist() == [0.5, 0.5, (1 + 1) / 2]
    assert np.isnan(by_chance(["a"], items[:1])).all()


def write(folder, *rows):
    file = folder / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_a_file_of_prompts_is_read(tmp_path):
    counted = ITEM | {
        "instruction_id_list": ["length_constraints:number_words", "startend:quotation"],
        "kwargs": [{"num_words": 3, "relation": "at least", "keyword": None}, {"num_words": None}],
    }
    language = ITEM | {"instruction_id_list": ["language:response_language"], "kwargs": [{"language": "de"}]}
    del counted["key"]
    prompts = read_items(write(tmp_path, ITEM, language, counted))
    items = prompts.items
    assert (prompts.left_out, prompts.trained) == (1, {"language:response_language": 1})
    assert str(prompts) == (
        "constraints of 2 of 3 prompts (67 %) are checked; 1 are left out, which need what limbeck does not have: a language "
        "detector for 1 language:response_language"
    )
    assert [one.name for one in items] == ["7", "3"]
    assert items[1].constraints == (
        Constraint("length_constraints:number_words", {"num_words": 3, "relation": "at least"}),
        Constraint("startend:quotation", {}),
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kwargs": None}, r"prompts.jsonl:1: expected 'instruction_id_list' and 'kwargs' to be lists of equal length"),
        ({"prompt": ""}, r"expected 'prompt' to be a text, got the string ''"),
        (
            {"instruction_id_list": ["punctuation:no_coma"]},
            r"unknown constraint 'punctuation:no_coma'; did you mean 'punctuation:no_comma'\?",
        ),
        (
            {"instruction_id_list": ["startend:end_checker"]},
            r"startend:end_checker: expected 'end_phrase' to be a text, got null",
        ),
        (
            {
                "instruction_id_list": ["length_constraints:number_words"],
                "kwargs": [{"num_words": True, "relation": "at least"}],
            },
            r"expected 'num_words' to be a whole number, got a boolean",
        ),
        (
            {
                "instruction_id_list": ["length_constraints:number_words"],
                "kwargs": [{"num_words": 3, "relation": "about"}],
            },
            r"expected 'relation' to be 'less than' or 'at least', got the string 'about'",
        ),
        (
            {"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": [3]}]},
            r"expected 'keywords' to be a list of texts",
        ),
        ({"instruction_id_list": ["language:response_language"]}, r"can check, got 1 that need something trained"),
    ],
)
def test_a_faulty_line_is_named(changed, message, tmp_path):
    with pytest.raises(BadTask, match=message):
        read_items(write(tmp_path, ITEM | changed))


def test_a_missing_key_and_file_are_named(tmp_path):
    with pytest.raises(BadTask, match="got none called 'kwargs'"):
        read_items(write(tmp_path, {key: ITEM[key] for key in ITEM if key != "kwargs"}))
    with pytest.raises(BadTask, match=r"missing.jsonl: expected JSONL prompts .* does not exist"):
        read_items(tmp_path / "missing.jsonl")


def test_tasks_of_lm_eval_say_what_measures_constraints(tmp_path):
    with pytest.raises(BadTask, match="Constraints on answers are measured with limbeck probe --probe constraints"):
        local_task(write(tmp_path, ITEM))


def chatting(**options):
    tok = tokenizer()
    tok.chat_template = CHAT
    return frozen(llama(tok=tok, **options))


def test_a_chat_model_reads_prompts_as_turns_and_any_other_as_text():
    one = item("punctuation:no_comma")
    chat, base = chatting(), frozen(llama())
    turn = chat.tokenizer.decode(one.asked(chat=True).tokens(chat.tokenizer))
    assert turn.endswith("assistant: ")
    assert "Say hi." in turn
    assert base.tokenizer.decode(one.asked(chat=False).tokens(base.tokenizer), skip_special_tokens=True) == "Say hi."
    (answer,) = answered(chat, [one], most=5)
    assert answer.tokens == 5 or answer.finish == "stop"


def test_an_answer_is_as_long_as_the_context_allows():
    base = frozen(llama())  # 128 tokens
    long = Item("1", "the cat " * 20, item("punctuation:no_comma").constraints)
    room = base.context - len(long.asked(chat=False).tokens(base.tokenizer))
    assert 0 < room < 128
    (answer,) = answered(base, [long], most=1280)
    assert answer.tokens == room or answer.finish == "stop"
    with pytest.raises(Mismatch, match="no room for an answer"):
        answered(base, [Item("1", "the cat sat on a mat " * 60, long.constraints)], most=5)


def test_the_probe_compares_with_the_teacher_prompt_by_prompt(tmp_path):
    rows = [ITEM | {"key": n, "prompt": f"the cat {n}"} for n in range(6)]
    quoted = ITEM | {"key": 9, "instruction_id_list": ["startend:quotation"]}
    language = ITEM | {"instruction_id_list": ["language:response_language"], "kwargs": [{"language": "de"}]}
    notes = []
    context = SimpleNamespace(task=str(write(tmp_path, *rows, quoted, language)), note=notes.append)
    model = chatting()
    found = {one.name: one for one in probe_constraints(model, model, context)}
    assert notes[0].startswith("constraints of 7 of 8 prompts (88 %) are checked; 1 are left out")
    share = found["constraints_followed"]
    assert (share.value, share.n) == (pytest.approx(6 / 7), 7)  # six without a comma, one without quotation marks
    assert share.low < share.value < share.high <= 1
    assert found["constraints_prompts_followed"].value == pytest.approx(6 / 7)
    assert found["teacher_constraints_followed"].value == share.value
    apart = found["constraints_followed_minus_teacher"]
    assert (apart.value, apart.low, apart.high) == (0, -wilson(0, 7).high, wilson(0, 7).high)
    assert found["constraints_by_chance"].value == pytest.approx(6 / 7)
    assert found["constraints_tokens"].unit == "tokens/answer"
    with pytest.raises(BadSetting, match=r"--task ifeval\.jsonl, or write one with limbeck constraints write"):
        list(probe_constraints(model, None, SimpleNamespace(task=None)))


def test_the_command_measures_it(tmp_path):
    write_teacher(tmp_path)
    settings = ProbeSettings(probe="constraints", task=str(write(tmp_path, ITEM, ITEM | {"key": 8})))
    found = probe(settings, model=str(tmp_path / "teacher"), teacher=None, out=tmp_path / "out")
    assert found["readings"]["constraints_followed"]["n"] == 2
    assert (tmp_path / "out" / "readings.jsonl").exists()


@pytest.fixture
def reference(monkeypatch):
    """IFEval's own checks as lm-eval ships them, without what it fetches or detects languages with."""
    nltk = pytest.importorskip("nltk", reason="the extra eval is not installed")
    pytest.importorskip("lm_eval", reason="the extra eval is not installed")
    monkeypatch.setattr(nltk.data, "find", lambda name: name)
    english = ModuleType("langdetect")
    english.detect, english.LangDetectException = lambda text: "en", ValueError
    frozen_dict = ModuleType("immutabledict")
    frozen_dict.immutabledict = dict
    monkeypatch.setitem(sys.modules, "langdetect", english)
    monkeypatch.setitem(sys.modules, "immutabledict", frozen_dict)
    return importlib.import_module("lm_eval.tasks.ifeval.utils")


@pytest.mark.extras
@pytest.mark.filterwarnings("ignore")
def test_counts_are_those_of_ifevals_own_code(reference):
    """On answers made of the pieces that the checks look for."""
    generator = np.random.default_rng(0)
    pieces = [piece for _, _, right, wrong in FOLLOWED for piece in (*right, *wrong)] + [
        "\n",
        "\n\n",
        " ",
        "*",
        '"',
        ", ",
        "***",
    ]
    compared = 0
    for kind, arguments, right, wrong in FOLLOWED:
        if "c++" in arguments.get("keywords", ()) or arguments.get("letter") == "!" or "N.B." in arguments.values():
            continue  # not a regular expression, or replaced by a random letter there
        made = ["".join(generator.choice(pieces, size=generator.integers(1, 5))) for _ in range(150)]
        one = Item("1", "p", (Constraint(kind, arguments),))
        asked = reference.InputExample(1, [kind], "p", [arguments])
        for answer in (*right, *wrong, *made):
            strict = reference.test_instruction_following_strict(asked, answer).follow_all_instructions
            loose = reference.test_instruction_following_loose(asked, answer).follow_all_instructions
            assert (bool(followed(answer, one)), bool(followed(answer, one, loose=True))) == (strict, loose), (
                kind,
                answer,
            )
            compared += strict
    assert compared > 200

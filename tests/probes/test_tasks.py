"""Probes of synthetic tasks: a model that can do a task scores 1, one that guesses scores chance, one with a window only near."""

import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

import limbeck
from limbeck.corpora import train_tokenizer
from limbeck.corpora.tasks import listops as grammar
from limbeck.errors import BadFolder, BadSetting, BadTask, Mismatch
from limbeck.jobs.probe.job import show
from limbeck.models.save import save
from limbeck.probes import mqar as recall_probe
from limbeck.probes.completions import log_likelihood
from limbeck.probes.interval import share_interval, wilson
from limbeck.probes.listops import listops
from limbeck.probes.mqar import mqar
from limbeck.probes.reversal import Fact, known_facts, ranks, read_facts, reversal
from limbeck.probes.sums import sums
from limbeck.types import Head, Outputs, Reading
from tests.helpers.models import frozen, llama

BYTES = train_tokenizer((), vocab=259)


class Scripted:
    """A stand-in for a model that is sure of the next token, which ``says`` gives for the tokens so far: nothing is learned."""

    name, device, context, end, tokenizer, vocab = (
        "scripted",
        torch.device("cpu"),
        4096,
        BYTES.eos_token_id,
        BYTES,
        len(BYTES),
    )

    def __init__(self, says):
        self.says = says
        self.model = Model(self)

    def __call__(self, batch):
        return Outputs(
            torch.stack([self.sure(row.tolist(), 0) for row in batch.tokens]), Head(torch.eye(self.vocab)), self.vocab
        )

    def sure(self, tokens, first):
        """Logits of what follows each token from ``first`` on."""
        found = torch.zeros(len(tokens) - first, self.vocab)
        for t in range(first, len(tokens)):
            found[t - first, self.says(tokens[: t + 1])] = 20.0
        return found


class Model:
    """How a Transformers model is called: with a cache, or all at once."""

    generation_config = None

    def __init__(self, scripted):
        self.scripted = scripted

    def __call__(self, input_ids, past_key_values=None, attention_mask=None, logits_to_keep=0, **_):
        cache = past_key_values or Cache([[] for _ in input_ids])
        logits = []
        for row, new in enumerate(input_ids.tolist()):
            if attention_mask is not None and not cache.texts[row]:
                new = [token for token, real in zip(new, attention_mask[row].tolist(), strict=True) if real]
            first = len(cache.texts[row])
            cache.texts[row] = cache.texts[row] + new
            sure = self.scripted.sure(cache.texts[row], first)
            logits.append(torch.cat([torch.zeros(input_ids.shape[1] - len(sure), sure.shape[1]), sure]))
        return SimpleNamespace(logits=torch.stack(logits)[:, -logits_to_keep:], past_key_values=cache)

    forward = __call__


class Cache:
    def __init__(self, texts):
        self.texts = texts

    def batch_select_indices(self, indices):
        self.texts = [self.texts[i] for i in indices.tolist()]


def scripted(answer):
    """A model of text: ``answer`` gives what follows a text whole, and it is written a byte at a time."""

    def says(tokens):
        text = BYTES.decode(tokens, skip_special_tokens=True)
        question, asked, begun = text.rpartition("=")
        whole = answer(question) if asked else ""
        rest = whole[len(begun) :] if whole.startswith(begun) else ""
        return BYTES(rest[:1], add_special_tokens=False)["input_ids"][0] if rest else BYTES.eos_token_id

    return Scripted(says)


def by_name(readings):
    assert len({r.name for r in readings}) == len(readings)
    assert all(r.low <= r.value <= r.high or r.n < 3 for r in readings)  # of 2 no interval is given
    return {r.name: r.value for r in readings}


def follower(window=10**6):
    """Says what followed the last such token within the window, else a sign that is never asked for."""

    def says(tokens):
        for back in range(1, min(window, len(tokens) - 1) + 1):
            if tokens[-1 - back] == tokens[-1]:
                return tokens[-back]
        return BYTES.eos_token_id

    return Scripted(says)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(recall_probe, "ROWS", 20)
    monkeypatch.setattr(recall_probe, "PAIRS", (2, 8))
    monkeypatch.setattr("limbeck.probes.sums.SUMS", 12)
    monkeypatch.setattr("limbeck.probes.listops.EXPRESSIONS", 15)


# Recall


def test_a_model_that_looks_back_recalls_everything():
    found = by_name(mqar(follower()))
    assert found["recall_control"] == found["recall_2_pairs"] == found["recall_8_far"] == found["recall_8_guess"] == 1
    assert (found["recall_control_guess_chance"], found["recall_2_guess_chance"]) == (1 / 2, 3 / 4)
    assert found["recall_8_guess_chance"] == pytest.approx(sum(1 / k for k in range(1, 9)) / 8)


def test_a_model_with_a_window_recalls_only_what_is_near():
    found = by_name(mqar(follower(window=16)))
    assert found["recall_8_near"] == 1  # 16 tokens are the median
    assert found["recall_8_far"] == 0
    assert 0.4 < found["recall_8_pairs"] < 0.8


def test_a_model_that_says_one_token_guesses():
    found = by_name(mqar(Scripted(lambda tokens: BYTES.eos_token_id)))
    assert found["recall_8_pairs"] == found["recall_control"] == 0
    assert found["recall_8_guess"] == pytest.approx(found["recall_8_guess_chance"], abs=0.1)
    assert found["recall_2_guess"] == pytest.approx(found["recall_2_guess_chance"], abs=0.15)


def test_a_model_that_rules_out_what_was_answered_and_guesses_reaches_chance():
    generator = np.random.default_rng(0)

    def says(tokens):
        once = [token for token in dict.fromkeys(tokens) if tokens.count(token) == 1]  # keys and values not read again
        return int(generator.choice(once)) if once else BYTES.eos_token_id

    found = by_name(mqar(Scripted(says)))
    assert found["recall_8_pairs"] <= found["recall_8_guess_chance"] + 0.1
    assert found["recall_8_guess"] == pytest.approx(found["recall_8_guess_chance"], abs=0.12)


def test_repeating_the_token_that_was_read_once_does_not_pass_the_control():
    def says(tokens):
        once = [token for token in tokens if tokens.count(token) == 1 and token != BYTES.bos_token_id]
        return once[-1] if once else BYTES.eos_token_id

    assert by_name(mqar(Scripted(says)))["recall_control"] < 0.8


def test_recall_stops_where_the_context_does():
    model = follower()
    model.context = 20
    assert "recall_8_pairs" not in by_name(mqar(model))


def test_a_tokenizer_without_letters_cannot_spell_pairs():
    model = follower()
    model.vocab = 33  # signs before the letters
    with pytest.raises(BadTask, match=r"tokens of letters alone, and 8 are the fewest"):
        mqar(model)


# Sums


def test_a_model_that_adds_gets_all_sums():
    found = by_name(sums(scripted(lambda question: str(sum(map(int, question.split("+")))))))
    assert {name for name in found if "digits" in name} == {f"sums_{d}_digits" for d in (1, 2, 3, 4)}
    assert set(found.values()) == {1}
    assert {"sums_0_carries", "sums_4_carries"} <= set(found)


def test_a_model_that_never_carries_gets_those_without():
    def add(question):
        a, b = re.search(r"(\d+)\+(\d+)", question).groups()
        width = max(len(a), len(b))
        return "".join(str((int(x) + int(y)) % 10) for x, y in zip(a.zfill(width), b.zfill(width), strict=True))

    found = by_name(sums(scripted(add)))
    assert found["sums_0_carries"] == 1
    assert found["sums_1_carries"] == found["sums_4_carries"] == 0


# ListOps


def test_a_model_that_evaluates_gets_all_expressions():
    found = by_name(listops(scripted(lambda question: str(grammar.value_of(grammar.parse(question))))))
    assert found["listops_flat"] == found["listops_nested"] == 1
    assert 0.1 < found["listops_flat_commonest"] < 0.6


# Reversal


def test_a_model_of_one_direction_is_at_chance_in_the_other():
    facts = known_facts()
    forward = {fact.forward: fact.object for fact in facts}

    def says(tokens):
        text = BYTES.decode(tokens, skip_special_tokens=True)
        for prompt, answer in forward.items():
            whole = f"{prompt} {answer}"
            if text.startswith(prompt) and whole.startswith(text) and whole != text:
                return BYTES(whole[len(text)], add_special_tokens=False)["input_ids"][0]
        return BYTES.eos_token_id

    found = by_name(reversal(Scripted(says), facts))
    assert found["reversal_forward_hits"] == found["reversal_forward_mrr"] == 1
    assert found["reversal_backward_hits"] <= 2 / len(facts)
    assert found["reversal_backward_mrr"] < 3 * found["reversal_backward_mrr_chance"]
    assert found["reversal_forward_hits_chance"] == pytest.approx(1 / len(facts))


def shared():
    """Countries of two continents: forward many have one answer, backward each of two prompts has several."""
    facts = {"France": "Europe", "Spain": "Europe", "Norway": "Europe", "Kenya": "Africa"}
    return [Fact(a, b, f"{a} is in", f"A country of {b} is") for a, b in facts.items()]


def test_any_fact_of_a_prompt_is_right_and_the_commonest_answer_is_told():
    always = by_name(reversal(Scripted(lambda tokens: _next(tokens, " Europe", " Spain")), shared()))
    assert always["reversal_forward_hits"] == always["reversal_forward_hits_commonest"] == 3 / 4
    assert always["reversal_forward_hits_chance"] == 1 / 2
    assert always["reversal_backward_hits"] == always["reversal_backward_hits_commonest"] == 1 / 2  # Europe, asked once
    assert always["reversal_backward_hits_chance"] == pytest.approx((3 / 4 + 1 / 4) / 2)
    by_hand = (sum(1 / r for r in range(1, 5)) / 4 + (3 * 1 + 1 / 2) / 4) / 2  # one of four right, and three of four
    assert always["reversal_backward_mrr_chance"] == pytest.approx(by_hand)


def _next(tokens, *answers):
    """A byte of whichever answer the text has begun behind its prompt."""
    text = BYTES.decode(tokens, skip_special_tokens=True)
    for answer in answers:
        for done in range(len(answer) - 1, -1, -1):
            if text.endswith((" is in" if answer == " Europe" else " is") + answer[:done]):
                return BYTES(answer[done], add_special_tokens=False)["input_ids"][0]
    return BYTES.eos_token_id


def test_equal_candidates_share_their_ranks():
    scores = np.array([[1.0, 1.0, 1.0], [3.0, 2.0, 1.0], [1.0, 2.0, 2.0]])
    assert ranks(scores, np.array([0, 1, 1])).tolist() == [2, 2, 1.5]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected at least 3 facts"),
        ("nonsense", ":1: expected one JSON object, got 'nonsense'"),
        (
            '{"subject": "a", "object": "b", "forward": "c"}',
            ":1: expected texts for 'subject', 'object', 'forward', 'backward'",
        ),
    ],
)
def test_faulty_facts_are_told(text, said, tmp_path):
    (tmp_path / "facts.jsonl").write_text(text)
    with pytest.raises(BadTask, match=said):
        read_facts(tmp_path / "facts.jsonl")
    with pytest.raises(BadTask, match="expected JSONL facts"):
        read_facts(tmp_path / "none.jsonl")


# Likelihood and intervals


def test_likelihood_of_answers_is_that_of_the_model():
    model = frozen(llama())
    pairs = [("the cat", " sat"), ("a", " dog ran past"), ("the cat", " on")]
    found = log_likelihood(model, pairs, rows=1)
    assert found == pytest.approx(log_likelihood(model, pairs, rows=8), abs=1e-6)
    text = model.tokenizer("the cat sat", return_tensors="pt").input_ids
    log_q = model.model(text).logits[0, :, : model.vocab].log_softmax(-1)
    prompt = len(model.tokenizer("the cat").input_ids)
    exact = sum(float(log_q[t - 1, text[0, t]]) for t in range(prompt, text.shape[1]))
    assert found[0] == pytest.approx(exact, abs=1e-4)
    with pytest.raises(Mismatch, match="the context of llama2x32 is 128"):
        log_likelihood(model, [("cat " * 200, "sat")])


def test_intervals_of_shares_are_never_empty():
    assert (wilson(0, 10).low, wilson(10, 10).high) == (0, 1)
    assert wilson(10, 10).low == pytest.approx(1 / (1 + 1.959964**2 / 10))
    assert wilson(5, 20).low == pytest.approx(0.1119, abs=1e-4)  # Wilson 1927; Newcombe 1998, table I
    assert wilson(5, 20).high == pytest.approx(0.4687, abs=1e-4)
    always = share_interval(np.full(20, 4.0), np.full(20, 4.0))
    assert always.value == 1
    assert always.low < 0.9
    some = share_interval(np.array([0.0, 4, 2, 1]), np.full(4, 4.0))
    assert 0 <= some.low < some.value == 7 / 16 < some.high <= 1


# The command


def test_several_probes_are_one_table(tmp_path):
    save(llama(tok=BYTES), tmp_path / "model")
    facts = [Fact(a, b, f"{a} has", f"{b} is of") for a, b in (("x", "y"), ("v", "w"), ("s", "t"))]
    (tmp_path / "facts.jsonl").write_text("\n".join(json_of(fact) for fact in facts))
    keys = {"probe": "mqar,reversal", "task": str(tmp_path / "facts.jsonl"), "device": "cpu"}
    result = limbeck.probe(str(tmp_path / "model"), out=tmp_path / "out", **keys)
    names = set(result["readings"])
    assert {"recall_2_pairs", "recall_control", "reversal_backward_mrr"} <= names
    assert len((tmp_path / "out" / "readings.jsonl").read_text().splitlines()) == len(names)
    assert {row["model"] for row in result["readings"].values()} == {str(tmp_path / "model")}, (
        "which model, not its last folder"
    )
    assert result == limbeck.probe(str(tmp_path / "model"), **keys)


def json_of(fact):
    return str(fact.__dict__).replace("'", '"')


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"probe": "mqr"}, "--probe: unknown probe 'mqr'; did you mean 'mqar'\\?"),
        ({"probe": "mqar,pass-until"}, "pass-until alone"),
        (
            {"probe": "mqar", "task": "copy"},
            "--probe mqar would not look at --task .read by pass-until and reversal alone.: leave it out, or ask a probe that "
            "reads it; pass-until is asked by itself",
        ),
        (
            {"probe": "mqar", "data": "x", "length": 64, "successes": 7, "lr": 0.1, "threads": 1},
            "--probe mqar would not look at --data .read by likelihood and slices alone., --seq-len .*, --lr .read by no probe., "
            "--successes .read by pass-until alone.: leave it out",
        ),
        (
            {"seed": 1},
            "--probe likelihood would not look at --seed .read by arithmetic and listops and mqar and pass-until",
        ),
        ({"probe": "pass-until", "task": "copy", "data": "x"}, "--probe pass-until would not look at --data .read by"),
        (
            {"probe": "mqar,listops", "teacher": "builtin:stdlib"},
            "--probe mqar,listops would not look at --teacher .read by likelihood and slices alone.",
        ),
    ],
)
def test_wrong_flags_are_told(keys, said):
    with pytest.raises(BadSetting, match=said):
        limbeck.probe("builtin:stdlib", **keys)


def test_names_stay_in_one_line_and_what_is_computed_has_no_n():
    console = Console(width=80, file=io.StringIO())
    rows = [
        Reading("m", "mqar", "recall_control_guess_chance", 0.5, "share", 1, 0.5, 0.5),
        Reading("m", "reversal", "reversal_backward_hits_commonest", 0.25, "share", 128, 0.1, 0.4),
    ]
    show([row.row() for row in rows], console)
    first, second = (
        line.split() for line in console.file.getvalue().splitlines() if "recall_" in line or "reversal_" in line
    )
    assert first == ["mqar", "recall_control_guess_chance", "0.5", "share"]
    assert second[1:3] == ["reversal_backward_hits_commonest", "0.25"]
    assert second[-1] == "128"


def test_counts_are_numbers_that_a_person_reads():
    console = Console(width=80, file=io.StringIO())
    show([Reading("m", "cost", "parameters", 97488, "parameters", 1, 97488, 97488).row()], console)
    assert "97,488" in console.file.getvalue()


@pytest.mark.parametrize(
    ("name", "said"), [("readings.jsonl", "holds readings already"), ("run.json", "holds a run, which keeps readings")]
)
def test_readings_are_not_replaced(name, said, tmp_path):
    (tmp_path / name).write_text("{}")
    with pytest.raises(BadFolder, match=said):
        limbeck.probe("builtin:stdlib", probe="mqar", out=tmp_path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "{}")]

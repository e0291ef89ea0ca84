"""Synthetic tasks: samples follow the formulas, answers equal those of a naive solver, and uses share no rows."""

import doctest
import math
from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from limbeck.corpora import tasks
from limbeck.corpora.tasks import arithmetic, listops, task_of
from limbeck.corpora.tasks.arithmetic import Arithmetic, Sum
from limbeck.corpora.tasks.induction import Induction
from limbeck.corpora.tasks.listops import ListOps
from limbeck.corpora.tasks.mqar import MQAR
from limbeck.corpora.tasks.reversal import Reversal, reversed_facts
from limbeck.corpora.tasks.sampling import distinct, one_by_one
from limbeck.corpora.tasks.spelled import Question, Spelled
from limbeck.corpora.tasks.synthetic import BLOCK, USES, SyntheticCorpus
from limbeck.errors import BadTask
from tests.helpers.models import tokenizer

RARE = 1e-4  # a chance below which a draw would not be of its distribution; seeds are fixed


# Draws without replacement


@pytest.mark.parametrize(("count", "below"), [(2, 5), (3, 4)])
def test_every_ordered_choice_is_as_likely(count, below):
    found = distinct(np.random.default_rng(0), 60_000, count, below)
    choices = {choice: i for i, choice in enumerate(permutations(range(below), count))}
    counts = np.bincount([choices[tuple(row)] for row in found.tolist()], minlength=len(choices))
    assert chisquare(counts).pvalue > RARE


def test_places_are_sampled_one_after_the_other_by_weight():
    weights = np.array([0.5, 0.3, 0.15, 0.05])
    found = one_by_one(np.random.default_rng(1), 60_000, 3, weights)
    chances = {}
    for choice in permutations(
        range(4), 3
    ):  # of the sequential draw: w_a / 1 * w_b / (1 - w_a) * w_c / (1 - w_a - w_b)
        left, chance = 1.0, 1.0
        for place in choice:
            chance, left = chance * weights[place] / left, left - weights[place]
        chances[choice] = chance
    counts = [int((found == choice).all(1).sum()) for choice in chances]
    assert chisquare(counts, 60_000 * np.array(list(chances.values()))).pvalue > RARE


# Rows


TASKS = [
    MQAR(vocab=64, length=32, pairs=4),
    MQAR(vocab=64, length=32, pairs=4, variant="forgetting", rebound=2, filler="random"),
    MQAR(vocab=64, length=32, pairs=4, variant="compositional"),
    Induction(),
    Induction(variant="recall"),
    Reversal(entities=20, shared=2, level="name"),
    ListOps(depth=3, items=4, shortest=3, longest=20),
]


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_rows_hang_on_seed_and_number_alone(task):
    whole = SyntheticCorpus(task, seed=3).take(2 * BLOCK)
    parts = SyntheticCorpus(task, seed=3)
    taken = [parts.take(rows) for rows in (1, 700, 600)]
    later = SyntheticCorpus(task, seed=3)
    later.load_state_dict(parts.state_dict())
    taken.append(later.take(2 * BLOCK - 1301))
    for name in ("tokens", "targets", "weight", "row", "document", "position"):
        assert torch.equal(torch.cat([getattr(part, name) for part in taken]), getattr(whole, name))
    ranks = [SyntheticCorpus(task, seed=3, rank=rank, ranks=3).take(300).row for rank in range(3)]
    assert torch.cat(ranks).sort().values.tolist() == list(range(300))
    assert not torch.equal(SyntheticCorpus(task, seed=4).take(50).tokens, whole.tokens[:50])
    assert int(whole.tokens.max()) < task.vocab
    assert whole.tokens.shape == (2 * BLOCK, task.length)


def test_neither_blocks_nor_seeds_nor_uses_share_a_row_of_recall():
    sampled = [
        SyntheticCorpus(MQAR(), seed=seed, use=use).take(3 * BLOCK).tokens
        for seed in (0, 1, 2**32, 2**32 + 1)
        for use in USES
    ]
    rows = torch.cat(sampled)
    assert len(torch.unique(rows, dim=0)) == len(rows)


# MQAR


def solved(task, row):
    """The value of every key at each place, from a list of all bindings, and the distance to it."""
    width = 3 if task.variant == "compositional" else 2
    known, last = {}, {}
    for start in range(0, task.context, width):
        *key, value = row[start : start + width]
        known[tuple(key)], last[tuple(key)] = value, start
    found = {}
    for place in range(task.context, task.length, width):
        key = tuple(row[place : place + width - 1])
        if key in known:
            found[place + width - 2] = (known[key], place - last[key])
    return found


@pytest.mark.parametrize(
    "task",
    [*TASKS[:3], MQAR(vocab=40, length=64, pairs=16), MQAR(vocab=64, length=62, pairs=9, variant="compositional")],
    ids=repr,
)
def test_answers_and_distances_equal_those_of_a_plain_reader(task):
    batch = SyntheticCorpus(task, seed=5).take(200)
    distance = task.distance(batch)
    for row in range(200):
        questions = {
            t: (int(batch.targets[row, t]), int(distance[row, t]))
            for t in batch.weight[row].nonzero().flatten().tolist()
        }
        known = solved(task, batch.tokens[row].tolist())
        assert len(questions) == task.pairs
        if task.filler == "zero":
            assert questions == known
        else:  # a filler may be a key once more
            assert questions.items() <= known.items()


def test_slots_follow_the_power_law():
    task = MQAR(vocab=64, length=24, pairs=2, power=0.01)
    batch = SyntheticCorpus(task, seed=1).take(20 * BLOCK)
    first_key = batch.tokens[:, 0]
    is_question = (batch.tokens == first_key[:, None]) & (batch.weight > 0)
    slot = (is_question.float().argmax(1) - task.context) // 2
    weights = np.arange(1, 11) ** -0.99
    expected = weights / weights.sum() * len(slot)
    assert task.slots == 10
    assert chisquare(np.bincount(slot.numpy(), minlength=10), expected).pvalue > RARE


def test_keys_and_values_keep_to_their_halves():
    batch = SyntheticCorpus(MQAR(vocab=41, length=32, pairs=4), seed=0).take(500)
    keys, values = batch.tokens[:, 0:8:2], batch.tokens[:, 1:8:2]
    assert set(keys.flatten().tolist()) == set(range(1, 20))
    assert set(values.flatten().tolist()) == set(range(20, 41))
    assert all(len(set(row)) == 4 for row in [*keys.tolist(), *values.tolist()])


def test_a_second_value_is_another_one():
    task = MQAR(vocab=8, length=32, pairs=3, variant="forgetting", rebound=3)
    rows = SyntheticCorpus(task, seed=0).take(500).tokens[:, : task.context].unflatten(1, (-1, 2))
    for row in rows.tolist():
        first = dict(row[:3])
        assert all(first[key] != value for key, value in row[3:])


def test_neither_token_of_a_compositional_key_tells_the_value():
    batch = SyntheticCorpus(MQAR(vocab=64, length=32, pairs=4, variant="compositional"), seed=0).take(50)
    for row in batch.tokens[:, :12].unflatten(1, (4, 3)).tolist():
        assert all(sum(pair[part] == row[0][part] for pair in row) == 2 for part in (0, 1))


# Induction and recall


@pytest.mark.parametrize("variant", ["induction", "recall"])
def test_the_answer_of_the_last_token_is_in_the_row(variant):
    batch = SyntheticCorpus(Induction(variant=variant), seed=0).take(300)
    for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        pairs = zip(tokens[:-1:2], tokens[1::2], strict=True) if variant == "recall" else pairwise(tokens)
        assert dict(reversed(list(pairs)))[tokens[-1]] == targets[-1]
    assert batch.weight[:, -1].all()
    assert not batch.weight[:, :-1].any()


# Reversal


@pytest.mark.parametrize("level", ["concept", "name"])
def test_a_world_tells_half_of_its_facts_both_ways(level):
    task = Reversal(entities=40, relations=3, level=level, shared=4)
    training, questions = ({tuple(fact) for fact in facts.tolist()} for facts in (task.training_facts, task.test_facts))
    assert not training & questions
    assert len(training) == 3 * (40 + 12)
    assert len(questions) == 3 * 12
    one_way = {tuple(fact) for fact in reversed_facts(task.test_facts).tolist()}
    assert one_way <= training
    assert {tuple(fact) for fact in reversed_facts(task.training_facts).tolist()} - training == questions
    assert len({tuple(name) for name in task.spelling.tolist()}) == task.things
    assert {relation % 2 for _, relation, _ in one_way} == {0, 1}  # in a random direction
    rows = task.rows(task.test_facts)
    assert rows.asked.sum() == len(questions) * task.spelling.shape[1]
    assert (rows.answers[:, -1] == task.spelling[task.test_facts[:, 2], -1]).all()


def test_names_are_shared_by_the_stated_number_of_things():
    spelled = Reversal(entities=50, shared=5, level="name").spelling
    assert set(np.bincount(spelled[:, 0])) == {5}
    assert set(np.bincount(spelled[:, 1] - spelled[:, 1].min())) == {5}


# Arithmetic


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 8), st.sampled_from(arithmetic.FORMATS))
def test_a_sum_is_read_back_from_every_format(a, b, padded, form):
    sum_ = Sum(a, b, padded)
    found = arithmetic.parse(arithmetic.render(sum_, form), form)
    assert (found.a, found.b) == (a, b)
    assert found.operands == sum_.operands


def test_formats_are_those_of_the_paper():
    sum_ = Sum(128, 367)
    assert arithmetic.render(sum_, "plain") == "128+367=495\n"
    assert arithmetic.render(sum_, "reverse") == "$128+367=594$\n"
    assert arithmetic.question(sum_, "simplified").answer == "A->5 , C->1\nA->9 , C->0\nA->4 , C->0.\n495\n"
    assert "[1,2] + [3,6] , A=[5] , C=1 , 2+6+1=9 , A->9 , C->0\n" in arithmetic.render(sum_, "detailed")
    assert arithmetic.render(Sum(999, 1), "detailed").endswith("A=[0,0,0] C=1 , END\n</scratch>\n1 0 0 0\n")


@pytest.mark.parametrize("text", ["128+367=496\n", "$128+367=495$\n", "128+367=495", "one and two"])
def test_text_that_is_not_a_sum_is_an_error(text):
    with pytest.raises(BadTask, match="expected a sum in the format plain, such as '128\\+367=495"):
        arithmetic.parse(text, "plain")


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_carries_are_those_of_the_steps(a, b):
    assert arithmetic.carries(np.array([a]), np.array([b]))[0] == sum(step[4] for step in Sum(a, b).steps)


def test_sums_are_balanced_by_digits_and_carries():
    a, b = Arithmetic(digits=3, balance="both").sums(np.random.default_rng(0), 20_000)
    lengths = np.array([len(str(x)) for x in np.maximum(a, b).tolist()])
    assert chisquare(np.bincount(lengths)[1:], np.array([0.01, 0.09, 0.9]) * 20_000).pvalue > RARE
    for digits in (1, 2, 3):
        mine = lengths == digits
        assert chisquare(np.bincount(arithmetic.carries(a[mine], b[mine]), minlength=digits + 1)).pvalue > RARE
    a, b = Arithmetic(digits=2, balance="none").sums(np.random.default_rng(0), 20_000)
    assert chisquare(np.bincount(a, minlength=100)).pvalue > RARE


def test_sums_of_one_digit_are_balanced_by_carries():
    a, b = Arithmetic(digits=1).sums(np.random.default_rng(0), 2000)
    assert max(a.max(), b.max()) == 9
    assert chisquare(np.bincount(arithmetic.carries(a, b), minlength=2)).pvalue > RARE


# ListOps


expressions = st.recursive(
    st.integers(0, 9),
    lambda inner: st.tuples(st.sampled_from(listops.OPERATORS), st.lists(inner, min_size=1).map(tuple)),
)


@pytest.mark.long
@given(expressions)
def test_an_expression_is_read_back(expression):
    assert listops.parse(listops.render(expression)) == expression


def test_expressions_have_the_published_grammar():
    task = ListOps()
    found = task.expressions(np.random.default_rng(0), 30)
    items = []
    for i in range(30):
        expression = listops.parse(listops.spell(found[i]))
        assert 500 < len(found[i]) < 2000
        assert listops.render(expression) == listops.spell(found[i])
        assert listops.value_of(expression) == found.values[i]
        items += list(lists_of(expression, 1))
    depth, operators, counts = zip(*items, strict=True)
    assert max(depth) < task.depth  # a list is above the greatest depth
    assert set(operators) == set(listops.OPERATORS)
    assert (min(counts), max(counts)) == (2, 10)


def lists_of(expression, depth):
    if isinstance(expression, tuple):
        yield depth, expression[0], len(expression[1])
        for item in expression[1]:
            yield from lists_of(item, depth + 1)


def test_nodes_are_lists_with_a_chance_of_a_quarter():
    task = ListOps(
        depth=3, items=2, shortest=2, longest=100
    )  # nothing is too short or too long: two items, lists or not
    found = task.expressions(np.random.default_rng(0), 20_000)
    lengths = np.diff(np.concatenate([[0], found.ends]))
    counts = [(lengths == length).sum() for length in (4, 7, 10)]
    assert chisquare(counts, 20_000 * np.array([9 / 16, 6 / 16, 1 / 16])).pvalue > RARE


def test_values_are_those_of_an_evaluator():
    assert listops.value_of(listops.parse("[MAX 2 9 [MIN 4 7 ] 0 ]")) == 9
    assert listops.value_of(listops.parse("[SM 8 7 [MED 1 2 8 9 ] ]")) == 0
    found = ListOps(depth=4, items=6, shortest=3, longest=60).expressions(np.random.default_rng(1), 500)
    assert [listops.value_of(listops.parse(listops.spell(found[i]))) for i in range(500)] == found.values.tolist()


@pytest.mark.parametrize("text", ["", "1 2", "[MAX 1 2", "[MAX ]", "]", "[SUM 1 2 ]", "12"])
def test_text_that_is_not_an_expression_is_an_error(text):
    with pytest.raises(BadTask, match="listops: expected an expression"):
        listops.parse(text)


# Text


def test_only_the_answer_of_a_spelled_row_has_weight():
    tok = tokenizer()
    task = Spelled(Arithmetic(form="reverse"), tok, length=24, end=tok.eos_token_id)
    batch = SyntheticCorpus(task, seed=0).take(20)
    for row in range(20):
        questions = batch.weight[row] > 0
        answer = tok.decode(batch.targets[row][questions])
        first = int(questions.float().argmax())
        question = tok.decode(batch.tokens[row, : first + 1])
        assert arithmetic.parse((question + answer).removesuffix("<|eos|>"), "reverse")
        assert answer.endswith("$\n<|eos|>")


class Deaf:
    """A tokenizer that drops plus signs."""

    def __call__(self, text, **_):
        return {"input_ids": [ord(sign) for sign in text if sign != "+"]}

    def decode(self, tokens, **_):
        return "".join(map(chr, tokens))

    def __len__(self):
        return 128

    def get_vocab(self):
        return {chr(sign): sign for sign in range(128)}


class Trimming(Deaf):
    """A tokenizer that drops the end of a line."""

    def __call__(self, text, **_):
        return {"input_ids": [ord(sign) for sign in text if sign != "\n"]}


class Long:
    """A task whose questions are longer than a row."""

    name = "long"

    def questions(self, generator, n):
        return [Question("x" * 40, "y")] * n


# What a user may get wrong


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: MQAR(length=64, pairs=17),
            "17 pairs and their questions take 4 x 17 = 68 tokens, more than the length of 64",
        ),
        (
            lambda: MQAR(length=64, pairs=14, variant="forgetting", rebound=6),
            r"4 x 14 \+ 2 x 6 bound again = 68 tokens, more",
        ),
        (lambda: MQAR(vocab=16, pairs=8), "8 pairs need 8 different keys of 7 and 8 values of 8 in a vocabulary of 16"),
        (lambda: MQAR(length=63), "expected an even length, got 63: take 64"),
        (lambda: MQAR(variant="forgeting"), "unknown variant 'forgeting'; did you mean 'forgetting'?"),
        (lambda: MQAR(filler="zeros"), "unknown filler 'zeros'; did you mean 'zero'?"),
        (lambda: MQAR(variant="compositional", pairs=8), "pairs are 4, 9, 16, ...; got 8"),
        (lambda: MQAR(variant="forgetting", pairs=2, rebound=3), "expected 0 <= rebound <= pairs, got 3 of 2"),
        (lambda: MQAR(pairs=0), "expected pairs >= 1 and a finite power > 0, got 0"),
        (lambda: task_of("mqar:power=inf"), "a finite power > 0, got 8 and inf"),
        (lambda: task_of("mqar:power=nan"), "a finite power > 0, got 8 and nan"),
        (
            lambda: task_of("chains:length=0"),
            "chains: expected at least 1 operation and a share of clauses from 0 to 1, got 0",
        ),
        (lambda: task_of("reversal:level=name,shared=0"), "reversal: expected names shared by at least 1 thing, got 0"),
        (
            lambda: SyntheticCorpus(task_of("arithmetic:form=reverse")),
            r"a task that draws rows of tokens, got Arithmetic.*give Spelled\(task, tokenizer, length=...\)",
        ),
        (lambda: SyntheticCorpus(MQAR(), use="tests"), "unknown use 'tests'; did you mean 'test'"),
        (lambda: Induction(variant="recal"), "unknown variant 'recal'; did you mean 'recall'?"),
        (lambda: Induction(variant="recall", length=30), "take an odd number of tokens, got 30: take 31"),
        (lambda: Induction(vocab=3), "expected vocab >= 4 and length >= 3"),
        (lambda: Reversal(level="names"), "unknown level 'names'; did you mean 'name'?"),
        (lambda: Reversal(entities=10, level="name", shared=5), "shared by 5 have 4 first names, fewer than 5"),
        (lambda: Reversal(entities=9), "expected an even number of entities"),
        (lambda: Arithmetic(form="revers"), "unknown format 'revers'; did you mean 'reverse'?"),
        (lambda: Arithmetic(balance="carry"), "unknown balance 'carry'"),
        (lambda: Arithmetic(digits=13), "expected 1 to 12 digits, got 13"),
        (lambda: ListOps(depth=1), "expected depth >= 2"),
        (
            lambda: ListOps(depth=2, items=2, shortest=9, longest=20),
            "no expression of depth 2 with up to 2 items has more",
        ),
        (lambda: ListOps(depth=3, items=2, shortest=7, longest=10), "more than 7 and fewer than 10 tokens: take other"),
        (
            lambda: ListOps(depth=10, items=2, shortest=800, longest=2000).expressions(np.random.default_rng(0), 1),
            "0 of 1 expressions after 8,192 draws",
        ),
        (lambda: Spelled(Arithmetic(), Deaf(), length=24), "arithmetic: this tokenizer cannot spell the task"),
        (lambda: Spelled(Arithmetic(), Trimming(), length=24), r"cannot spell the task: '.*\\n' comes back as '.*\d'"),
        (lambda: Spelled(Long(), tokenizer(), length=24).draw(np.random.default_rng(0), 1), "long: a question takes"),
        (lambda: task_of("mqr"), "unknown task 'mqr'; did you mean 'mqar'?"),
        (lambda: task_of("mqar:pair=3"), "unknown option 'pair'; did you mean 'pairs'?"),
        (lambda: task_of("mqar:pairs=few"), "expected pairs to be such as 8, got 'few'"),
        (lambda: task_of("arithmetic:padded=yes"), "expected padded to be such as False, got 'yes'"),
    ],
)
def test_wrong_options_are_errors(make, message, monkeypatch):
    monkeypatch.setattr(listops, "_FRUITLESS", 2)
    with pytest.raises(BadTask, match=message):
        make()


def test_the_example_runs():
    found = doctest.testmod(tasks)
    assert (found.attempted, found.failed) == (4, 0)


def test_tasks_are_found_by_name_with_options():
    assert task_of("mqar:pairs=4,variant=forgetting,power=1.0") == MQAR(pairs=4, variant="forgetting", power=1.0)
    assert task_of("arithmetic:padded=true").padded
    assert math.isclose(task_of("mqar:power=1").slot_chances.std(), 0)

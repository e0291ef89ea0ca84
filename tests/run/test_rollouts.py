"""Rows that a student generates itself: what is learned of them, and that a stopped run generates the same again."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from limbeck.corpora import Rows
from limbeck.generation.rollouts import Continuing, RolloutPlan, Rollouts, Share
from limbeck.objectives import ReverseKL
from limbeck.planning.checks.price import Price
from limbeck.report.rollouts import generated_in
from limbeck.report.start import CUT
from limbeck.report.trained import Trained, used_table
from limbeck.run.run import Plan, Run
from limbeck.run.world import alone
from limbeck.types import Batch
from tests.helpers.models import frozen, llama, stores, tokenizer

LENGTH, MOST = 48, 9


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return stores(tmp_path_factory.mktemp("data"), tokenizer())[0]


ALL = Share(1, 1)


def generating(store, *, share=ALL, temperature=1e-4, seed=3, student=None):
    """Rows of which the student generates a share; so cold that it takes the likeliest token."""
    student = student or llama(seed=2, tok=tokenizer())
    return Rollouts(Rows(store, length=LENGTH, seed=seed), student, RolloutPlan(share, MOST, temperature))


def sequences(batch):
    """(document, tokens with the last target, number of tokens of the prompt) of all sequences of a batch."""
    for row in range(len(batch.tokens)):
        begins = [t for t in range(LENGTH) if batch.position[row, t] == 0] + [LENGTH]
        for start, end in pairwise(begins):
            if batch.document[row, start] >= 0:
                learned = batch.weight[row, start:end].numpy()
                tokens = [*batch.tokens[row, start:end].tolist(), int(batch.targets[row, end - 1])]
                yield int(batch.document[row, start]), tokens, 1 + int(np.flatnonzero(learned)[0]), learned


def test_what_is_learned_is_the_students_own_continuation_of_a_document(store):
    rollouts = generating(store)
    batch = rollouts.take(4)
    model, found = rollouts.student, list(sequences(batch))
    assert batch.tokens.shape == (4, LENGTH)
    assert (batch.row == -1).all()
    assert len(found) > 4  # a row of several documents has several
    for document, tokens, read, learned in found:
        start = int(store.starts[document])
        whole = store.tokens_at(np.arange(start, int(store.starts[document + 1]))).tolist()
        places = [i for i in range(len(whole)) if whole[i : i + read] == tokens[:read]]
        assert places  # a piece of the document, of which rows may hold a later part
        assert (learned[read - 1 :] == 1).all()
        assert (learned[: read - 1] == 0).all()
        for end in range(read, len(tokens)):
            rest = torch.tensor([tokens[:end]])
            with torch.no_grad():
                likeliest = int(model.model(rest).logits[0, -1, : model.vocab].argmax())
            assert tokens[end] == likeliest
    assert rollouts.facts()["rollouts"] >= len(found)
    assert rollouts.facts()["rollout_tokens"] >= sum(len(tokens) - read for _, tokens, read, _ in found) - len(found)


def test_a_stop_token_is_learned_and_ends_what_is_written(store):
    student = llama(seed=2, tok=tokenizer())
    first = next(sequences(generating(store, student=student).take(4)))
    student.model.generation_config.eos_token_id = stop = first[1][first[2]]  # the first token that it generates there
    rollouts = generating(store, student=student)
    found = next(sequences(rollouts.take(4)))
    assert found[1] == [*first[1][: first[2]], stop]
    assert rollouts.facts()["rollouts_ended"] >= 1


def test_rows_of_the_text_are_as_they_were(store):
    plain, half = Rows(store, length=LENGTH, seed=3), generating(store, share=Share(0.5, 0.5))
    kept = 0
    for _ in range(4):
        there, own = plain.take(8), half.take(8)
        for row in range(8):
            where = (own.row == there.row[row]).nonzero().flatten().tolist()
            for place in where:
                kept += 1
                assert torch.equal(own.tokens[place], there.tokens[row])
                assert torch.equal(own.weight[place], there.weight[row])
        assert len(own.tokens) == 8
    assert 8 < kept < 24
    none = generating(store, share=Share(0, 0))
    assert torch.equal(none.take(8).tokens, Rows(store, length=LENGTH, seed=3).take(8).tokens)
    assert set(none.facts().values()) == {0}


def test_ranks_together_write_what_one_process_writes(store):
    student, share = llama(seed=2, tok=tokenizer()), Share(0.5, 0.5)
    whole = generating(store, share=share, temperature=1.0, student=student)
    rows = whole.take(8).row.tolist()
    ours, generated = [], []
    for rank in range(2):
        part = Rows(store, length=LENGTH, seed=3, ranks=replace(alone(), rank=rank, size=2))
        rollouts = Rollouts(part, student, RolloutPlan(share, MOST))
        ours += rollouts.take(8).row.tolist()
        generated += rollouts.last.texts
    assert sorted(ours) == sorted(rows)
    assert sorted(generated) == sorted(whole.last.texts)


def test_of_a_conversation_a_turn_is_answered_after_all_that_came_before_it():
    """Two learned parts in each of two documents: the prompt ends where one of them begins."""
    student = llama(seed=2, tok=tokenizer())
    tokens = torch.arange(40, 40 + LENGTH).repeat(2, 1)
    position = torch.arange(24).repeat(2, 2)
    weight = ((position >= 6) & (position < 10)) | ((position >= 15) & (position < 20))
    document = torch.arange(2).repeat_interleave(24).repeat(2, 1)
    batch = Batch(tokens, tokens + 1, weight.float(), position, document, torch.arange(2))
    found, generated = Continuing(student, 3, 1.0).rows(batch, np.arange(2))
    reads = set()
    for _, ids, read, _ in sequences(found):
        assert ids[:read] == list(range(ids[0], ids[0] + read))
        reads.add(read)
    assert reads == {7, 16}
    assert len(generated.texts) >= 4


@pytest.mark.long
def test_a_stopped_training_writes_the_same_again(store, tmp_path):
    def run(folder, steps):
        student = llama(seed=2, tok=tokenizer())
        rollouts = generating(store, share=Share(0.5, 0.5), temperature=1.0, student=student)
        teacher = frozen(llama(layers=3, seed=1, tok=tokenizer()))
        plan = Plan(steps=6, rows=4, lr=5e-3, save_every=2)
        found = Run(
            tmp_path / folder, "test", student, teacher, rollouts, ReverseKL(), plan, alone(), facts=rollouts.facts
        )
        for step in found.steps([], label=""):
            if step == steps:
                break
        return found

    whole = run("whole", 6)
    run("stopped", 4)
    again = run("stopped", 6)
    for ours, theirs in zip(again.student.model.parameters(), whole.student.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    read = [
        (tmp_path / folder / "metrics.jsonl").read_text().count("rollout_tokens") for folder in ("whole", "stopped")
    ]
    assert read[0] == read[1] > 0


def test_a_share_may_change_and_costs_a_pass_of_the_student():
    share = replace(Share.of("0:0.5"), rows=100)
    assert [share.at(row) for row in (-5, 0, 50, 100, 200)] == [0, 0, 0.25, 0.5, 0.5]
    assert share.mean == 0.25
    assert Share.of("0.5").at(7) == 0.5
    price = Price(step=0.6, generated=0.3)
    assert price.ratio == pytest.approx(1 + 0.6 + 0.3 / 3)
    assert price.ratio_off_policy == pytest.approx(1.7 / 1.6)
    assert price.ratio_at(price.uses_at(1.5)) == pytest.approx(1.5)


def test_a_report_says_how_long_texts_became():
    same = {"rollouts": 10, "rollouts_ended": 9}
    rows = [same | {"rollout_tokens": 100 + 10 * step} for step in range(20)]
    said = generated_in([{}, {"rollouts": 0, "rollout_tokens": 0, "rollouts_ended": 0}, *rows])
    assert said == (
        "It generated 200 texts of 3.90 k tokens in all. In the first steps a text had 10 tokens on average and 90 % ended by "
        "themselves, in the last 28 and 90 %."
    )
    assert generated_in([{}]) == ""


@pytest.mark.long
def test_prompts_are_as_random_where_few_rows_are_generated(store):
    """Whether a row is generated says nothing of where its prompts end: these reach from none to half of a document."""
    rollouts, lengths = generating(store, share=Share(0.1, 0.1)), []
    for _ in range(60):
        batch = rollouts.take(8)
        own = batch.rows((batch.row == -1).nonzero().flatten())
        lengths += [read for _, _, read, _ in sequences(own)]
    assert max(lengths) > 0.3 * LENGTH  # of a half; one in ten of it where the same number decides both


def test_nothing_that_is_generated_is_left_out(store):
    rollouts = generating(store, temperature=1.0)
    for _ in range(5):
        batch = rollouts.take(8)
        found = rollouts.facts()
        assert found["rollouts"] >= 8
        assert batch.weight.sum() <= found["rollout_tokens"] + found["rollouts_ended"] <= batch.weight.sum() + 8


def test_a_row_without_a_document_to_continue_stays_as_it_is(store):
    row = Rows(store, length=LENGTH).rows_of(range(2))
    without = replace(row, weight=torch.stack([row.weight[0], torch.zeros(LENGTH)]))
    found, _ = Continuing(llama(seed=2, tok=tokenizer()), MOST).rows(without, np.arange(2))
    assert torch.equal(found.tokens[1], row.tokens[1])
    assert found.row.tolist() == [-1, 1]


def test_compute_that_was_used_is_that_of_rows_and_not_of_learned_tokens():
    run = {"teacher": {"price": 0.6, "passes": 1.0, "generated": 0.6}}
    arms = [("student", 10, 100), ("off-policy", 10, 300), ("off-policy@flops", 11, 330), ("cut+ce", 10, 300)]
    trained = [Trained(arm, 0, steps, steps, tokens, steps - 1, None) for arm, steps, tokens in arms]
    shares = [row[-1] for row in used_table(trained, run, CUT)]
    assert shares == ["1.00×", "0.89×", "0.98×", "0.56×"]  # 1.8, 1.6, 1.6 and 1 a step

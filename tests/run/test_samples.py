"""A model's own samples as rows: what each counts, that ranks and resumed runs sample the same, and what is told of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from limbeck.corpora.tasks.checked import Checked
from limbeck.generation.local import Continuation
from limbeck.objectives.policy import PolicyGradient
from limbeck.report.rewarded import GROWN, grows, means, through
from limbeck.run.policy import PolicyWeights, Scores, policy_loss, scores
from limbeck.run.questions import Answers, Order, Question
from limbeck.run.rewards import ChecksPassed, reward_of
from limbeck.run.run import Plan, Run
from limbeck.run.samples import Samples, Sampling
from limbeck.run.world import alone
from tests.helpers.models import frozen, llama, tokenizer

SAMPLES, MOST, BETA = 3, 6, 0.2
STOPS = [2, *range(40, 120)]  # so that random models end within a few tokens


def letters(text: str) -> tuple[bool, bool]:
    return len(text) > 0, len(text) > 4


@pytest.fixture(scope="module")
def questions():
    prompts = [(1, 50, 60), (1, 70), (1, 80, 81, 82), (1, 30, 31)]
    return [Question(f"q{i}", ids, Checked(str(i), letters, ("some", "long"), 0)) for i, ids in enumerate(prompts)]


def model(seed=2):
    made = llama(seed=seed, tok=tokenizer())
    made.model.generation_config.eos_token_id = STOPS
    return made


@pytest.fixture(scope="module")
def start():
    return frozen(model(seed=3))


def samples(questions, start, *, student=None, seed=5, **how):
    student = student or model()
    return Samples(
        student, start, questions, ChecksPassed(student.tokenizer, BETA), Sampling(SAMPLES, MOST), seed, **how
    )


def gradient(found):
    return torch.cat([p.grad.flatten() for p in found.student.model.parameters()])


def stepped(corpus, *, micro=None):
    """The gradient of one step of a run."""
    how = Plan(steps=1, rows=2 * SAMPLES, lr=0.0, max_norm=1e9, micro=micro, weight_decay=0.0)
    run = Run("unused", "test", corpus.student, corpus, corpus, PolicyGradient(), how, alone())
    corpus.student.model.train()
    kept = {}

    class Optimizer(torch.optim.SGD):
        def step(self, *given):
            kept["gradient"] = gradient(corpus)

    run._step(0, Optimizer(corpus.student.model.parameters(), lr=0.0), how.rows)
    return kept["gradient"]


def test_a_step_has_the_gradient_of_the_policy_loss(questions, start):
    corpus = samples(questions, start)
    found = stepped(corpus)
    rollouts = [[one.rollout for one in some] for some in corpus.last.judged]
    assert corpus.last.reward.std() > 0
    ended = replace(corpus.student)
    rows = [[replace(one, answer=(0,)) for one in some] for some in rollouts]  # which `scores` asks for
    ended.model.zero_grad()
    now = scores(ended, rows)
    before = scores(start, rows).sampled.detach()
    reward = corpus.last.reward.float()
    policy_loss(now, before, PolicyWeights(1, 0, BETA), reward=reward).backward()
    torch.testing.assert_close(found, gradient(corpus), rtol=1e-3, atol=1e-5)
    assert found.abs().max() > 1e-3
    torch.testing.assert_close(corpus.last.kl.float(), now.sampled.detach() - before, rtol=1e-3, atol=1e-4)


def test_a_step_does_not_depend_on_micro_batches(questions, start):
    whole, cut = (stepped(samples(questions, start), micro=micro) for micro in (6, 2))
    torch.testing.assert_close(whole, cut, rtol=1e-4, atol=1e-6)


def test_an_answer_is_learned_to_its_end_and_counts_once(questions, start):
    corpus = samples(questions, start)
    batch = corpus.take(2 * SAMPLES)
    assert batch.total == pytest.approx(2 * SAMPLES)
    for row, one in enumerate(one for some in corpus.last.judged for one in some):
        learned = batch.targets[row][batch.weight[row] > 0].tolist()
        assert learned == list(one.rollout.sampled)
        assert one.ended == (learned[-1] in STOPS)
        assert len(learned) <= MOST


def test_ranks_together_sample_what_one_process_samples(questions, start):
    whole = samples(questions, start)
    rows = whole.take(4 * SAMPLES)
    parts = [samples(questions, start, ranks=replace(alone(), rank=rank, size=2)) for rank in range(2)]
    taken = [part.take(4 * SAMPLES) for part in parts]
    assert sorted(torch.cat([one.row for one in taken]).tolist()) == rows.row.tolist()
    for name, total in whole.facts().items():
        assert sum(part.facts()[name] for part in parts) == pytest.approx(total, rel=1e-4, abs=1e-4)
    # of a micro-batch the slopes are those of its rows
    one = taken[1].rows(torch.tensor([2, 4]))
    slope, every = parts[1](one).slope.view(2, -1), whole(rows).slope.view(len(rows.row), -1)
    torch.testing.assert_close(slope.abs().amax(-1), every[one.row].abs().amax(-1), rtol=1e-3, atol=1e-4)


def test_a_stopped_training_samples_the_same_again(questions, start, tmp_path):
    def run(folder, steps):
        corpus = samples(questions, start)
        plan = Plan(steps=4, rows=2 * SAMPLES, lr=5e-3, save_every=2)
        student = corpus.student
        found = Run(
            *(tmp_path / folder, "test", student, corpus, corpus, PolicyGradient(), plan, alone()), facts=corpus.facts
        )
        for step in found.steps([], label=""):
            if step == steps:
                break
        return found

    whole = run("whole", 4)
    run("stopped", 2)
    again = run("stopped", 4)
    for ours, theirs in zip(again.student.model.parameters(), whole.student.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    ours, theirs = ((tmp_path / name / "metrics.jsonl").read_text() for name in ("stopped", "whole"))
    assert [line.split('"lr"')[0] for line in ours.splitlines()] == [
        line.split('"lr"')[0] for line in theirs.splitlines()
    ]
    assert '"reward_sum"' in ours
    assert '"groups_alike"' in ours


@pytest.mark.parametrize(
    ("text", "ended", "dense", "whole"),
    [("the cat", True, 1.0, 1.0), ("cat", True, 0.5, 0.0), ("", True, 0.0, 0.0), ("the cat", False, 0.0, 0.0)],
)
def test_an_answer_is_worth_its_checks_unless_it_was_cut_off(text, ended, dense, whole):
    tok = tokenizer()
    question = Question("q", tuple(tok("the")["input_ids"]), Checked("q", letters, ("some", "long"), 0))
    tokens = tuple(tok(text, add_special_tokens=False)["input_ids"])
    found = Continuation(tokens, 2 if ended else None)
    for setting, reward in (("checks", dense), ("checks(all=true)", whole)):
        judged = reward_of(setting, tok).judged(question, found)
        assert (judged.reward, judged.passed, judged.ended) == (reward, whole == 1.0, ended)
        assert judged.rollout.sampled[-1] == (2 if ended else found.tokens[-1] if found.tokens else 2)


def test_an_order_has_every_question_once_an_epoch(questions):
    order = Order(questions, 1)
    names = [[order.at(4 * epoch + i).name for i in range(4)] for epoch in range(6)]
    assert all(sorted(epoch) == ["q0", "q1", "q2", "q3"] for epoch in names)
    assert len({tuple(epoch) for epoch in names}) > 1
    assert Order(questions, 1).at(9).name == names[2][1]


def test_known_answers_are_learned_after_their_questions():
    asked = [Question(f"q{i}", (1, 5 + i), answer=(7, 8 + i, 2)) for i in range(3)]
    corpus = Answers(asked, 0)
    batch = corpus.take(3)
    for row in range(3):
        assert batch.targets[row][batch.weight[row] > 0].tolist()[::2] == [7, 2]
        assert batch.tokens[row, 0] == 1
    assert corpus.facts() == {"row_tokens": 15}
    again = Answers(asked, 0)
    again.load_state_dict(corpus.state_dict())
    assert torch.equal(again.take(2).tokens, corpus.take(2).tokens)


def test_answers_that_grow_to_the_limit_are_told_of():
    def row(ended, tokens):
        sums = {"reward_sum": 3.0, "passed": 2, "kl_sum": 5.0, "entropy_sum": tokens * 0.5}
        counts = {"rollouts": 10, "rollouts_ended": ended, "rollout_tokens": tokens, "groups": 2, "groups_alike": 1}
        return sums | counts

    short, long = row(9, 40), row(4, 90)
    first, last = means([short]), means([long])
    assert (first.reward, first.tokens, first.alike, first.entropy, first.kl) == (0.3, 4, 0.5, 0.5, 0.5)
    assert grows(first, last)
    assert not grows(last, first)
    assert not grows(last, last)
    notes = through([short] * 10 + [long] * 10)
    assert notes[1:] == [GROWN]
    assert "answers cut off from 10 % to 60 %" in notes[0]
    assert through([short] * 20)[1:] == []
    assert through([]) == []


def test_scores_of_no_variance_teach_nothing(start):
    """Answers of equal reward at the start leave the model as it is: their advantages are 0."""
    same = [Question("q", (1, 50), Checked("q", lambda text: (False,), ("never",), 0))]
    corpus = Samples(start, start, same, ChecksPassed(start.tokenizer, BETA), Sampling(SAMPLES, MOST), 0)
    batch = corpus.take(SAMPLES)
    assert float(corpus(batch).slope.abs().max()) < 1e-5
    assert corpus.facts()["groups_alike"] == 1
    assert np.isfinite(corpus.facts()["entropy_sum"])
    assert isinstance(corpus.last.now, Scores)


MARK = "so:"


@pytest.mark.parametrize(
    ("text", "marked", "kept", "passed", "contains"),
    [
        ("the cat so: 12", True, "the cat so:", True, False),
        ("the 12 cat so: 3", True, "the 12 cat so:", False, True),
        ("so: so: 12", True, "so:", True, False),
        ("the cat 12", False, "the cat 12", True, True),
        ("the 123", False, "the 123", False, False),
        ("", False, "", False, False),
        ("the 12.00 cat", False, "the 12.00 cat", True, True),
    ],
)
def test_a_rationale_ends_at_its_mark_and_the_known_answer_follows(text, marked, kept, passed, contains):
    tok = tokenizer()

    def ids(words: str) -> tuple[int, ...]:
        return tuple(tok(words, add_special_tokens=False)["input_ids"])

    question = Question("q", (1, *ids("the ")), None, (*ids(f"\n{MARK} 12"), 2), (*ids(" 12"), 2), "12")
    reward = reward_of(f"latent(mark={MARK},answer=0.5)", tok)
    assert reward.weights == PolicyWeights(1.0, 0.5, 0.05)
    judged = reward.judged(question, Continuation(ids(text), 2))
    assert judged.reward is None
    assert (judged.ended, judged.passed, judged.contains) == (marked, passed, contains)
    assert tok.decode(judged.rollout.sampled) == kept
    assert tok.decode(judged.rollout.answer, skip_special_tokens=True) == (" 12" if marked else f"\n{MARK} 12")
    assert judged.rollout.answer[-1] == 2
    assert not judged.cut
    assert reward.judged(question, Continuation(ids(text), None)).cut is not marked


def test_a_sampled_answer_after_the_mark_passes_in_words_too():
    tok = tokenizer()
    found = Continuation(tuple(tok("the town so: Paris", add_special_tokens=False)["input_ids"]), 2)
    question = Question("q", (1, 50), None, (60, 2), (61, 2), "paris")
    assert reward_of(f"latent(mark={MARK})", tok).judged(question, found).passed


def test_rationales_that_end_without_the_mark_are_not_cut_off():
    def row(ended, cut):
        sums = {"reward_sum": -3.0, "passed": 2, "kl_sum": 5.0, "entropy_sum": 8.0, "contain_answer": 1}
        counts = {"rollouts": 10, "rollouts_ended": ended, "rollouts_cut": cut, "rollout_tokens": 40}
        return sums | counts | {"groups": 2, "groups_alike": 1}

    notes = through([row(9, 1)] * 10 + [row(2, 1)] * 10)
    assert "answers cut off from 10 % to 10 %" in notes[0]
    assert notes[1] == "rationales without the mark went from 10 % to 80 %"
    assert GROWN not in notes
    assert GROWN in through([row(9, 1)] * 10 + [row(2, 6)] * 10)


def test_the_reward_of_a_rationale_is_the_log_probability_of_the_answer(start):
    asked = [Question(f"q{i}", (1, 50 + i), None, (60, 61, 2), (61, 2), "x") for i in range(2)]
    student = model()
    corpus = Samples(student, start, asked, reward_of("latent", student.tokenizer), Sampling(SAMPLES, MOST), 0)
    batch = corpus.take(2 * SAMPLES)
    rollouts = [[one.rollout for one in some] for some in corpus.last.judged]
    torch.testing.assert_close(
        corpus.last.reward.float(), scores(student, rollouts).answer.detach(), rtol=1e-4, atol=1e-4
    )
    slope = (corpus(batch).slope.view(len(batch.row), -1) * batch.weight).sum(-1)
    advantage = corpus.last.reward - 0.05 * corpus.last.kl
    advantage = (advantage - advantage.mean(-1, keepdim=True)) * SAMPLES / (SAMPLES - 1)
    lengths = torch.tensor([[len(one.sampled) for one in some] for some in rollouts])
    answers = torch.tensor([[len(one.answer) for one in some] for some in rollouts])
    torch.testing.assert_close(slope.double(), -(advantage * lengths + answers).flatten(), rtol=1e-3, atol=1e-3)
    assert "contain_answer" in corpus.facts()

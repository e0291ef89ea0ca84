"""The recipe open-mopd: its domains, what an update learns and how much each domain counts in it, and the criteria."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import limbeck
from limbeck.papers.lab import lines
from limbeck.papers.open_mopd import training
from limbeck.papers.open_mopd.judging import (
    judge_gaps,
    judge_naive,
    judge_on_policy,
    judge_shares,
    recovered,
)
from limbeck.papers.open_mopd.recipe import JOINT, judged, right
from limbeck.papers.open_mopd.training import (
    ALL,
    ARMS,
    CHAIN,
    DOMAINS,
    GAPS,
    NAIVE,
    ONE,
    SEPARATE,
    SHARES,
    SHARES_EACH,
    SHORT,
    SPECIALIST,
    START,
    TAUGHT,
    TUNED,
    Arm,
    Cell,
    answer_tokens,
    asked,
    held_out,
    part_loss,
    question,
    train_cell,
    weights_of,
)

CELL = Cell("start", START, 0, 3e-3, tuple(DOMAINS), (4, 1), 1, 16, 1, 2, 3, steps=1)


def test_items_are_new_the_same_for_all_arms_and_answered_as_their_domain_is():
    batch = asked(CELL, 2, 5, 4)
    assert [len(items) for items in batch] == [16, 4]
    assert batch == asked(replace(CELL, arm=NAIVE, rate=1.0), 2, 5, 4)
    assert batch != asked(CELL, 2, 6, 4)
    assert asked(replace(CELL, seed=1), 2, 5, 4) != batch
    for domain, items in zip(DOMAINS, batch, strict=True):
        test, selection = held_out(domain, CELL.length, CELL.tested)
        assert not {item.prompt for item in (*test, *selection)} & {item.prompt for item in items}
        assert all(item.kind == domain and item.passes(question(item).answer) for item in items)


def test_answers_of_a_domain_are_as_long_as_each_other_and_an_answer_may_be_longer():
    for length in (1, 4):
        cell = replace(CELL, length=length)
        for domain, items in zip(DOMAINS, asked(cell, 1, 1, 20), strict=True):
            tokens = answer_tokens(domain, length)
            assert {len(question(item).answer) + 1 for item in items} == {tokens}
            assert tokens < cell.most
        assert answer_tokens(SHORT, length) == 3 < answer_tokens(CHAIN, length)


@pytest.fixture(scope="module")
def models():
    return [lines.new_decoder(replace(CELL, seed=seed)) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def part(models):
    """Two rows of two domains, of 3 and 2 tokens to learn, judged by two teachers."""
    ended = training.Continuation((*lines.ids_of("#4"),), 0)
    cut = training.Continuation((*lines.ids_of("12"),), None)
    return training._part([["a>"], ["b1>"]], [[ended], [cut]], models[0], models[1:])


def test_each_token_is_judged_by_the_teacher_of_its_domain(models, part):
    assert part.domain.tolist() == [0, 0, 0, 1, 1]
    student, *teachers = models
    for number, teacher in enumerate(teachers):
        own = part.rows.rows(slice(number, number + 1))
        expected = teacher(own).logits(own.counted).log_softmax(-1)
        torch.testing.assert_close(part.teacher[part.domain == number], expected)
    torch.testing.assert_close(part.before, student(part.rows).logits(part.rows.counted).log_softmax(-1))


def gradient(arm, model, part, weight):
    model.model.zero_grad()
    loss = part_loss(arm, model, part, weight)
    loss.backward()
    return loss.item(), torch.cat([one.grad.flatten() for one in model.model.parameters()])


def test_losses_are_divergences_of_tokens_times_the_weight_of_their_domain(models, part):
    student, weight = models[0], torch.tensor([0.5, 1.75])
    q, p = part.before.exp(), part.teacher.exp()
    for arm, nats in (
        (Arm(), (q * (q / p).log()).sum(-1)),
        (Arm("off-policy"), (p * (p / q).log()).sum(-1)),
        (Arm("off-policy", hard=True), -q.log()[torch.arange(5), part.rows.targets[part.rows.weight > 0]]),
    ):
        expected = (0.5 * nats[:3].sum() + 1.75 * nats[3:].sum()) / 5
        assert gradient(arm, student, part, weight)[0] == pytest.approx(expected.item(), rel=1e-4)


def test_a_reward_of_the_sampling_has_the_gradient_of_the_divergence_until_the_student_moves(models, part):
    student, weight = models[0], torch.ones(2)
    stale, anew = Arm(refreshed=False), Arm()
    torch.testing.assert_close(
        gradient(stale, student, part, weight)[1], gradient(anew, student, part, weight)[1], rtol=1e-4, atol=1e-7
    )
    moved = replace(part, before=models[1](part.rows).logits(part.rows.counted).log_softmax(-1).detach())
    assert not torch.allclose(
        gradient(stale, student, moved, weight)[1], gradient(anew, student, moved, weight)[1], rtol=1e-2
    )


def test_weights_give_domains_equal_shares_of_a_batch_or_more_where_the_gap_is(part):
    tokens, plain = weights_of(Arm(), [part, part], 2)
    assert (tokens.tolist(), plain.tolist()) == ([6, 4], [1, 1])
    _, shares = weights_of(Arm(weights="shares"), [part, part], 2)
    assert shares.tolist() == pytest.approx([5 / 6, 5 / 4])
    q, p = part.before, part.teacher
    nats = (q.exp() * (q - p)).sum(-1)
    gap = np.array([nats[:3].mean().item(), nats[3:].mean().item()])
    _, gaps = weights_of(Arm(weights="gaps"), [part, part], 2)
    expected = np.array([1 / 6, 1 / 4]) * gap
    assert gaps.tolist() == pytest.approx(expected / (expected @ [0.6, 0.4]), rel=1e-4)
    assert (gaps * tokens).sum() == pytest.approx(10)


def test_the_factor_of_the_gap_is_clipped(part):
    near = replace(part, teacher=torch.where((part.domain == 0)[:, None], part.before, part.teacher))
    _, weights = weights_of(Arm(weights="gaps"), [near], 2)
    by_shares = np.array([1 / 3, 1 / 2])
    mean = by_shares[1] / by_shares.sum()  # of the gaps 0 and 1
    expected = by_shares * [0.05, 1 / mean]
    assert weights.tolist() == pytest.approx(expected / (expected @ [0.6, 0.4]), rel=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nets")
    train_cell(CELL, "cpu", folder=folder)
    for domain in DOMAINS:
        own = replace(CELL, name=domain, arm=SPECIALIST, domains=(domain,), rows=(2,), start="start")
        train_cell(own, "cpu", folder=folder)
    return folder


@pytest.fixture(autouse=True)
def few_selected(monkeypatch):
    monkeypatch.setattr(training, "_SELECTION", 2)


@pytest.mark.parametrize("arm", [ALL, ONE, TAUGHT])
def test_a_distillation_ends_with_its_tokens_and_off_policy_with_the_flops_of_on_policy_too(folder, arm):
    cell = replace(CELL, name="d", arm=arm, start="start", teachers=tuple(DOMAINS), tokens=150, rate=1e-2)
    found = train_cell(cell, "cpu", folder=folder)
    marks = [150, 150 * 10 / 8] if arm == TAUGHT else [150]  # 6 N + 2 M + 2 N to 6 N + 2 M, of models of one size
    most = 5 * (CELL.most + 1)  # of one update
    assert len(found["tokens"]) == len(found["right"]) == len(marks)
    assert all(mark <= tokens < mark + most for mark, tokens in zip(marks, found["tokens"], strict=True))
    assert [len(right) for right in found["right"]] == [6] * len(marks)
    assert sum(found["shares"].values()) == pytest.approx(1)
    if arm == ALL:
        assert found == train_cell(cell, "cpu", folder=folder)


def answers(share, *, use=0, seeds=3, items=900):
    """Right answers to items; a larger share has those of a smaller one of the same use too."""
    return (np.random.default_rng(use).random((seeds, items)) < share).astype(float)


def test_the_recovered_share_is_that_of_the_headroom_and_refused_without_one():
    start, ceiling = answers(0.2), answers(0.8)
    found = recovered(answers(0.5), start, start, ceiling)
    assert found.value == pytest.approx(
        (answers(0.5).mean() - start.mean()) / (ceiling.mean() - start.mean()), abs=0.01
    )
    assert found.low < found.value < found.high
    assert np.isnan(recovered(answers(0.5), start, start, answers(0.2, use=1)).low)


@pytest.mark.parametrize(
    ("naive", "separate", "ceiling", "verdict"),
    [
        (0.4, 0.6, 0.8, "confirmed"),
        (0.6, 0.62, 0.8, "refuted"),  # a thirtieth of the headroom, of the paper's half
        (0.4, 0.6, 0.2, "inconclusive"),  # no headroom
    ],
)
def test_routing_is_judged_by_what_it_leaves_and_separate_students_recover(naive, separate, ceiling, verdict):
    use = 1 if ceiling == 0.2 else 0  # as often right as the start, and not on the same items
    judged = judge_naive(answers(naive), answers(separate, use=1), answers(0.2), answers(ceiling, use=use))
    assert judged.verdict == verdict
    assert ("routing alone recovered 0.3" in judged.seen) == (verdict == "confirmed")


def test_weights_must_recover_more_and_serve_the_short_answers():
    start, ceiling = answers(0.2), answers(0.8)
    gained, none = answers(0.3, items=300), answers(0.3, items=300) - answers(0.3, use=1, items=300)
    more, less = answers(0.6), answers(0.4)
    assert judge_shares(more, less, start, ceiling, gained).verdict == "confirmed"
    assert judge_shares(more, less, start, ceiling, none).verdict == "inconclusive"
    assert judge_shares(less, more, start, ceiling, gained).verdict == "refuted"
    assert judge_gaps(answers(0.6), answers(0.595), start, ceiling).verdict in ("refuted", "confirmed")
    assert judge_gaps(more, answers(0.6, use=1), start, ceiling).verdict == "inconclusive"
    assert judge_gaps(more, less, start, start).verdict == "inconclusive"


def test_own_answers_must_teach_more_than_each_of_four():
    on, off = answers(0.7), answers(0.5)
    assert judge_on_policy(on, (off, off), (off, off)).verdict == "confirmed"
    assert judge_on_policy(on, (off, off), (off, answers(0.7, use=1))).verdict == "inconclusive"
    assert judge_on_policy(off, (on, off), (off, off)).verdict == "refuted"


def test_each_domain_of_the_ceiling_is_answered_by_its_own_specialist_and_flops_are_those_of_the_later_mark():
    shares = {NAIVE: 0.3, SHARES: 0.5, GAPS: 0.6, ALL: 0.75, SHARES_EACH: 0.7, TAUGHT: 0.4, TUNED: 0.4}

    def of(share, marks=1):
        more = [answers(share + 0.1 * mark) for mark in range(marks)]
        return [{"failed": False, "right": [one[seed].tolist() for one in more]} for seed in range(3)]

    found = {START: of(0.1)} | {name: of(shares.get(name, 0.2), 2 if name in (TAUGHT, TUNED) else 1) for name in JOINT}
    for name, own in ((SPECIALIST, 0.8), (SEPARATE, 0.78)):
        for number, domain in enumerate(DOMAINS):
            part = answers(own)[:, 450 * number : 450 * (number + 1)]
            found[f"{name} {domain}"] = [{"failed": False, "right": [row.tolist()]} for row in part]
    assert right(found, SPECIALIST).shape == (3, 900)
    assert right(found, SPECIALIST).mean() == pytest.approx(0.8, abs=0.03)
    assert right(found, TAUGHT, -1).mean() == pytest.approx(0.5, abs=0.03)
    results = judged(found)
    assert [one.verdict for one in results] == ["confirmed"] * 7
    assert "these at equal FLOPs +20" in results[6].seen or "these at equal FLOPs +19" in results[6].seen


@pytest.mark.recipe
def test_the_recipe_runs_and_continues(tmp_path):
    keys = {"scale": "smoke", "out": tmp_path / "out", "seeds": 1, "workers": 1}
    first = limbeck.reproduce("open-mopd", **keys)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("result.json")}
    assert len(files) == 1 + 2 * len(DOMAINS) + len(ARMS) - 1
    assert len(first.judged) == 7
    again = limbeck.reproduce("open-mopd", **keys)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert again.judged == first.judged
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"tokens: {CHAIN}, {SHORT}" in page

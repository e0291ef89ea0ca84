"""On-policy distillation from a teacher on a server: what it says of generated rows, and a whole run beside a teacher here."""

import json
from dataclasses import replace

import pytest
import torch

import limbeck
from limbeck.corpora import Rows, build_stores
from limbeck.disk import read_lines
from limbeck.errors import BadServer, BadSetting
from limbeck.generation.rollouts import RolloutPlan, Rollouts, Share
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.objectives import ReverseKL, fused_nats
from limbeck.report.rollouts import generated_in
from limbeck.run.served_rollouts import ServedLink, ServedRollouts
from limbeck.teachers.remote.http import Address, RetryPolicy
from limbeck.teachers.remote.served import connect
from limbeck.types import Sparse
from tests.helpers.models import frozen, llama, write_corpus, write_teacher
from tests.helpers.served import serving

LENGTH, K = 32, 6
HASTY = RetryPolicy(tries=3, limit=0.5, first=0.01, longest=0.05)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    write_teacher(folder)
    write_corpus(folder)
    save(llama(layers=1, hidden=32, seed=3), folder / "student")
    return folder


def top_k(model, batch, k):
    """The k largest probabilities by a model here, as a server gives them."""
    log_p = model(batch).logits().log_softmax(-1)
    found = log_p.topk(k)
    rest = torch.log1p(-found.values.exp().sum(-1)).clamp(max=0)
    return Sparse(found.indices, found.values, found.values.exp(), model.vocab, rest)


class Captured:
    """In the place of captured logits, with fewer outcomes than the server gives."""

    name, vocab = "t", 0

    def __init__(self, model):
        self.model, self.vocab, self.asked = model, model.vocab, 0

    def __call__(self, batch):
        assert (batch.row >= 0).all()
        self.asked += len(batch.tokens)
        return top_k(self.model, batch, K - 2)


def rollouts_of(here, model, student, share):
    store, _ = build_stores(str(here / "text.jsonl"), model.tokenizer, here / f"data{share}", fraction=0.2)
    plan = RolloutPlan(Share(share, share), 8).over(0, 100)
    return Rollouts(Rows(store, length=LENGTH, seed=1), student, plan)


@pytest.mark.parametrize("share", [0.5, 1.0, 0.0])
def test_generated_rows_are_judged_by_the_server_and_others_as_captured(here, share):
    model, student = frozen(load(here / "teacher")), load(here / "student", train=True)
    plain = rollouts_of(here, model, student, share)
    with serving(model) as server:
        link = ServedLink(lambda: connect(Address.of(server.url), model.tokenizer, k=K, length=LENGTH, retry=HASTY))
        corpus = ServedRollouts(rollouts_of(here, model, student, share), Captured(model), link)
        for _ in range(3):
            batch, expected = corpus.take(8), plain.take(8)
            own = batch.row < 0
            assert int(own.sum()) == plain.generated == corpus.rollouts.generated
            assert torch.equal(batch.tokens, expected.tokens)
            assert torch.equal(batch.weight, expected.weight)
            for rows in (batch, batch.rows(torch.tensor([5, 2, 7, 0])), batch.rows(slice(3, 4))):
                signal, counted = corpus(rows), rows.counted
                signal.require_known(counted)
                k = torch.where(rows.row < 0, K, K - 2).repeat_interleave(LENGTH)
                for position in counted.tolist():
                    here_k = int(k[position])
                    right = top_k(model, rows, here_k).part(torch.tensor([position]))
                    got = signal.part(torch.tensor([position]))
                    assert (got.weight > 0).sum() == here_k
                    assert set(got.ids[0].tolist()) == set(right.ids[0].tolist())
                    torch.testing.assert_close(got.weight.sort().values[0, -here_k:], right.weight.sort().values[0])
                    torch.testing.assert_close(got.rest, right.rest, rtol=1e-4, atol=1e-4)
            assert fused_nats(ReverseKL(), student(batch), corpus(batch), batch).isfinite().all()
        link.close()
        assert bool(server.queries) == (share > 0)


def test_positions_without_a_valid_response_do_not_count(here):
    model, student = frozen(load(here / "teacher")), load(here / "student", train=True)
    rollouts = rollouts_of(here, model, student, 1.0)
    missing = []

    def ask(batch):
        found = top_k(model, batch, K)
        lost = torch.zeros(len(found.ids), dtype=torch.bool)
        lost[batch.counted[:3]] = True
        missing.append(batch.counted[:3])
        weight = found.weight.masked_fill(lost[:, None], 0.0)
        return replace(found, weight=weight, rest=found.rest.masked_fill(lost, -torch.inf))

    corpus = ServedRollouts(rollouts, Captured(model), ask)
    batch = corpus.take(4)
    assert (batch.weight.flatten()[missing[0]] == 0).all()
    assert corpus.facts()["unanswered"] == 3
    row = {"rollouts": 2, "rollout_tokens": 9, "rollouts_ended": 1}
    assert "Of 3 of these tokens the server gave no distribution" in generated_in([row, row | {"unanswered": 3}])
    assert "server" not in generated_in([row, row | {"unanswered": 0}])
    assert batch.weight.sum() > 0


def distil(here, out, **keys):
    usual = {"student": str(here / "student"), "data": str(here / "text.jsonl"), "tokens": "1k", "length": LENGTH}
    usual |= {"batch_tokens": 128, "objective": "ReverseKL", "rollouts": 0.5, "rollout_tokens": 8, "threads": 1}
    return limbeck.distil(**(usual | {"baselines": "off-policy,off-policy@flops", "out": out} | keys))


@pytest.fixture(scope="module")
def flat(here):
    """A teacher that is nearly uniform: no worse a model of the text than a guess."""
    model = frozen(load(here / "teacher"))
    model.model.model.norm.weight.data *= 0.2
    save(model, here / "flat")
    return model


def test_a_server_judges_what_a_student_writes(here, flat, tmp_path):
    with serving(flat) as server:
        keys = {"teacher": server.url, "tokenizer": str(here / "flat")}
        distil(here, tmp_path / "served", **keys)
        before = server.queries.total()
        distil(here, tmp_path / "served", **keys)  # all is done
        assert server.queries.total() == before
    distil(here, tmp_path / "here", teacher=str(here / "flat"), any_teacher=True, baselines="none")
    served, own = (read_lines(tmp_path / name / "metrics.jsonl") for name in ("served", "here"))
    assert served[0]["rollouts"] == own[0]["rollouts"] > 0
    # of the same rows in the first step: over fewer outcomes a divergence is smaller
    assert 0 < served[0]["loss_nats"] < own[0]["loss_nats"]
    run = json.loads((tmp_path / "served" / "run.json").read_text(encoding="utf-8"))
    # the text once, and half of the rows besides, which the baseline on the text alone does not pay
    about = run["teacher"]
    assert (about["passes"], about["judged"]) == (pytest.approx(1.0, abs=0.1), 0.5)
    steps = {arm["name"]: arm["steps"] for arm in run["plan"]["arms"]}
    off = 1 + about["price"] * about["passes"]
    on = off + 0.5 * about["price"] + 0.5 / 3
    assert steps["off-policy@flops"] == round(steps["student"] * on / off)
    page = (tmp_path / "served" / "report.html").read_text(encoding="utf-8")
    assert "It generated " in page
    assert "On texts that each model generates itself" not in page  # which needs the teacher's weights


def test_a_server_that_fails_in_a_training_ends_it_with_its_reason(here, flat, tmp_path, monkeypatch):
    monkeypatch.setattr("limbeck.jobs.distil.rollouts.RetryPolicy", lambda limit: HASTY)
    with serving(flat) as server:
        keys = {"teacher": server.url, "tokenizer": str(here / "flat"), "baselines": "none"}
        ask = ServedLink.__call__

        def failing(self, batch):
            server.faults = {"broken": 1.0} if self._teacher else {}  # once it is connected
            return ask(self, batch)

        monkeypatch.setattr(ServedLink, "__call__", failing)
        with pytest.raises(BadServer, match=r"continues from its last checkpoint: .*run the same command again"):
            distil(here, tmp_path / "run", **keys)
        monkeypatch.setattr(ServedLink, "__call__", ask)
        server.faults = {}
        distil(here, tmp_path / "run", **keys)


def test_captured_logits_are_those_of_another_text(here, tmp_path):
    limbeck.capture(
        teacher=str(here / "teacher"),
        data=str(here / "text.jsonl"),
        length=LENGTH,
        tokens="1k",
        threads=1,
        kind="coarse",
        out=tmp_path / "c",
    )
    with pytest.raises(BadSetting, match="captured on another text: give the model itself as --teacher, or its server"):
        distil(here, tmp_path / "run", teacher=str(tmp_path / "c"), data=None)

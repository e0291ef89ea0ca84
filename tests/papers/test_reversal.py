"""The recipe reversal: what its models score is what they are trained for, and each verdict is reached from made-up numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import limbeck
from limbeck.corpora.tasks.reversal import Reversal, reversed_facts
from limbeck.errors import BadFolder, BadSetting
from limbeck.papers.reversal import facts
from limbeck.papers.reversal import recipe as reversal
from limbeck.papers.reversal.facts import KINDS, Cell, by_luck, questions_of, reciprocal_ranks, train
from limbeck.papers.reversal.recipe import SCALES, Scale
from tests.helpers.reproduced import KEYS, reproduced_twice

CELL = Cell("tiny", "concept", 12, 1, 2, 8, 12, 16, 1e-2, 0.1, 0, 6)


def learner(kind, **changes):
    """A model as a training starts it, with embeddings that are not near 0, so that its scores differ."""
    cell = replace(CELL, kind=kind, **changes)
    torch.manual_seed(0)
    model = KINDS[kind](cell, cell.world)
    for part in model.modules():
        if isinstance(part, torch.nn.Embedding):
            torch.nn.init.normal_(part.weight)
    return model, cell.world


# Models


@pytest.mark.parametrize("kind", ["concept", "name"])
def test_the_likelihood_of_a_thing_is_that_of_its_tokens(kind):
    model, world = learner(kind)
    told = world.training_facts[:4]
    scores = model.scores(told)
    assert scores.shape == (4, world.things)
    for tail in range(world.things):
        facts_ = told.copy()
        facts_[:, 2] = tail
        tokens = world.spelling.shape[1]  # the loss is a mean over them
        for row in range(4):
            nats = tokens * model.loss(facts_[row : row + 1]).item()
            assert scores[row, tail].item() == pytest.approx(-nats, abs=1e-4)


@pytest.mark.parametrize("kind", ["layers", "table"])
def test_vectors_are_trained_among_the_things_of_a_batch_each_once(kind):
    model, world = learner(kind)
    told = world.training_facts[[0, 0, 1]]  # one fact twice
    things = np.unique(told[:, [0, 2]])
    scores = model.scores(told)[:, things]
    right = torch.from_numpy(np.searchsorted(things, told[:, 2]))
    assert model.loss(told).item() == pytest.approx(F.cross_entropy(scores, right).item(), abs=1e-5)


def test_the_vector_of_a_name_is_read_from_both_names():
    model, world = learner("layers")
    spelling = world.spelling
    sharing = (spelling[:, 0] == spelling[0, 0]).nonzero()[0]
    vectors = model.recognise(torch.from_numpy(sharing))
    assert not torch.allclose(vectors[0], vectors[1])


def test_a_table_has_a_slot_for_each_name():
    cell = replace(CELL, kind="table", entities=600, shared=5, width=32)
    torch.manual_seed(0)
    table = facts.NameTable(cell, cell.world)
    things = torch.arange(cell.world.things)
    assert torch.equal(table(things), table.values.weight)
    assert [name for name, _ in table.named_parameters()] == ["values.weight"]


# Facts


def test_test_facts_are_not_in_training():
    world = Reversal(entities=40, relations=2, world=3)
    questions = questions_of(world, 10)
    told = {tuple(fact) for fact in world.training_facts.tolist()}
    assert len(questions["asked"]) == len(questions["told"]) == 10
    assert all(tuple(fact) in told for fact in questions["told"].tolist())
    assert not any(tuple(fact) in told for fact in questions["asked"].tolist())
    assert np.array_equal(reversed_facts(questions["told"]), questions["asked"])


def test_chance_is_a_guess_among_what_training_facts_leave_open():
    world = Reversal(entities=100, relations=2, world=3)
    questions = questions_of(world, 10_000)["asked"]
    expected = []
    for head, relation, tail in questions.tolist():
        one_way = range(world.entities, world.things)
        answers = {fact[2] for fact in world.training_facts.tolist() if fact[1] == relation}
        answerers = {fact[0] for fact in world.training_facts.tolist() if fact[1] == relation ^ 1}
        still = [thing for thing in one_way if thing not in answers and thing in answerers]
        assert tail in still
        assert head not in still
        expected.append(1 / len(still))
    luck = by_luck(world, questions)
    assert luck["hits"] == pytest.approx(np.mean(expected))
    assert luck["mrr"] > luck["hits"] > 1 / world.things
    assert luck["mrr"] > luck["mrr_of_all"]


# Training


@pytest.mark.parametrize("kind", KINDS)
def test_training_facts_are_learned(kind):
    result = train(replace(CELL, kind=kind, width=16, steps=60, rows=32, rate=3e-2), "cpu")
    assert np.mean(result["told"]) > 0.8
    assert len(result["curve"]) == facts.LOOKS
    assert result["curve"][-1]["step"] == result["steps"] == 60


def test_the_rate_rises_stays_and_falls():
    factors = [facts._factor(step / 100) for step in range(1, 101)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert set(factors[5:79]) == {1.0}
    assert factors[89] == pytest.approx(0.5)
    assert factors[-1] == pytest.approx(0)


def test_the_same_cell_ends_with_the_same_bits():
    assert train(CELL, "cpu") == train(CELL, "cpu")
    assert train(CELL, "cpu") != train(replace(CELL, seed=1), "cpu")


def test_reversals_in_training_are_learned():
    result = train(replace(CELL, width=16, steps=60, rows=32, rate=3e-2, repeated=True), "cpu")
    assert np.mean(result["asked"]) > 0.8


def test_a_loss_that_is_no_number_ends_a_training():
    result = train(replace(CELL, rate=1e30), "cpu")
    assert result["failed"]
    assert result["steps"] < CELL.steps


def test_equal_scores_share_their_rank():
    class Same(facts.Learner):
        def scores(self, questions):
            return torch.zeros(len(questions), 9)

    assert reciprocal_ranks(Same(), CELL.world.training_facts[:2]) == pytest.approx(1 / 5)


# The whole

TINY = Scale(12, 1, 2, 8, 4, 2, 8, 6, ((1e-2, 0.1), (1e-3, 0.1)))


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reversal")
    lost = "trainings/cells/layers-seed1/result.json"
    return reproduced_twice("reversal", folder / "out", scales=SCALES, tiny=TINY, lost=lost)


@pytest.mark.long
def test_a_page_has_claims_criteria_and_cost(twice):
    first, _, _, out = twice
    page = (out / "README.md").read_text()
    assert page.count("Confirmed: ") == len(first["judged"]) == 4
    assert "**Cost.** " in page
    assert (out / "reversal.png").stat().st_size > 0
    assert all(one["verdict"] == "inconclusive" for one in first["judged"])
    assert all("n = 4 facts, 2 seeds" in one["seen"] for one in first["judged"])


@pytest.mark.long
def test_a_lost_cell_alone_is_trained_again(twice):
    first, again, kept, _ = twice
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert len(kept) == 4 * 2 + 4 * 2 + 1 - 1  # tuning, kinds and seeds, the control
    assert again == first


@pytest.mark.long
def test_numbers_have_every_kind_and_seed(twice):
    numbers = twice[0]["numbers"]
    assert set(numbers["kinds"]) == set(numbers["settings"]) == set(KINDS)
    assert all(len(kind["seeds"]) == 2 for kind in numbers["kinds"].values())
    assert {"asked_mrr", "told_mrr", "asked_hits", "told_hits"} < set(numbers["kinds"]["name"])


@pytest.mark.long
def test_trainings_of_another_version_are_refused(twice):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCALES, "smoke", replace(TINY, width=10))
        with pytest.raises(BadFolder, match="made by another version"):
            limbeck.reproduce("reversal", out=twice[3], **KEYS)


def test_text_is_refused(tmp_path):
    with pytest.raises(BadSetting, match="reversal draws facts of its own"):
        limbeck.reproduce("reversal", scale="smoke", data="x.txt", out=tmp_path / "out")


@pytest.mark.parametrize("name", SCALES)
def test_scales_can_be_drawn(name):
    scale = SCALES[name]
    for kind in KINDS:
        world = reversal._cell(scale, kind, scale.settings[0], 0).world
        assert world.vocab > 2 * scale.relations


@pytest.mark.recipe
def test_the_smoke_scale_runs_and_continues(tmp_path):
    keys = {"scale": "smoke", "workers": 1, "device": "cpu", "out": tmp_path / "out"}
    first = limbeck.reproduce("reversal", **keys)
    assert all(one["seen"].startswith("this scale only checks") for one in first["judged"])
    assert limbeck.reproduce("reversal", **keys) == first


# Judging


def test_settings_are_chosen_among_those_that_fit_training_facts():
    fast, slow, other = (1e-2, 2.0), (3e-3, 0.1), (1e-3, 0.1)
    assert reversal.chosen({fast: (0.5, 0.4), slow: (0.95, 0.1), other: (0.99, 0.2)}) == other
    assert reversal.chosen({fast: (0.5, 0.4), slow: (0.8, 0.1)}) == slow


def test_diverged_trainings_are_reported_and_decide_nothing_if_all_of_a_kind_did():
    one = {"told": [1.0] * 40, "asked": [0.8] * 40, "failed": False}
    lost = one | {"failed": True}
    results = {kind: [one, one, lost] for kind in KINDS} | {"layers": [lost] * 3}
    judged = reversal.judge(reversal.Found(TINY, {}, results, one, 0.0), CHANCE)
    told = ["a token a thing 1 of 3", "names, tokens said 1 of 3, a token a thing 1 of 3"]
    assert all(
        f"by the weights before that: {said}." in found.seen for said, found in zip(told, judged[:2], strict=True)
    )
    assert [found.verdict for found in judged] == ["confirmed", "inconclusive", "inconclusive", "inconclusive"]
    assert all("names, vectors, by a layer 3 of 3" in found.seen for found in judged[2:])
    assert all("diverged" in found.criterion for found in judged)


def ranks(value, *, spread=0.0, seeds=3, n=300):
    """Reciprocal ranks, 1 or 0.02, in the mean about the value; seeds apart by the spread."""
    generator = np.random.default_rng(0)
    shares = [np.clip((value + spread * (seed - 1) - 0.02) / 0.98, 0, 1) for seed in range(seeds)]
    return np.stack([np.where(generator.random(n) < share, 1.0, 0.02) for share in shares])


TOLD, UNTOLD, CHANCE = ranks(1.0), ranks(0.5), 0.05


@pytest.mark.parametrize(
    ("told", "asked", "verdict"),
    [
        (TOLD, ranks(0.8), "confirmed"),
        (TOLD, ranks(0.5, spread=0.1), "inconclusive"),
        (TOLD, ranks(0.2), "inconclusive"),
        (TOLD, ranks(0.03), "refuted"),
        (UNTOLD, ranks(0.03), "inconclusive"),
    ],
)
def test_concepts_are_judged_where_facts_were_learned(told, asked, verdict):
    found = reversal.judge_concepts(told, asked, CHANCE)
    assert found.verdict == verdict
    assert "chance 0.050; n = 300 facts, 3 seeds" in found.seen


@pytest.mark.parametrize(
    ("told", "asked", "concepts", "control", "verdict"),
    [
        (TOLD, ranks(0.03), ranks(0.8), ranks(1.0, seeds=1), "confirmed"),
        (TOLD, ranks(0.03), ranks(0.03), ranks(1.0, seeds=1), "inconclusive"),  # nothing to lose
        (TOLD, ranks(0.4), ranks(0.8), ranks(1.0, seeds=1), "inconclusive"),
        (TOLD, ranks(0.8), ranks(0.5), ranks(1.0, seeds=1), "refuted"),
        (TOLD, ranks(0.8), ranks(0.8), ranks(1.0, seeds=1), "inconclusive"),  # not above
        (TOLD, ranks(0.03), ranks(0.8), ranks(0.4, seeds=1), "inconclusive"),  # cannot even be told
        (UNTOLD, ranks(0.03), ranks(0.8), ranks(1.0, seeds=1), "inconclusive"),
    ],
)
def test_names_are_judged_beside_concepts_and_their_control(told, asked, concepts, control, verdict):
    assert reversal.judge_names(told, asked, concepts, control, CHANCE).verdict == verdict


def test_names_that_may_lie_on_either_side_of_one_token_a_thing_refute_nothing():
    asked, concepts = ranks(0.651, spread=0.1), ranks(0.724)
    lost = reversal.difference(concepts, asked)
    assert lost.low < 0 < lost.value < lost.high
    assert reversal.mean(asked).low > CHANCE + reversal.GUESSED
    assert reversal.judge_names(TOLD, asked, concepts, ranks(1.0, seeds=1), CHANCE).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("told", "asked", "names", "verdict"),
    [
        (TOLD, ranks(0.4), ranks(0.03), "confirmed"),
        (TOLD, ranks(0.4), ranks(0.4), "refuted"),
        (TOLD, ranks(0.02), ranks(0.02), "refuted"),
        (TOLD, ranks(0.4, spread=0.2), ranks(0.3), "inconclusive"),
        (UNTOLD, ranks(0.4), ranks(0.03), "inconclusive"),
    ],
)
def test_vectors_are_judged_beside_tokens(told, asked, names, verdict):
    assert reversal.judge_vectors(told, asked, names, CHANCE).verdict == verdict


@pytest.mark.parametrize(
    ("told", "asked", "layers", "verdict"),
    [
        (TOLD, ranks(0.7), ranks(0.4), "confirmed"),
        (TOLD, ranks(0.4), ranks(0.7), "refuted"),
        (TOLD, ranks(0.4, spread=0.2), ranks(0.3), "inconclusive"),
        (UNTOLD, ranks(0.7), ranks(0.4), "inconclusive"),
    ],
)
def test_a_table_is_judged_beside_the_layer(told, asked, layers, verdict):
    assert reversal.judge_table(told, asked, layers).verdict == verdict


def test_intervals_of_shares_stay_between_0_and_1():
    found = reversal.mean(ranks(0.01, spread=0.01))
    assert 0 <= found.low <= found.value <= found.high <= 1

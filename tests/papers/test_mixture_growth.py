"""The recipe mixture-growth: steps at equal cost, each verdict, averages of nets, and a tiny run."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import limbeck
from limbeck.papers.lab.from_teacher import by_document
from limbeck.papers.mixture_growth.arms import GROWN
from limbeck.papers.mixture_growth.judging import judge_average, judge_flops, judge_mixtures, judge_tokens
from limbeck.papers.mixture_growth.recipe import SCALES
from limbeck.papers.mixture_growth.schedule import FLOPS, TOKENS, Plan
from limbeck.papers.mixture_growth.training import documents_of
from tests.helpers.zoo import animal, packed


def losses(level: float) -> np.ndarray:
    """Made-up losses of 40 documents of 100 tokens, (seeds, documents, 2)."""
    noise = np.random.default_rng(0).normal(0, 0.002, size=(3, 40))
    return np.stack([100 * (level + noise), np.full((3, 40), 100.0)], -1)


@pytest.mark.parametrize(
    ("mixed", "verdict"), [(2.95, "confirmed"), (2.995, "inconclusive"), (3.0, "refuted"), (3.1, "refuted")]
)
def test_mixtures_are_judged_against_zeros(mixed, verdict):
    assert judge_mixtures(losses(3.0), losses(mixed), "orthogonal").verdict == verdict


def test_the_model_from_two_seeds_is_judged_against_each_control():
    mixed = losses(3.0)
    assert judge_flops(mixed, {"a": losses(3.1), "b": losses(3.2)}).verdict == "confirmed"
    assert judge_flops(mixed, {"a": losses(3.1), "b": losses(2.8)}).verdict == "refuted"
    assert judge_tokens(mixed, {"a": losses(2.97), "b": losses(3.2)}).verdict == "confirmed"
    assert judge_tokens(mixed, {"a": losses(2.9), "b": losses(3.2)}).verdict == "refuted"
    assert judge_average(mixed, losses(3.1)).verdict == "confirmed"
    assert judge_average(mixed, losses(2.9)).verdict == "refuted"


def test_arms_without_growth_have_the_steps_of_equal_cost():
    scale = SCALES["small"]
    small, wide = 1.0, 3.6
    plan = Plan.of(scale, small, wide)
    whole = 2 * scale.before * small + scale.after * wide
    assert 0 <= whole - plan.scratch[FLOPS] * wide < wide
    assert 0 <= whole - 2 * (scale.before + plan.continued[FLOPS]) * small < 2 * small
    tokens = 2 * scale.before + scale.after
    assert plan.scratch[TOKENS] == tokens == 2 * (scale.before + plan.continued[TOKENS])


def test_two_nets_are_averaged_by_their_log_probabilities():
    first, second, batch = animal("llama"), animal("llama", seed=1), packed()
    found = documents_of([first, second], [batch], 2)
    both = (first(batch).logits().log_softmax(-1) + second(batch).logits().log_softmax(-1)) / 2
    nats = F.cross_entropy(both, batch.targets.flatten(), reduction="none") * batch.weight.flatten()
    document = batch.document.flatten()
    expected = torch.stack([nats[document == number].sum() for number in range(2)])
    torch.testing.assert_close(torch.tensor(found[0]).float(), expected)
    np.testing.assert_allclose(documents_of([first], [batch], 2), by_document(first, [batch], 2), rtol=1e-6)


@pytest.mark.recipe
def test_the_recipe_runs_and_continues(tmp_path):
    keys = {"scale": "smoke", "out": tmp_path / "out", "seeds": 2, "workers": 1}
    first = limbeck.reproduce("mixture-growth", **keys)
    assert len(first.judged) == 4
    assert {one["verdict"] for one in first.judged} == {"inconclusive"}
    arms = {one["arm"]: one for one in first["numbers"]["arms"]}
    assert set(GROWN) < set(arms)
    flops = [arms[name]["forward_flops"] for name in ("zeros", "from random weights, equal FLOPs")]
    assert flops[1] <= flops[0]
    assert (
        arms["widened"]["parameters"] == arms["orthogonal"]["parameters"] > arms["average of the seeds"]["parameters"]
    )
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("result.json")}
    again = limbeck.reproduce("mixture-growth", **keys)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert again.judged == first.judged

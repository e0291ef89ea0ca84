"""The verdict of a tuning by a reward: what is decided from three seeds on, and what it says of each outcome."""

import numpy as np
import pytest

from limbeck.probes.rewarded import Rewarded, gained, rewarded
from limbeck.report.rewarded import rewarded_rows, rewarded_verdict

PROMPTS, SAMPLES = 40, 4


def measured(share: float, seed: int = 0, prompts: int = PROMPTS) -> Rewarded:
    """A model whose answers pass with a probability."""
    random = np.random.default_rng(seed)
    passed, greedy = random.binomial(SAMPLES, share, prompts), random.binomial(1, share, prompts)
    one = np.ones(prompts)
    return Rewarded(
        samples=SAMPLES * one,
        reward=passed.astype(float),
        passed=passed.astype(float),
        tokens=SAMPLES * 5 * one,
        unfinished=0 * one,
        entropy=SAMPLES * 2 * one,
        kl=SAMPLES * 0.5 * one,
        greedy_reward=greedy.astype(float),
        greedy_passed=greedy.astype(float),
    )


def verdict(before: float, after: float, answers: float, *, seeds: int = 3, reward: str = "checks"):
    arms = {"cut": [measured(before)], "student": [measured(after, 10 + seed) for seed in range(seeds)]}
    arms["answers"] = [measured(answers, 20 + seed) for seed in range(seeds)]
    plan = {"flops": {"student": 6.0, "answers": 1.0}, "rates": {"student": 1e-4, "answers": 1e-3}}
    return rewarded_verdict(arms, [], reward=reward, plan=plan)


def test_what_is_better_is_said_from_three_seeds_on():
    found = verdict(0.2, 0.8, 0.3)
    assert found.outcome == "better"
    assert "above what it was before tuning" in found.text
    assert {one.name: one.outcome for one in found.differences} == {
        "student - cut": "better",
        "greedy student - cut": "better",
        "student - answers": "better",
        "greedy student - answers": "better",
    }
    assert any("cross-entropy on known answers 0.17 times" in note for note in found.notes)
    one = verdict(0.2, 0.8, 0.3, seeds=1)
    assert one.outcome == "undecided"
    assert "one training each, not decided" in one.text


def test_what_is_worse_or_open_is_said_as_plainly():
    found = verdict(0.2, 0.8, 0.95)
    assert any("below that of cross-entropy on as many known answers" in note for note in found.notes)
    same = verdict(0.5, 0.5, 0.5)
    assert "no clear difference from what it was before tuning" in same.text


@pytest.mark.parametrize("prompts", [1, 2])
def test_so_few_prompts_have_values_and_no_interval(prompts):
    arms = {"cut": [measured(0.2, 0, prompts)], "student": [measured(0.8, 1, prompts)]}
    found = rewarded_verdict(arms, [], reward="checks", plan={"flops": {"student": 6.0}, "rates": {"student": 1e-4}})
    assert "nan" not in " ".join([found.text, *found.notes])
    assert "%" in found.text


def test_a_reward_that_counts_a_mark_is_not_compared_with_answers_that_have_none():
    found = verdict(0.2, 0.8, 0.3, reward="latent(mark=So:)")
    assert [one.name for one in found.differences] == [
        "student - cut",
        "greedy student - cut",
        "greedy student - answers",
    ]
    assert sum("cross-entropy on as many known answers" in note for note in found.notes) == 1
    assert (
        sum("rewards are not compared with cross-entropy on known answers" in note.lower() for note in found.notes) == 1
    )


def test_readings_are_means_over_prompts():
    runs = [measured(0.5, seed) for seed in range(2)]
    found = {one.name: one for one in rewarded("student", runs)}
    assert found["reward"].value == pytest.approx(np.mean([run.reward.sum() for run in runs]) / (SAMPLES * PROMPTS))
    assert found["reward"].low < found["reward"].value < found["reward"].high
    values = [found[name].value for name in ("answer_tokens", "answer_entropy", "kl_start", "unfinished")]
    assert values == pytest.approx([5, 0.4, 0.5, 0])
    assert found["unfinished"].high > 0  # that none was cut off is no proof that none ever is
    rows = rewarded_rows([*rewarded("cut", runs[:1], seed=0), *found.values()])
    assert [row[0] for row in rows] == ["model", "before tuning", "tuned"]
    assert rows[2][3:] == ["5", "0 %", "0.4", "0.5"]


def test_one_start_is_compared_with_every_seed(tmp_path):
    start, runs = measured(0.2), [measured(0.8, seed) for seed in range(3)]
    gain, chance = gained(runs, [start], "reward", "samples")
    expected = np.mean([run.reward.sum() - start.reward.sum() for run in runs]) / (SAMPLES * PROMPTS)
    assert gain.value == pytest.approx(expected)
    assert chance < 0.01
    start.save(tmp_path / "reward-cut-seed0.safetensors")
    assert np.array_equal(Rewarded.load(tmp_path / "reward-cut-seed0.safetensors").reward, start.reward)

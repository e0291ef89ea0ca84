"""The recipe zoology: its trainer learns, is exact, and continues; each verdict is reached from made-up numbers."""

import math
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import limbeck
from limbeck.corpora.tasks.synthetic import SyntheticCorpus
from limbeck.disk import read_json, write_json
from limbeck.errors import BadFolder, BadSetting
from limbeck.papers.lab import recall
from limbeck.papers.lab.recall import Cell, at, new_decoder, question_logits, train
from limbeck.papers.lab.recipe import ClaimResult, of_seeds, with_failures
from limbeck.papers.zoology import recipe as zoology
from limbeck.papers.zoology.grid import ARMS, BASED, GATED, SCALES, Scale, Setting
from limbeck.probes.interval import Interval
from tests.helpers.reproduced import reproduced_twice

CELL = Cell("tiny", ("conv", "attention:rope=false"), 16, 12, 16, (1, 2), 60, 1e-2, 0, rows=16, tested=40)


# Training


def test_only_the_head_at_questions_is_left_out():
    model, batch = new_decoder(CELL), SyntheticCorpus(CELL.task(2), seed=0).take(8)
    logits, targets = question_logits(model, batch)
    whole = model(input_ids=batch.tokens, use_cache=False).logits
    labels = torch.where(batch.weight > 0, batch.targets, -100)
    plain = F.cross_entropy(whole.flatten(0, 1), labels.flatten(), ignore_index=-100)
    assert F.cross_entropy(logits, targets).item() == pytest.approx(plain.item(), abs=1e-6)
    assert len(targets) == 8 * 2


@pytest.mark.long
def test_the_same_cell_ends_with_the_same_bits():
    found = [train(CELL) for _ in range(2)]
    for result in found:
        del result["cpu_seconds"]
    assert found[0] == found[1]
    assert found[0] != train(replace(CELL, seed=1))


def test_short_rows_are_learned_and_end_a_training():
    cell = replace(CELL, pairs=(1,), vocab=8, steps=1500, width=32)
    result = train(cell)
    assert at(result, 1)["accuracy"]["value"] > 0.95
    assert result["trained_steps"] < 1500
    assert result["curve"][-1]["accuracy"] >= recall.SOLVED
    said = at(result, 1)
    assert sum(n for _, n in said["by_distance"].values()) == said["accuracy"]["n"] == 40
    assert sum(said["right_of_row"]) == sum(right for right, _ in said["by_distance"].values())


def test_a_loss_that_is_no_number_ends_a_training():
    result = train(replace(CELL, rate=1e30))
    assert result["failed"]
    assert result["trained_steps"] < CELL.steps


def test_another_rate_that_helps_counts_against_the_claim():
    arms, controls = {"H3": rows(0.05)}, {"H3": GOOD}
    judge = partial(zoology.judge_gated, width=64, length=64)
    assert judge(arms, {"H3": [0.95]}, controls, 8).verdict == "refuted"
    assert judge(arms, {"H3": [0.6]}, controls, 8).verdict == "inconclusive"
    assert "other rates, one seed: H3 60.0 %" in judge(arms, {"H3": [0.6]}, controls, 8).seen
    assert "width, 64 on rows of 64 tokens" in judge(arms, {"H3": [0.6]}, controls, 8).claim


@pytest.mark.long
def test_test_rows_are_never_trained_on(monkeypatch):
    """Rows that three trainings draw, of seeds that words of 32 bits could take for one another, beside those asked about."""
    taken = {}

    class Noted(SyntheticCorpus):
        def take(self, rows):
            batch = super().take(rows)
            taken.setdefault((self.seed, self.use), set()).update(map(tuple, batch.tokens.tolist()))
            return batch

    monkeypatch.setattr(recall, "SyntheticCorpus", Noted)
    cell = replace(CELL, vocab=512, pairs=(2,), steps=3, rows=1100, tested=1000)  # beyond the first block
    for seed in (0, 2**32 - 1, 2**32, 2**32 + 1):
        train(replace(cell, seed=seed))
    kinds = [
        set().union(*(rows for (_, use), rows in taken.items() if use == kind)) for kind in ("train", "stop", "test")
    ]
    assert [len(rows) for rows in kinds] == [4 * 3300, 500, 1000]
    assert len(set().union(*kinds)) == 4 * 3300 + 1500


# The whole

TINY = Scale(16, Setting(8, (1, 2), 16), Setting(8, (1,), 16), (16, 24), (), (1e-2, 1e-3), True, 3, 4, 10)


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoology")
    lost = "trainings/cells/hyena-d16-l8-k2-seed1/result.json"
    return reproduced_twice("zoology", folder / "out", scales=SCALES, tiny=TINY, lost=lost)


@pytest.mark.long
def test_a_page_has_claims_criteria_and_cost(twice):
    first, _, _, out = twice
    page = (out / "README.md").read_text()
    assert (
        page.count("Confirmed: ") == page.count("With fewer than 3 seeds: inconclusive.") == len(first["judged"]) == 6
    )
    assert page.count("Inconclusive also where all trainings of one of the kinds diverged.") == 6
    assert "**Cost.** " in page
    assert (out / "state.png").stat().st_size > 0
    assert (out / "map.png").stat().st_size > 0
    assert all(one["verdict"] == "inconclusive" for one in first["judged"])


@pytest.mark.long
def test_a_lost_cell_alone_is_trained_again(twice):
    first, again, kept, _ = twice
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert [one["seen"] for one in again["judged"]] == [one["seen"] for one in first["judged"]]


@pytest.mark.long
def test_a_result_of_another_definition_is_refused_before_anything_is_trained(twice, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(twice[3], out)
    file = out / "trainings" / "cells" / "h3-d16-l8-k2-seed0" / "result.json"
    said = read_json(file)
    lost = out / "trainings" / "cells" / "hyena-d16-l8-k2-seed1" / "result.json"
    monkeypatch.setitem(SCALES, "smoke", TINY)
    another, unknown = said | {"cell": said["cell"] | {"rows": 5}}, {k: said[k] for k in said if k != "cell"}
    for kept in (another, unknown):
        lost.unlink(missing_ok=True)
        write_json(file, kept)
        with pytest.raises(
            BadFolder, match=r"h3-d16-l8-k2-seed0: expected the training .* another version: remove the"
        ):
            limbeck.reproduce("zoology", scale="smoke", out=out, seeds=2, workers=1, device="cpu")
        assert not lost.exists()


def test_rows_whose_questions_are_all_as_far_are_near():
    said = at(train(replace(CELL, length=4, pairs=(1,), steps=2)), 1)
    assert (said["near"]["n"], said["far"]["n"]) == (40, 0)
    assert (said["far"]["low"], said["far"]["high"]) == (0, 1)


@pytest.mark.long
def test_numbers_have_every_arm_and_seed(twice):
    numbers = twice[0]["numbers"]
    assert set(numbers["arms"]) == set(numbers["rates"]) == set(ARMS)
    assert all(len(rows) == 2 for rows in numbers["arms"].values())
    cells = [
        *numbers["arms"].values(),
        [*numbers["control"].values()],
        *numbers["other_rates"].values(),
        numbers["map"],
    ]
    assert not any(cell["failed"] for rows in cells for cell in rows)
    assert set(numbers["control"]) == set(GATED)
    assert {(row["width"], row["length"]) for row in numbers["map"]} == {(16, 8), (24, 8)}


def test_text_is_refused(tmp_path):
    with pytest.raises(BadSetting, match="zoology draws its own rows"):
        limbeck.reproduce("zoology", scale="smoke", data="x.txt", out=tmp_path / "out")


def test_scales_can_be_drawn():
    for scale in SCALES.values():
        for setting in (scale.judged, scale.control, *scale.settings):
            for pairs in setting.pairs:
                assert limbeck_task(setting, pairs).slots >= pairs


def limbeck_task(setting, pairs):
    return replace(CELL, length=setting.length, vocab=setting.vocab).task(pairs)


# Judging


def rows(share, *, seeds=3, spread=0.0, pairs=8, n=400):
    """Questions answered right, as many as the share says, seeds apart by the spread."""
    generator = np.random.default_rng(0)
    shares = np.clip([share + spread * (i - 1) for i in range(seeds)], 0, 1)
    return np.stack([generator.binomial(pairs, p, size=n) for p in shares]).astype(float)


@pytest.mark.parametrize(
    ("attention", "short", "verdict"),
    [
        (rows(1.0), rows(1.0), "confirmed"),
        (rows(0.9), rows(1.0), "refuted"),
        (rows(0.9, spread=0.1), rows(1.0), "inconclusive"),
    ],
)
def test_attention_is_judged_by_every_seed(attention, short, verdict):
    assert zoology.judge_attention({"attention": attention, "conv, attention": short}, 8).verdict == verdict


GOOD, BAD = Interval(0.98, 0.96, 0.99, 500), Interval(0.6, 0.55, 0.65, 500)


@pytest.mark.parametrize(
    ("best", "control", "verdict"),
    [
        (rows(0.13), GOOD, "confirmed"),
        (rows(0.13), BAD, "inconclusive"),
        (rows(0.7), GOOD, "inconclusive"),
        (rows(0.95), BAD, "refuted"),
    ],
)
def test_gated_convolutions_are_judged_beside_their_control(best, control, verdict):
    found = zoology.judge_gated(
        {"BaseConv": best, "H3": rows(0.05)},
        {"BaseConv": [0.12], "H3": []},
        {"BaseConv": control, "H3": GOOD},
        8,
        width=64,
        length=64,
    )
    assert found.verdict == verdict
    assert "control: BaseConv" in found.seen


@pytest.mark.parametrize(
    ("shares", "verdict"),
    [
        ((0.3, 0.6, 0.8, 0.99), "confirmed"),
        ((0.3, 0.9, 0.6, 0.99), "inconclusive"),  # falls in between
        ((0.05, 0.6, 0.8, 0.99), "inconclusive"),  # below the convolutions
        ((0.9, 0.8, 0.7, 0.6), "refuted"),
        ((0.1, 0.15, 0.2, 0.25), "refuted"),
        ((1.0, 1.0, 1.0, 1.0), "inconclusive"),  # all solve it
        ((1.0, 0.99, 0.99, 0.98), "inconclusive"),
    ],
)
def test_linear_attention_is_judged_by_its_state(shares, verdict):
    found = zoology.judge_state([rows(share) for share in shares], [rows(0.13)], rows(1.0), 8)
    assert found.verdict == verdict
    assert all(arm in found.seen for arm in BASED)


def windowed(inside, beyond):
    """Results with questions inside a window and beyond, for each seed the shares of both that are right; 4 of each in a row."""
    return [
        {
            "by_pairs": {
                "8": {"right_of_row": [0] * 1000, "by_distance": {16: [a * 4000, 4000], 18: [b * 4000, 4000]}},
            }
        }
        for a, b in zip(inside, beyond, strict=True)
    ]


@pytest.mark.parametrize(
    ("inside", "beyond", "verdict"),
    [
        ((1.0, 1.0, 1.0), (0.1, 0.1, 0.1), "confirmed"),
        ((1.0, 1.0, 1.0), (0.16, 0.16, 0.16), "inconclusive"),  # rows
        ((1.0, 1.0, 1.0), (0.1, 0.05, 0.17), "inconclusive"),  # seeds
        ((0.991, 0.991, 0.991), (0.1, 0.1, 0.1), "inconclusive"),
        ((0.9, 0.9, 0.9), (0.1, 0.1, 0.1), "inconclusive"),
        ((0.3, 0.3, 0.3), (0.1, 0.1, 0.1), "refuted"),
        ((1.0, 0.1, 0.1), (0.1, 0.1, 0.1), "inconclusive"),
        ((1.0, 1.0, 1.0), (0.7, 0.7, 0.7), "refuted"),
    ],
)
def test_a_window_is_judged_inside_and_beyond_over_rows_and_seeds(inside, beyond, verdict):
    found = zoology.inside_and_beyond(windowed(inside, beyond), 8)
    assert [one.value for one in found] == pytest.approx([np.mean(inside), np.mean(beyond)])
    judged = zoology.judge_window(*found, 8, seeds=3)
    assert judged.verdict == verdict
    assert "n = 1,000 rows, 3 seeds" in judged.seen


def test_without_questions_inside_there_is_no_accuracy():
    results = [{"by_pairs": {"1": {"right_of_row": [1], "by_distance": {20: [1, 1]}}}}]
    inside, beyond = zoology.inside_and_beyond(results, 1)
    assert (inside.low, inside.high, inside.n) == (0, 1, 0)
    judged = zoology.judge_window(inside, beyond, 1, seeds=1)
    assert judged.verdict == "inconclusive"
    assert judged.seen.startswith("inside none asked; beyond 100.0%")


def test_an_arm_whose_trainings_all_diverged_decides_nothing():
    judged = ClaimResult("", "By the rule.", "confirmed", "seen.")
    some = with_failures(judged, {"H3": [{"failed": True}, {"failed": False}], "Hyena": [{"failed": False}]})
    assert some.verdict == "confirmed"
    assert some.seen == "seen. Diverged, and judged by the weights before that: H3 1 of 2."
    every = with_failures(judged, {"H3": [{"failed": True}] * 2, "Hyena": [{"failed": False}]})
    assert every.verdict == "inconclusive"
    assert "H3 2 of 2" in every.seen
    assert every.criterion.endswith("Inconclusive also where all trainings of one of the kinds diverged.")
    assert with_failures(judged, {"H3": [{"failed": False}]}).seen == "seen."


@pytest.mark.parametrize(("seeds", "verdict"), [(1, "inconclusive"), (2, "inconclusive"), (3, "confirmed")])
def test_fewer_than_three_seeds_decide_nothing(seeds, verdict):
    judged = of_seeds(ClaimResult("", "By the rule.", "confirmed", "seen."), seeds)
    assert judged.verdict == verdict
    assert judged.criterion == "By the rule. With fewer than 3 seeds: inconclusive."
    assert judged.seen.startswith("seen." if seeds == 3 else f"{seeds} of the 3 seeds that decide; seen.")


@pytest.mark.parametrize(
    ("hybrid", "verdict"), [(rows(0.99), "confirmed"), (rows(0.5), "refuted"), (rows(0.85, spread=0.1), "inconclusive")]
)
def test_a_hybrid_is_judged_by_the_gap_it_closes(hybrid, verdict):
    assert zoology.judge_hybrid("conv, repeats", hybrid, rows(0.13), rows(1.0), 8).verdict == verdict


def test_without_a_gap_nothing_is_closed():
    assert zoology.judge_hybrid("conv, repeats", rows(1.0), rows(1.0), rows(1.0), 8).verdict == "inconclusive"


def test_an_accuracy_stays_a_share():
    found = zoology.accuracy(rows(0.01, seeds=2, spread=0.01), 8)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert math.isfinite(found.high)

"""The recipe s4d: its trainings learn, are exact and continue; each verdict is reached from made-up numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import limbeck
from limbeck.corpora import Rows, TokenStore
from limbeck.errors import BadCorpus, NonFiniteLoss
from limbeck.papers.lab import trainings
from limbeck.papers.lab.loop import SLOWEST, adamw_of, cosine
from limbeck.papers.lab.rates import best_rates
from limbeck.papers.lab.recipe import RecipeContext
from limbeck.papers.lab.text import KEPT, rows_that_count, text_of
from limbeck.papers.lab.trainings import Trainings
from limbeck.papers.s4d import recipe as s4d
from limbeck.papers.s4d.delay import DelayCell, Delayed, late, new_layer, noise, train_delay, tune_delay
from limbeck.papers.s4d.recipe import ARMS, BILINEAR, NAMED, SCALES, Delays, Scale, Text
from limbeck.papers.s4d.text import TextCell, train_text, tune_text
from tests.helpers.models import write_corpus
from tests.helpers.reproduced import here, reproduced_twice

CELL = DelayCell("tiny", "lin", "zoh", 5, 32, 4, 16, 0.25, 60, 1e-2, 0, 8, 12)


# Training


def test_noise_has_variance_1_and_no_high_frequencies():
    found = noise(np.random.default_rng(0), 400, replace(CELL, length=256))
    assert found.shape == (400, 256)
    assert found.var() == pytest.approx(1, rel=0.03)
    # A row is half of what was drawn, so its own spectrum leaks a little over the cut, which is at 32 of 128.
    power = (np.abs(np.fft.rfft(found * np.hanning(256))) ** 2).mean(0)
    assert power[40:].sum() < 1e-4 * power.sum()
    assert abs(np.mean(found[:, 0] * found[:, -1])) < 0.2  # no row returns to where it began


def test_what_is_late_is_the_input_behind_zeros():
    assert late(torch.tensor([[1.0, 2, 3, 4]]), 3).tolist() == [[0, 0, 0, 1]]


def test_a_layer_is_linear_and_sees_nothing_of_the_future():
    layer, u = new_layer(CELL), torch.randn(2, 3, 32)
    torch.testing.assert_close(layer(u[0] + 2 * u[1]), layer(u[0]) + 2 * layer(u[1]), atol=1e-5, rtol=1e-4)
    changed = u[0].clone()
    changed[:, 20:] = 0
    torch.testing.assert_close(layer(changed)[:, :20], layer(u[0])[:, :20], atol=1e-5, rtol=1e-4)


def test_a_short_delay_is_learned_and_by_the_same_bits_again():
    first, again = (train_delay(CELL, "cpu") for _ in range(2))
    assert first == again
    untrained = train_delay(replace(CELL, steps=1), "cpu")
    assert sum(first["error"]) < 0.3 * sum(untrained["error"])
    assert len(first["error"]) == len(first["wanted"]) == CELL.tested


def test_a_loss_that_is_no_number_ends_a_training(monkeypatch):
    monkeypatch.setattr(Delayed, "forward", lambda self, u: u * self.leave.weight.sum() * torch.inf)
    result = train_delay(CELL, "cpu")
    assert result["failed"]
    assert result["trained_steps"] == 0


def test_eigenvalues_and_steps_learn_slowly_and_do_not_decay():
    layer = new_layer(CELL)
    optimizer = adamw_of(layer, rate=0.01, weight_decay=0.1)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(groups) == len(list(layer.parameters()))
    for name in ("log_step", "A_log", "A_imag"):
        assert groups[id(getattr(layer.ssm, name))]["peak"] == SLOWEST
        assert groups[id(getattr(layer.ssm, name))]["weight_decay"] == 0
    assert groups[id(layer.ssm.C_real)]["peak"] == 0.01
    assert groups[id(layer.ssm.C_real)]["weight_decay"] == 0
    assert groups[id(layer.enter.weight)]["weight_decay"] == 0.1
    rate = cosine(20)
    assert rate(1, SLOWEST) == pytest.approx(SLOWEST / 2)  # a warm-up of two steps
    assert rate(2, SLOWEST) == SLOWEST
    assert rate(20, 0.01) == pytest.approx(0.001, rel=0.1)


# Choosing rates


def test_rates_of_delays_are_chosen_by_other_rows_than_those_that_are_judged():
    judged, tuned = train_delay(CELL, "cpu"), tune_delay(CELL, "cpu")
    assert not set(judged["wanted"]) & set(tuned["wanted"])
    assert judged["trained_steps"] == tuned["trained_steps"]


TEXT = TextCell("tiny", "lin", "zoh", 259, 8, 1, 4, 16, 3, 1e-2, 0, 2, 40)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text") / "tokens"
    text_of(folder, str(write_corpus(folder.parent, 60)), vocab=TEXT.vocab, length=TEXT.length)
    return folder


def test_rates_of_text_are_chosen_by_documents_that_are_neither_judged_nor_trained_on(text, monkeypatch):
    read = []
    take = Rows.take
    monkeypatch.setattr(Rows, "take", lambda self, rows: read.append(take(self, rows)) or read[-1])
    store = TokenStore.open(text / "data" / "train")
    tuned = np.flatnonzero(tune_text(replace(TEXT, steps=40), "cpu", folder=text)["tokens"])
    assert len(tuned) > 1
    assert set(tuned) <= set(range(KEPT - 1, store.documents, KEPT))
    learned = {int(i) for batch in read for i in batch.document[batch.weight > 0]}
    assert len(learned) > 10
    assert not learned & set(tuned)
    judged = train_text(TEXT, "cpu", folder=text)  # on held-out documents, as before
    assert len(judged["tokens"]) == TokenStore.open(text / "data" / "held_out").documents


def test_as_many_rows_are_read_to_choose_a_rate_as_to_judge(text):
    rows = Rows(TokenStore.open(text / "data" / "train"), length=16)
    chosen = rows_that_count(rows, 5)
    assert len(chosen) == 5
    assert list(chosen) == sorted(set(chosen))


def test_one_document_is_too_little_to_choose_a_rate(text):
    store = TokenStore.open(text / "data" / "train")
    nothing = Rows(store, length=16, counted=lambda batch: replace(batch, weight=0 * batch.weight))
    with pytest.raises(BadCorpus, match="expected two documents or more, one of them to choose learning rates by"):
        rows_that_count(nothing, 5)


# The whole

TINY = Scale(
    Delays((1, 3), 3, 8, 2, 4, 0.5, 2, 1, 2, 6), Text(259, 8, 1, 4, 16, 2, 1, 2, 4), (1e-2, 1e-3), (1e-2, 1e-3)
)


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    folder = tmp_path_factory.mktemp("s4d")
    lost = "readers/**/real-*seed1/result.json"
    return reproduced_twice(
        "s4d", folder / "out", scales=SCALES, tiny=TINY, lost=lost, data=str(write_corpus(folder, 60))
    )


@pytest.mark.long
def test_a_page_has_claims_criteria_and_cost(twice):
    first, _, _, out = twice
    page = (out / "README.md").read_text()
    assert page.count("Confirmed: ") == len(first["judged"]) == 6
    assert "**Cost.** " in page
    assert (out / "delays.png").stat().st_size > 0
    assert all(one["verdict"] == "inconclusive" and "n = " in one["seen"] for one in first["judged"])
    assert page.count("With fewer than 3 seeds: inconclusive.") == len(first["judged"])


@pytest.mark.long
def test_a_lost_training_alone_is_done_again(twice):
    first, again, kept, _ = twice
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert [one["seen"] for one in again["judged"]] == [one["seen"] for one in first["judged"]]


@pytest.mark.long
def test_numbers_have_every_arm_delay_and_seed(twice):
    numbers = twice[0]["numbers"]
    assert set(numbers["rates"]["delays"]) == set(numbers["rates"]["text"]) == set(ARMS)
    assert all(set(row) == {"1", "3"} for row in numbers["explained"].values())
    assert all(len(row) == 2 for row in numbers["text_by_seed"].values())


@pytest.mark.long
def test_what_chooses_rates_lies_apart_from_what_is_judged(twice):
    for half, cells in (("delays", 2 * 2), ("readers", 2)):  # of an arm: delays and seeds; seeds
        assert len([*twice[3].glob(f"{half}/tuning/trainings/cells/*-seed10000/result.json")]) == 2 * len(ARMS)
        assert len([*twice[3].glob(f"{half}/trainings/cells/*/result.json")]) == cells * len(ARMS)


def test_ends_are_reported_for_three_rates_in_both_halves_and_not_for_two():
    arms = dict.fromkeys(ARMS, 1e-2)
    assert s4d.ends(arms, arms, replace(TINY)) == ""
    said = s4d.ends(arms, arms, replace(TINY, delay_rates=(1e-2, 3e-3, 1e-3), text_rates=(1e-2, 3e-3, 1e-3)))
    assert "legs (delays), inv (delays)" in said
    assert "legs (text), inv (text)" in said


@pytest.mark.recipe
def test_the_scale_smoke_runs_in_its_own_processes(tmp_path):
    result = limbeck.reproduce("s4d", scale="smoke", out=tmp_path / "out", workers=1, device="cpu")
    assert len(result["judged"]) == 6


def _ended(cell, device):
    return {"failed": cell.rate == 1.0, "loss": {0.1: 2.0, 0.2: 1.0, 1.0: 0.0}[cell.rate]}


def test_the_best_rate_is_chosen_for_each_arm_and_one_that_failed_never(tmp_path, monkeypatch):
    monkeypatch.setattr(trainings, "run_here", here)
    bench = Trainings(RecipeContext(tmp_path, "smoke", None, 0, 1, 1, "cpu"), _ended)
    tried = {rate: replace(CELL, name=f"r{rate}", rate=rate) for rate in (0.1, 0.2, 1.0)}
    found = best_rates(bench, {"many": tried, "one": {0.1: replace(CELL, name="alone")}}, lambda result: result["loss"])
    assert found == {"many": 0.2, "one": 0.1}
    assert not (tmp_path / "trainings" / "cells" / "alone").exists()


def test_an_arm_that_diverged_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(trainings, "run_here", here)
    bench = Trainings(RecipeContext(tmp_path, "smoke", None, 0, 1, 1, "cpu"), _ended)
    with pytest.raises(
        NonFiniteLoss, match=r"s4d, legs: a training with the rate that was best .* give another --seed"
    ):
        s4d._results(bench, {"legs": [replace(CELL, rate=1.0)]})


# Judging


def errors(explained, *, seeds=3, spread=0.0, n=60):
    """Rows of which so much is explained, seeds apart by the spread."""
    generator = np.random.default_rng(0)
    wanted = generator.uniform(0.9, 1.1, (seeds, n))
    shares = explained + spread * (np.arange(seeds) - 1)[:, None] + 0.01 * generator.standard_normal((seeds, n))
    return np.stack([wanted * (1 - shares), wanted], -1)


def delays(*, other=0.1, short=0.99, named=0.95, inv=None, bilinear=0.95, spread=0.0):
    found = {name: {16: errors(0.99), 900: errors(named)} for name in NAMED}
    found["inv"][900] = errors(named if inv is None else inv, spread=spread)
    found[BILINEAR] = {16: errors(0.99), 900: errors(bilinear)}
    return found | {name: {16: errors(short), 900: errors(other, spread=spread)} for name in ("real", "random")}


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (delays(), "confirmed"),
        (delays(short=0.5), "inconclusive"),  # not trained
        (delays(other=0.7, spread=0.2), "inconclusive"),
        (delays(other=0.93), "refuted"),
        (delays(inv=0.1), "refuted"),
    ],
)
@pytest.mark.parametrize("name", ["real", "random"])
def test_a_spectrum_is_behind_where_all_named_ones_hold_more(name, found, verdict):
    judged = s4d.judge_behind(name, found, [900])
    assert judged.verdict == verdict
    assert f"{name} at 16 explains" in judged.seen


@pytest.mark.parametrize(
    ("found", "verdict"),
    [(delays(), "confirmed"), (delays(inv=0.8), "refuted"), (delays(inv=0.93, spread=0.1), "inconclusive")],
)
def test_two_spectra_are_the_same_within_a_margin(found, verdict):
    assert s4d.judge_same("S4D-Inv", "inv", found, "the same").verdict == verdict


def losses(nats, *, seeds=3, spread=0.0, n=40):
    generator = np.random.default_rng(1)
    tokens = generator.integers(100, 200, n).astype(float)
    each = nats + generator.normal(0, 0.001, (seeds, n)) + spread * (np.arange(seeds) - 1)[:, None]
    return np.stack([each * tokens, np.broadcast_to(tokens, (seeds, n))], -1)


@pytest.mark.parametrize(
    ("real", "verdict"),
    [(losses(3.9), "confirmed"), (losses(4.1), "refuted"), (losses(3.99, spread=0.1), "inconclusive")],
)
def test_text_is_judged_by_real_against_complex(real, verdict):
    found = {"real": real, "lin": losses(4.0)}
    assert s4d.judge_text("lin", found).verdict == verdict


@pytest.mark.parametrize(
    ("bilinear", "verdict"),
    [(losses(4.001), "confirmed"), (losses(4.1), "refuted"), (losses(4.0, spread=0.05), "inconclusive")],
)
def test_methods_are_the_same_on_text_within_a_margin(bilinear, verdict):
    assert s4d.judge_method({BILINEAR: bilinear, "legs": losses(4.0)}).verdict == verdict


def test_what_explains_nothing_explains_0():
    found = s4d.held(errors(0.0))
    assert abs(found.value) < 0.01
    assert found.n == 60

"""The recipe zoology-language: readings by hand, each verdict from made-up ones, models of equal size, and a tiny run."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import limbeck
from limbeck.corpora import Rows
from limbeck.errors import BadCorpus, BadModel
from limbeck.papers.lab import trainings
from limbeck.papers.lab.recipe import count_of
from limbeck.papers.lab.text import text_of
from limbeck.papers.zoology_language import recipe as zl
from limbeck.papers.zoology_language import suite
from limbeck.papers.zoology_language.readings import (
    ALL,
    ELSEWHERE,
    HITS,
    RARE,
    Sliced,
    closed,
    gap,
    mean,
    pooled_excess,
    pooled_gap,
    share_of,
    share_of_gap,
)
from limbeck.papers.zoology_language.suite import (
    ARMS,
    ATTENTION,
    BEHIND,
    HYBRIDS,
    OTHERS,
    REPEATS,
    SCALES,
    SUITE,
    TOP,
    Scale,
    Size,
)
from limbeck.papers.zoology_language.tables import tables
from limbeck.papers.zoology_language.training import (
    STEP,
    LanguageCell,
    new_decoder,
    train_language,
    tune_language,
    without_embeddings,
)
from limbeck.probes.slices import BINS
from tests.helpers.models import WORDS, write_corpus
from tests.helpers.reproduced import here, reproduced_twice

TOKENS = [2, 3, 5, 0, 0, 10]  # of each document, by bin of hits, and elsewhere


def sliced(hits, elsewhere, *, seeds=3, documents=8, spread=0.0, rare=None):
    """An arm whose documents all have these nats on a hit (``rare``: on rare ones) and elsewhere; seeds are ``spread`` apart."""
    tokens = np.tile(np.array(TOKENS, dtype=float), (seeds, documents, 1))
    each = np.array([*[hits if rare is None else rare] * 2, *[hits] * (len(BINS) - 2), elsewhere])
    apart = spread * (np.arange(seeds) - (seeds - 1) / 2)
    nats = tokens * (each + apart[:, None])[:, None]
    return Sliced(tokens, nats, tokens[..., :4], nats[..., :4])


# Readings


def test_means_and_gaps_are_those_of_the_sums():
    ours, theirs = sliced(3.0, 2.0, rare=4.0), sliced(1.0, 1.5)
    assert mean(ours, HITS).value == pytest.approx((5 * 4 + 5 * 3) / 10)
    assert mean(ours, RARE).value == 4.0
    assert mean(ours, ELSEWHERE).value == 2.0
    assert mean(ours).value == pytest.approx((20 + 15 + 20) / 20)
    assert gap(ours, theirs, HITS).value == pytest.approx(3.5 - 1.0)
    assert gap(ours, theirs, ELSEWHERE).value == 0.5
    assert share_of(ours, HITS) == 0.5
    assert share_of(ours, RARE) == 0.25


def test_the_share_of_pooled_gaps_is_the_ratio_of_their_sums():
    attention = sliced(1.0, 1.0)
    pairs = [(sliced(1.4, 1.1), attention), (sliced(1.1, 1.0), attention)]
    # A document has 10 hits and 10 others: gaps of 4 + 1 on hits, 1 + 0 elsewhere.
    assert share_of_gap(pairs).value == pytest.approx(5 / 6)
    assert share_of_gap(pairs, ELSEWHERE).value == pytest.approx(1 / 6)
    assert share_of_gap(pairs, RARE).value == pytest.approx(2.5 / 6)
    assert pooled_gap(pairs).value == pytest.approx(6 / 40)
    assert pooled_excess(pairs).value == pytest.approx(5 / 20 - 1 / 20)


def test_a_share_above_1_is_not_clipped():
    assert share_of_gap([(sliced(1.4, 0.9), sliced(1.0, 1.0))]).value == pytest.approx(4 / 3)


def test_a_hybrid_closes_a_share_of_each_part():
    hybrid, without, attention = sliced(1.1, 1.3), sliced(2.0, 1.4), sliced(1.0, 1.0)
    assert closed(hybrid, without, attention, HITS).value == pytest.approx(0.9)
    assert closed(hybrid, without, attention, ELSEWHERE).value == pytest.approx(0.25)
    assert closed(hybrid, without, attention, ALL).value == pytest.approx((9 + 1) / (10 + 4))


def test_a_part_without_tokens_has_no_mean():
    found = mean(replace(sliced(1.0, 1.0), tokens=np.zeros((3, 8, 6))), HITS)
    assert np.isnan([found.value, found.low, found.high]).all()
    assert found.n == 0


def test_seeds_widen_intervals():
    assert mean(sliced(2.0, 2.0)).half == pytest.approx(0, abs=1e-9)
    # Standard error of three seeds 0.1 apart is 0.1 / sqrt(3); Student's t of 2 degrees is 4.303.
    assert mean(sliced(2.0, 2.0, spread=0.1)).half == pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3)


# Judging


def of_sizes(behind, attention, sizes=("1M", "2M")):
    return {size: dict.fromkeys(BEHIND, behind) | {ATTENTION: attention} for size in sizes}


@pytest.mark.parametrize(
    ("hits", "spread", "verdict"),
    [(1.2, 0.0, "confirmed"), (0.8, 0.0, "refuted"), (1.2, 0.5, "inconclusive"), (1.0, 0.0, "inconclusive")],
)
def test_all_are_behind_at_all_sizes_or_not(hits, spread, verdict):
    found = of_sizes(sliced(1.3, 1.1), sliced(1.0, 1.0))
    found["2M"]["Hyena"] = sliced(hits, 1.0, spread=spread)
    judged = zl.judge_behind(found)
    assert judged.verdict == verdict
    assert all(f"{size}: long convolution +" in judged.seen for size in found)
    assert judged.seen.endswith("n = 8 documents, 3 seeds.")


@pytest.mark.parametrize(
    ("hits", "elsewhere", "spread", "verdict"),
    [
        (1.3, 1.1, 0.0, "confirmed"),
        (1.1, 1.3, 0.0, "refuted"),
        (1.3, 1.1, 0.5, "inconclusive"),  # seeds are far apart
        (1.0, 1.0, 0.0, "inconclusive"),  # no gap
        (0.7, 0.9, 0.0, "inconclusive"),  # attention is behind
    ],
)
def test_most_of_the_gap_lies_on_hits_or_not(hits, elsewhere, spread, verdict):
    judged = zl.judge_on_hits(of_sizes(sliced(hits, elsewhere, spread=spread), sliced(1.0, 1.0)))
    assert judged.verdict == verdict
    if verdict == "confirmed":
        assert judged.seen.startswith(
            "75.0% (75.0% to 75.0%) of a gap of +0.200 (+0.200 to +0.200) nats on the 50.0 % of"
        )
        assert "+0.200 (+0.200 to +0.200) nats more per token there than elsewhere" in judged.seen


def test_a_share_that_the_number_of_hits_explains_is_not_confirmed():
    counts = np.array([4.0, 6, 8, 0, 0, 2])  # nine in ten tokens are hits, and all have the same gap but for noise

    def of(nats, noise):
        tokens = np.tile(counts, (3, 8, 1))
        sums = tokens * (nats + noise * np.random.default_rng(0).normal(size=tokens.shape))
        return Sliced(tokens, sums, tokens[..., :4], sums[..., :4])

    ours, attention = of(1.2, 0.02), of(1.0, 0.0)
    assert share_of_gap([(ours, attention)]).low > zl.MOST
    assert zl.judge_on_hits(of_sizes(ours, attention)).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("larger", "verdict"),
    [
        (sliced(1.5, 0.5), "confirmed"),
        (sliced(0.9, 0.9), "refuted"),
        (sliced(1.5, 0.5, spread=1.0), "inconclusive"),
    ],
)
def test_a_larger_convolution_is_judged_on_hits(larger, verdict):
    judged = zl.judge_larger(sliced(1.0, 1.0), larger, "H3", 26.7)
    assert judged.verdict == verdict
    assert judged.seen.startswith("H3 with 27 times the parameters needs ")


@pytest.mark.parametrize(
    ("repeats", "top", "spread", "verdict"),
    [
        (1.1, 1.2, 0.0, "confirmed"),
        (1.1, 1.8, 0.0, "refuted"),
        (1.1, 1.2, 0.5, "inconclusive"),
    ],
)
def test_hybrids_are_judged_by_both_that_choose_tokens(repeats, top, spread, verdict):
    hybrids = dict.fromkeys(HYBRIDS, sliced(2.0, 1.0)) | {
        REPEATS: sliced(repeats, 1.0),
        TOP: sliced(top, 1.0, spread=spread),
    }
    found = {part: zl.judge_hybrids(hybrids, sliced(2.0, 1.5), sliced(1.0, 1.0), part) for part in (HITS, ALL)}
    assert found[HITS].verdict == verdict
    assert "attention at repeats 90% (90% to 90%)" in found[HITS].seen
    assert "of a gap of +1.000 " in found[HITS].seen
    assert "of a gap of +0.750 " in found[ALL].seen


def test_without_a_gap_no_hybrid_closes_one():
    same = sliced(1.0, 1.0)
    judged = zl.judge_hybrids(dict.fromkeys(HYBRIDS, same), same, same, HITS)
    assert judged.verdict == "inconclusive"
    assert judged.seen.startswith("there is no gap to close: +0.000")


@pytest.mark.parametrize(
    ("nats", "verdict"),
    [
        ((2.0, 1.5, 1.2), "confirmed"),
        ((2.0, 2.01, 1.2), "confirmed"),
        ((2.0, 2.1, 1.2), "inconclusive"),  # a step up loses
        ((1.2, 1.5, 2.0), "refuted"),
        ((1.2, 1.2, 1.2), "refuted"),
    ],
)
def test_recall_is_judged_by_the_state(nats, verdict):
    judged = zl.judge_state(dict(zip(suite.BASED, (sliced(one, 1.0) for one in nats), strict=True)))
    assert judged.verdict == verdict
    assert judged.seen.startswith(f"largest less smallest {nats[-1] - nats[0]:+.3f} ")


def test_all_claims_have_short_forms_with_effect_and_n():
    same, many = sliced(1.0, 1.0), of_sizes(sliced(1.3, 1.1), sliced(1.0, 1.0))
    judged = [
        zl.judge_behind(many),
        zl.judge_on_hits(many),
        zl.judge_larger(same, sliced(1.5, 0.5), "H3", 20.0),
        *(zl.judge_hybrids(dict.fromkeys(HYBRIDS, same), sliced(2.0, 1.5), same, part) for part in (ALL, HITS)),
        zl.judge_state(dict.fromkeys(suite.BASED, same)),
    ]
    shown = [zl.RECIPE.short_of(one.claim) for one in judged]
    assert len({short.claim for short in shown}) == len(zl.RECIPE.short) == len(judged)
    effects = [short.effect_of(one.seen) for short, one in zip(shown, judged, strict=True)]
    assert effects[2] == "H3 with 20 times the parameters needs +0.500 (+0.500 to +0.500) nats more on a hit"
    assert effects[3].startswith("closed: attention in one layer 100% (100% to 100%)")
    assert all("n = " not in effect for effect in effects)
    assert {count_of(one.seen, 3) for one in judged} == {"8 documents, 3 seeds"}


# Models and trainings


def cell(scale, size, arm, **others):
    return replace(suite._cell(scale, scale.vocab, arm, size, 1.0, 0, scale.steps), **others)


@pytest.mark.parametrize("arm", ARMS)
def test_models_of_a_size_have_equal_parameters_without_embeddings(arm):
    scale = SCALES["small"]
    for size in (scale.sizes[0], scale.largest) if arm in (ATTENTION, "H3") else scale.sizes[:1]:
        model = new_decoder(cell(scale, size, arm))
        half = STEP * 3 * size.width * size.layers / 2
        assert abs(without_embeddings(model) - size.parameters) <= half < 0.03 * size.parameters
        assert model.config.intermediate_size >= 64


def test_scales_read_as_many_tokens_and_have_room_for_all_mixers():
    for scale in SCALES.values():
        assert scale.tokens == scale.steps * scale.rows * scale.length
        assert scale.sizes[0].judged
        assert all(
            size.layers % 4 == 0 and size.width % (2 * size.heads) == 0 for size in (*scale.sizes, scale.largest)
        )
    smoke = SCALES["smoke"]
    assert all(without_embeddings(new_decoder(cell(smoke, smoke.sizes[0], arm))) > 50_000 for arm in ARMS)


def test_mixers_that_need_more_than_the_size_are_an_error():
    scale = SCALES["smoke"]
    with pytest.raises(BadModel, match="expected at most 1,000 parameters without embeddings, got"):
        new_decoder(cell(scale, scale.sizes[0], "Hyena", parameters=1_000))


CELL = LanguageCell("tiny", ("attention",), 20_000, 300, 16, 4, 2, 16, 3, 1e-2, 0, 2, 8)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text") / "tokens"
    vocab = text_of(folder, str(write_corpus(folder.parent, 80)), vocab=CELL.vocab, length=CELL.length)
    return folder, replace(CELL, vocab=vocab)


def test_arms_read_the_same_rows_in_the_same_order_and_others_for_rates(text, monkeypatch):
    folder, tiny = text
    read = []
    take = Rows.take
    monkeypatch.setattr(Rows, "take", lambda self, rows: read.append(take(self, rows)) or read[-1])
    first = train_language(tiny, "cpu", folder=folder)
    other = train_language(replace(tiny, mixers=("conv",)), "cpu", folder=folder)
    tuned = tune_language(tiny, "cpu", folder=folder)
    for ours, theirs in zip(read[:3], read[3:6], strict=True):
        assert torch.equal(ours.tokens, theirs.tokens)
    assert first["tokens"] == other["tokens"]
    assert first["nats"] != other["nats"]
    assert first["tokens"] != tuned["tokens"]
    assert first["trained_tokens"] == 3 * 2 * 16
    assert np.sum(first["far_tokens"]) == np.sum(np.array(first["tokens"])[:, :-1]) > 0
    assert first["state_bytes"] == 4 * 2 * 16 * 16 * 4  # keys and values of four layers, 16 channels, 16 tokens
    assert first["generated_per_s"] > 0
    again = train_language(tiny, "cpu", folder=folder)
    assert all(again[key] == first[key] for key in ("nats", "far_nats", "parameters"))


# The whole

TINY = Scale(
    (Size(60_000, 16, 4, 2), Size(70_000, 16, 4, 2, judged=False)),
    Size(80_000, 16, 4, 2),
    300,
    16,
    2,
    2,
    1,
    8,
    (1.0, 2.0),
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run on a given text, and its folder."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCALES, "smoke", TINY)
        patch.setattr(trainings, "run_here", here)
        result = limbeck.reproduce(
            "zoology-language", scale="smoke", data=str(write_corpus(folder, 80)), out=folder / "out", seeds=1, workers=1,
            device="cpu",
        )  # fmt: skip
    return result, folder / "out"


@pytest.mark.long
def test_a_given_text_trains_only_what_decides(alone):
    result, out = alone
    assert len(result["judged"]) == 2
    assert {path.parent.name for path in out.glob("trainings/cells/*/result.json")} == {
        f"{suite._slug(arm)}-0.06m-factor{result['numbers']['factors'][arm]:g}-seed0" for arm in SUITE
    }
    assert len(list(out.glob("tuning/trainings/cells/*/result.json"))) == 2 * len(SUITE)


@pytest.mark.long
def test_the_page_has_a_table_of_all_models_made_from_its_numbers(alone):
    result, out = alone
    page = (out / "README.md").read_text()
    kept = json.loads((out / "reproduction.json").read_text())["numbers"]
    assert "\n\n".join(tables(kept)) in page
    for arm in SUITE:
        one = result["numbers"]["arms"][arm]["0.06M"]
        assert (
            f"| {arm} | 0.06M ({one['without_embeddings'] / 1e3:.1f} k) | 1 | {one['perplexity']['value']:.2f}" in page
        )
    assert result["numbers"]["arms"][ATTENTION]["0.06M"]["gap"] == {}
    assert (out / "gaps.png").stat().st_size > 0


@pytest.mark.long
def test_a_text_that_repeats_nothing_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setitem(SCALES, "smoke", replace(TINY, factors=(1.0,)))
    monkeypatch.setattr(trainings, "run_here", here)
    lines = [json.dumps({"text": " ".join(WORDS[i % 20] for i in (n, n + 1, n + 3))}) for n in range(200)]
    (tmp_path / "short.jsonl").write_text("\n".join(lines))
    with pytest.raises(BadCorpus, match=r"short\.jsonl: its held-out rows of 16 tokens repeat no pair of tokens"):
        limbeck.reproduce(
            "zoology-language", scale="smoke", data=str(tmp_path / "short.jsonl"), out=tmp_path / "out", seeds=1, workers=1,
            device="cpu",
        )  # fmt: skip


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """Scale smoke itself."""
    out = tmp_path_factory.mktemp("zoology-language") / "out"
    lost = "trainings/cells/rwkv-4-0.06m-factor1-seed1/result.json"
    return reproduced_twice("zoology-language", out, scales=SCALES, tiny=SCALES["smoke"], lost=lost)


@pytest.mark.recipe
def test_a_page_has_claims_criteria_and_cost(twice):
    first, _, _, out = twice
    page = (out / "README.md").read_text()
    assert (
        page.count("Confirmed: ") == page.count("With fewer than 3 seeds: inconclusive.") == len(first["judged"]) == 6
    )
    assert "60 modules of python:stdlib" in page
    assert "**Cost.** " in page
    assert all(one["verdict"] == "inconclusive" for one in first["judged"])
    arms = first["numbers"]["arms"]
    assert set(arms) == set(ARMS)
    assert all(set(arms[arm]) == {"0.06M"} for arm in OTHERS)
    assert {arm for arm in SUITE if "0.12M" in arms[arm]} == {ATTENTION, first["numbers"]["best"]}
    assert arms[first["numbers"]["best"]]["0.12M"]["seeds"] == 2
    assert arms[ATTENTION]["0.12M"]["seeds"] == arms["H3"]["0.08M"]["seeds"] == 1


@pytest.mark.recipe
def test_a_lost_cell_alone_is_trained_again(twice):
    first, again, kept, _ = twice
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert [one["seen"] for one in again["judged"]] == [one["seen"] for one in first["judged"]]

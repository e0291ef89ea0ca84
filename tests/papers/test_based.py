"""The recipe based: states compared are equal, what is timed is what a context leaves; verdicts come from made-up numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import limbeck
from limbeck.disk import read_json
from limbeck.errors import BadSetting
from limbeck.models.decoder import MixerCache
from limbeck.papers.based import recipe as based
from limbeck.papers.based.decoding import DecodingCell, copied, filled, new_decoder, time_decoding
from limbeck.papers.based.recipe import ATTENTION, BASED, ELU, SCALES, TUNING, WINDOWS, Reached, members
from limbeck.papers.lab.recall import new_decoder as recalling
from limbeck.papers.lab.recall import state_bytes
from tests.helpers.reproduced import reproduced_twice

PATTERNS = (("conv", "based:2", "conv", "swa:8"), ("attention",))
CELL = DecodingCell("tiny", PATTERNS, 16, 4, 2, 32, 20, 2, 3, 2, 0)


# Families


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_states_grow_in_each_family_and_the_control_keeps_as_many_bytes(scale):
    families = members(scale)
    small = replace(scale, vocab=8)
    bytes_of = {
        name: [state_bytes(recalling(based._cell(small, member, 1e-2, 0)), scale.length) for member in family]
        for name, family in families.items()
    }
    for name in (BASED, ELU, WINDOWS):
        assert bytes_of[name] == sorted(set(bytes_of[name]))
    assert bytes_of[BASED] == bytes_of[ELU]
    assert max(bytes_of[WINDOWS]) < bytes_of[ATTENTION][0]
    assert any(min(bytes_of[BASED]) <= window for window in bytes_of[WINDOWS])


def test_names_of_cells_tell_members_rates_and_seeds_apart():
    scale = SCALES["small"]
    cells = [
        based._cell(scale, member, rate, seed)
        for family in members(scale).values()
        for member in family
        for rate in scale.rates
        for seed in (0, 1)
    ]
    assert len({cell.name for cell in cells}) == len(cells)


# Decoding


@pytest.mark.parametrize("mixers", PATTERNS)
@torch.no_grad()
def test_a_filled_state_is_as_large_as_that_of_a_text_that_was_read(mixers):
    model = new_decoder(CELL, mixers).eval()
    read = MixerCache(CELL.layers)
    model(input_ids=torch.zeros(CELL.rows, CELL.context, dtype=torch.long), past_key_values=read, use_cache=True)
    made = filled(model, CELL)
    assert made.nbytes() == read.nbytes()
    assert made.seen == read.seen == CELL.context
    shapes = [{name: part.shape for name, part in (state or {}).items()} for state in made.states]
    assert shapes == [{name: part.shape for name, part in (state or {}).items()} for state in read.states]


@torch.no_grad()
def test_writing_from_a_copy_leaves_the_state_as_it_was():
    for mixers in PATTERNS:
        model = new_decoder(CELL, mixers).eval()
        state = filled(model, CELL)
        before = [{name: part.clone() for name, part in (layer or {}).items()} for layer in state.states]
        model(input_ids=torch.zeros(CELL.rows, 1, dtype=torch.long), past_key_values=copied(state), use_cache=True)
        assert state.seen == CELL.context
        for layer, kept in zip(state.states, before, strict=True):
            assert all(torch.equal((layer or {})[name], part) for name, part in kept.items())


def test_each_turn_is_reported_except_the_first():
    found = time_decoding(CELL, "cpu")
    assert [len(rates) for rates in found["tokens_per_s"]] == [CELL.turns] * 2
    assert min(min(rates) for rates in found["tokens_per_s"]) > 0
    assert len(found["state_bytes"]) == 2


# The whole

TINY = replace(
    SCALES["smoke"], length=8, vocab=16, features=(2, 3), windows=(4, 6), rates=(1e-2, 1e-3), steps=2,
    rows=4, tested=10, contexts=(4, 8), shown=("GLA",), decoder=replace(CELL, mixers=based.DECODED),
)  # fmt: skip


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    folder = tmp_path_factory.mktemp("based")
    lost = "trainings/**/conv-based3*seed1/result.json"
    return reproduced_twice("based", folder / "out", scales=SCALES, tiny=TINY, lost=lost)


@pytest.mark.long
def test_a_page_has_claims_criteria_and_cost(twice):
    first, _, _, out = twice
    page = (out / "README.md").read_text()
    assert page.count("onfirmed: ") >= len(first["judged"]) == 5
    assert "**Cost.** " in page
    assert {path.name for path in out.glob("*.png")} == {"recall-1.png", "recall-2.png"}
    assert all(one["verdict"] == "inconclusive" and "n = " in one["seen"] for one in first["judged"])
    assert (
        page.count("With fewer than 3 seeds: inconclusive.") == len(first["judged"]) - 1
    )  # what is timed has no seeds


@pytest.mark.long
def test_a_lost_training_alone_is_done_again(twice):
    first, again, kept, _ = twice
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert [one["seen"] for one in again["judged"]] == [one["seen"] for one in first["judged"]]


@pytest.mark.long
def test_numbers_have_every_member_and_seed(twice):
    numbers = twice[0]["numbers"]
    assert set(numbers["families"]) == set(numbers["rates"]) == {BASED, ELU, WINDOWS, ATTENTION, "GLA"}
    for name, family in numbers["families"].items():
        for member in family:
            assert set(member["by_seed"]) == {"1", "2"}
            assert member["failed"] == 0
            assert len(member["by_seed"]["2"]) == (1 if name == "GLA" else 2)
    assert set(numbers["decoding"]) == {"4", "8"}


@pytest.mark.long
def test_rates_are_chosen_by_trainings_as_long_as_those_that_are_judged(twice):
    cells = [read_json(path)["cell"] for path in twice[3].glob("trainings/cells/*/result.json")]
    tuning = [cell for cell in cells if cell["seed"] >= TUNING]
    assert len(tuning) == 5 * len(TINY.rates)
    assert {cell["steps"] for cell in cells} == {TINY.steps}
    assert all(cell["name"].startswith("tuning-") == (cell in tuning) for cell in cells)


@pytest.mark.recipe
def test_the_scale_smoke_runs_in_its_own_processes(tmp_path):
    result = limbeck.reproduce("based", scale="smoke", out=tmp_path / "out", workers=1, device="cpu")
    assert len(result["judged"]) == 5


def test_text_is_refused(tmp_path):
    with pytest.raises(BadSetting, match="based draws its own rows"):
        limbeck.reproduce("based", scale="smoke", data="x.txt", out=tmp_path / "out")


# Judging


def rows(share, *, seeds=3, spread=0.0, n=400):
    generator = np.random.default_rng(0)
    shares = np.clip([share + spread * (i - 1) for i in range(seeds)], 0, 1)
    return np.stack([generator.binomial(8, p, size=n) for p in shares]).astype(float)


def family(*shares, sizes=(1000, 2000, 4000), **given):
    return [Reached(size, 1, {8: rows(share, **given)}) for size, share in zip(sizes, shares, strict=False)]


GOOD, BAD = rows(1.0), rows(0.6)


@pytest.mark.parametrize(
    ("shares", "ceiling", "verdict"),
    [
        ((0.3, 0.6, 0.9), GOOD, "confirmed"),
        ((0.3, 0.6, 0.9), BAD, "inconclusive"),  # the rows cannot be learned
        ((0.3, 0.9, 0.6), GOOD, "inconclusive"),  # falls in between
        ((0.6, 0.5, 0.4), GOOD, "refuted"),
        ((0.6, 0.5, 0.4), BAD, "inconclusive"),
        ((1.0, 1.0, 1.0), GOOD, "inconclusive"),  # nothing can rise from there
        ((0.1, 0.1, 0.1), BAD, "inconclusive"),  # nothing was trained
    ],
)
def test_a_family_is_judged_by_its_rise(shares, ceiling, verdict):
    judged = based.judge_rises("Based", family(*shares), ceiling, 8)
    assert judged.verdict == verdict
    assert "1.00 kB" in judged.seen


@pytest.mark.parametrize(
    ("windows", "ceiling", "verdict"),
    [
        ((0.1, 0.2), GOOD, "confirmed"),
        ((0.1, 0.2), BAD, "inconclusive"),
        ((0.1, 0.9), GOOD, "inconclusive"),  # one of them is better
        ((0.7, 0.9), BAD, "refuted"),
    ],
)
def test_windows_are_judged_beside_based_of_no_more_bytes(windows, ceiling, verdict):
    judged = based.judge_windows(family(0.5, 0.6, 1.0), family(*windows, sizes=(1500, 3900)), ceiling, 8)
    assert judged.verdict == verdict
    assert "1.00 kB beside 1.50 kB" in judged.seen
    assert "2.00 kB beside 3.90 kB" in judged.seen


def test_a_window_smaller_than_every_based_is_compared_with_none():
    judged = based.judge_windows(family(0.5), family(0.1, sizes=(900,)), GOOD, 8)
    assert judged.verdict == "inconclusive"
    assert judged.seen.startswith("there are none to compare")


@pytest.mark.parametrize(
    ("elu", "verdict"),
    [((0.2, 0.3, 0.4), "confirmed"), ((0.7, 0.8, 0.9), "refuted"), ((0.4, 0.6, 0.8), "inconclusive")],
)
def test_the_map_is_judged_by_the_control_of_equal_bytes(elu, verdict):
    assert based.judge_map(family(0.4, 0.6, 0.8), family(*elu, spread=0.02), GOOD, 8).verdict == verdict


def test_couples_on_the_same_rows_are_no_more_rows():
    once = family(0.4, sizes=(1000,), seeds=1), family(0.35, sizes=(1000,), seeds=1)
    thrice = once[0] * 3, once[1] * 3
    found, again = (based.judge_map(*both, GOOD, 8) for both in (once, thrice))
    assert found.seen.split(" on the whole")[0] == again.seen.split(" on the whole")[0]


def found_with(*failed, of=BASED):
    """Families in which all is well but for one member of one of them, whose trainings failed so."""
    well = [{"failed": False}] * 3
    families = {
        BASED: family(0.5, 0.7, 1.0),
        ELU: family(0.2, 0.3, 0.4),
        WINDOWS: family(0.1, 0.2, 0.3, sizes=(900, 1500, 3900)),
        ATTENTION: family(1.0, sizes=(9000,)),
    }
    found = {name: [replace(one, results=well) for one in row] for name, row in families.items()}
    found[of][0] = replace(found[of][0], results=[{"failed": one} for one in failed])
    return found


def test_diverged_trainings_are_reported():
    rises, windows_rise, windows, taylor = based.judge_recall(found_with(True, False, False), 8)
    assert [one.verdict for one in (rises, windows_rise, windows, taylor)] == ["confirmed"] * 4
    for one in (rises, windows, taylor):
        assert one.seen.endswith("Diverged, and judged by the weights before that: Based 1.00 kB 1 of 3.")
    assert "Diverged" not in windows_rise.seen
    assert all("diverged" in one.criterion for one in (rises, windows_rise, windows, taylor))


@pytest.mark.parametrize(
    ("of", "undecided"), [(BASED, {0, 2, 3}), (ELU, {3}), (WINDOWS, {1}), (ATTENTION, {0, 1, 2, 3})]
)
def test_a_member_that_always_diverged_decides_nothing(of, undecided):
    judged = based.judge_recall(found_with(True, True, True, of=of), 8)  # the smallest window is beside no Based
    assert {i for i, one in enumerate(judged) if one.verdict == "inconclusive"} == undecided


def timed(short, long, *, noise=0.02, turns=15):
    generator = np.random.default_rng(0)

    def one(ratio, size):
        slow = 100 * np.exp(0.3 * generator.standard_normal(turns))  # what else the machine does
        fast = ratio * slow * np.exp(noise * generator.standard_normal(turns))
        return {"tokens_per_s": [fast.tolist(), slow.tolist()], "state_bytes": [100, size]}

    return {128: one(short, 200), 4096: one(long, 6400)}


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (timed(0.8, 3.0), "confirmed"),
        (timed(2.0, 2.0), "inconclusive"),  # no larger than at the short one
        (timed(0.5, 1.0, noise=0.3), "inconclusive"),
        (timed(0.5, 0.8), "refuted"),
    ],
)
def test_decoding_is_judged_by_ratios_of_neighbouring_turns(found, verdict):
    judged = based.judge_decoding(found)
    assert judged.verdict == verdict
    assert "bytes 1 to 64" in judged.seen


def test_a_ratio_is_the_geometric_mean_of_turns():
    found = based.ratio_of([[2.0, 8.0], [1.0, 1.0]])
    assert found.value == pytest.approx(4)
    assert found.n == 2

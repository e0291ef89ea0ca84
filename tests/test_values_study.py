"""The study of values by bytes of state: its criterion stands, made results are judged by it, and its page is written of them."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from limbeck.models.save import save
from limbeck.papers.lab import criterion as lab
from limbeck.papers.lab.criterion import definitions_digest
from tests.helpers.models import llama
from tests.helpers.pages import check_page
from tests.test_headlines import RESULTS, script

DIGEST = "58789aadda0aa3bb"  # of the criterion; it stood before the first run, and a change needs other seeds
DOCUMENTS, EACH = 12, 8  # documents that are asked about, and rows of each


@pytest.fixture
def criterion():
    return script("values_criterion")


def test_the_criterion_is_that_which_stood_before_the_first_run(criterion):
    assert criterion.digest() == DIGEST


def test_how_rows_are_made_and_scored_is_part_of_the_criterion(criterion, monkeypatch):
    before = definitions_digest(criterion.MEASURES)
    source = lab._source("limbeck.corpora.tasks.names")
    fewer = {name: node for name, node in source.defined.items() if name != "LINKS"}
    changed = lab._Source(fewer, source.imported, source.trains)
    sources = lab._source
    monkeypatch.setattr(
        lab, "_source", lambda module: changed if module == "limbeck.corpora.tasks.names" else sources(module)
    )
    assert definitions_digest(criterion.MEASURES) != before


def test_windows_have_no_fewer_bytes_than_based_and_budgets_are_equal(criterion):
    sizes = script("values_trainings").sizes_of(criterion.VOCAB)
    for length in criterion.LENGTHS[1:]:
        for based, window in criterion.WINDOWS.items():
            state = {arm: sizes[arm].state_bytes(length, 4) for arm in (based, window)}
            token = sizes[criterion.NARROW].state_bytes(512, 4) / 13  # bytes of a token in a window
            assert state[based] <= state[window] < state[based] + token
    parameters = [size.parameters - size.embedding for size in sizes.values()]
    assert max(parameters) < 1.03 * min(parameters)
    flops = {arm: size.forward_flops(criterion.LENGTH) for arm, size in sizes.items()}
    tokens, equal = ({arm: criterion.steps_at(budget, flops, arm) for arm in flops} for budget in criterion.BUDGETS)
    assert set(tokens.values()) == {criterion.STEPS}
    assert equal[criterion.ATTENTION] == criterion.STEPS
    assert (
        max(abs(equal[arm] * flops[arm] / (criterion.STEPS * flops[criterion.ATTENTION]) - 1) for arm in flops) < 2e-4
    )
    assert equal[criterion.MANY] < criterion.STEPS < equal[criterion.FEW]


def test_reading_back_is_counted_by_document(criterion):
    document = [7, 2, 7, 7]
    assert criterion.back([1, 1, 0, 1], [0, 1, 1, 0], document).tolist() == [0, 1]  # of 2, and of 7
    assert criterion.rows_of(document).tolist() == [1, 3]


SHARES = {  # read back by arm: all claims hold
    "attention": 0.8,
    "Based, 4 features": 0.3,
    "Based, 16 features": 0.6,
    "window of 13": 0.1,
    "window of 145": 0.4,
    "Gated DeltaNet": 0.5,
}


def read_back(shares, *, seeds=3, spread=0.02):
    """Sums of rows read back, (seeds, documents), about such a share of them."""
    generator = np.random.default_rng(0)
    return {
        arm: EACH * (share + spread * generator.uniform(-1, 1, (seeds, DOCUMENTS))) for arm, share in shares.items()
    }


def verdicts(criterion, shares, flops=None, *, seeds=3, spread=0.02, **keys):
    same = read_back(shares, seeds=seeds, spread=spread)
    read = dict(
        zip(criterion.BUDGETS, (same, read_back(flops, seeds=seeds, spread=spread) if flops else same), strict=True)
    )
    found = criterion.judged(read, np.full(DOCUMENTS, float(EACH)), **keys)
    assert tuple(found) == criterion.CLAIMS
    return {claim: verdict for claim, (verdict, _) in found.items()}


def test_all_claims_can_be_confirmed(criterion):
    assert set(verdicts(criterion, SHARES).values()) == {"confirmed"}


@pytest.mark.parametrize(
    ("change", "claim", "verdict"),
    [
        ({"attention": 0.05, **dict.fromkeys(list(SHARES)[1:], 0.0)}, "context", "refuted"),
        ({"attention": 0.1}, "context", "inconclusive"),
        ({"Gated DeltaNet": 0.9}, "attention", "refuted"),
        ({"Gated DeltaNet": 0.8}, "attention", "inconclusive"),
        ({"Based, 16 features": 0.2}, "state", "refuted"),
        ({"Based, 16 features": 0.3}, "state", "inconclusive"),
        ({"window of 145": 0.7}, "window", "refuted"),
        ({"window of 13": 0.35}, "window", "refuted"),
        ({"window of 13": 0.3}, "window", "inconclusive"),
    ],
)
def test_each_claim_can_be_refuted_and_left_open(criterion, change, claim, verdict):
    if claim == "context":
        assert verdicts(criterion, SHARES | change)["context"] == verdict
        return
    for number, budget in enumerate(criterion.BUDGETS):
        other = criterion.BUDGETS[1 - number]
        both = (SHARES | change, SHARES) if number == 0 else (SHARES, SHARES | change)
        found = verdicts(criterion, *both)
        assert found[f"{claim}, {budget}"] == verdict
        assert found[f"{claim}, {other}"] == "confirmed", "the other budget is judged by its own models"


def test_models_that_do_not_look_up_decide_nothing_else(criterion):
    found = verdicts(criterion, SHARES | {"attention": 0.0}, spread=0.05)
    assert found.pop("context") == "refuted"
    assert set(found.values()) == {"inconclusive"}


def test_fewer_than_three_seeds_decide_nothing(criterion):
    assert set(verdicts(criterion, SHARES, seeds=2).values()) == {"inconclusive"}


def test_a_training_that_diverged_decides_nothing_of_its_claims(criterion):
    found = verdicts(criterion, SHARES, diverged={("equal FLOPs", "Based, 4 features")})
    assert {claim for claim, verdict in found.items() if verdict == "inconclusive"} == {
        f"{claim}, equal FLOPs" for claim in ("attention", "state", "window")
    }


def test_a_refutation_is_corrected_for_the_differences_of_its_claim(criterion):
    gain = criterion.Interval(-0.1, -0.2, -0.01, 12)
    apart = criterion.Interval(0.3, 0.2, 0.4, 12)
    assert criterion.more([(gain, 0.04)]) == "refuted"
    assert criterion.more([(gain, 0.04), (apart, 0.5)]) == "inconclusive"
    assert criterion.more([(gain, 0.02), (apart, 0.5)]) == "refuted"


# Judging and the page


def rows_of(share, without=0.0, asked="a"):
    """A made measurement: of each document the first rows are exact, as many as the share says."""
    exact = [float(n < round(share * EACH)) for _ in range(DOCUMENTS) for n in range(EACH)]
    guessed = [float(n < round(without * EACH)) for _ in range(DOCUMENTS) for n in range(EACH)]
    return {
        "asked": asked,
        "form": ["fields", "tables"] * (DOCUMENTS * EACH // 2),
        "document": [document for document in range(DOCUMENTS) for _ in range(EACH)],
        "entries": [10] * len(exact),
        "shown": exact,
        "without": guessed,
        "saved": [0.6] * len(exact),
        "tokens": [3] * len(exact),
    }


def model(share, number, **keys):
    sources = {
        source: {length: rows_of(share, **keys) for length in ("128", "256", "512")}
        for source in ("python", "wikipedia")
    }
    state = dict.fromkeys(("128", "256", "512"), 1024 * 2**number)
    return {"parameters": 600_000, "state_bytes": state, "sources": sources}


@pytest.fixture
def results():
    arms = {
        arm: [
            model(share, number) | {"trained_tokens": 3000, "flops": 1e12, "failed": False, "seed": seed}
            for seed in range(3)
        ]
        for number, (arm, share) in enumerate(SHARES.items())
    }
    return {"equal tokens": arms, "equal FLOPs": copy.deepcopy(arms)}


def judged(results, out: Path, others=None) -> dict:
    factors = dict.fromkeys(SHARES, 1.0)
    script("values").judge(factors, results, 60.0, others or {}, out)
    return json.loads((out / "results.json").read_text())


def test_made_results_are_judged_and_have_a_page(results, tmp_path):
    others = {"teacher": [model(0.5, 1)], "gdn": [model(0.25, 0)] * 3, "SmolLM2-135M-Instruct": [model(0.75, 2)]}
    out = tmp_path / "values"
    found = judged(results, out, others)
    assert len(found["claims"]) == 14
    assert {one["verdict"] for one in found["claims"].values()} == {"confirmed"}
    gain = found["claims"]["python: attention, equal tokens"]["gains"]["attention over Based, 16 features"]
    assert gain["value"] == pytest.approx(2 / 8 - 1 / 8)  # 6 and 5 of 8 rows, by rounding
    level = found["levels"]["wikipedia"]["equal tokens"]["Gated DeltaNet"]
    assert level["lengths"]["256"]["shown"]["value"] == 0.5
    assert level["lengths"]["512"]["saved"]["value"] == pytest.approx(0.2)
    assert set(level["forms"]) == {"fields", "tables"}
    assert found["rows"]["python"] | {"asked": None} == {
        "documents": 12,
        "rows": {"128": 96, "256": 96, "512": 96},
        "entries": {"128": 10.0, "256": 10.0, "512": 10.0},
        "asked": None,
    }
    assert found["converted"]["gdn"]["seeds"] == 3
    assert found["criterion"] == DIGEST
    page = (out / "README.md").read_text(encoding="utf-8")
    assert (
        "Out of held-out Python and out of Wikipedia, attention reads back more than every model of fixed state."
        in page
    )
    assert "## Models that were trained for other things" in page
    assert "SmolLM2-135M-Instruct, 1M parameters, reads back 75.0 (75.0 to 75.0) % of the values" in page
    assert "Confirmed: its whole interval lies above 0.1. Refuted: below. attention: attention reads back more" in page
    for word in ("equal tokens", "equal FLOPs", "600, 601, 602", DIGEST, "12 documents", "95 %"):
        assert word in page
    check_page(out)
    circles = [
        one for one in ElementTree.fromstring((out / "state.svg").read_text()).iter() if one.tag.endswith("circle")
    ]
    assert len(circles) == 4 + 2 * 2 * 6


def test_a_page_follows_its_verdicts(results, tmp_path):
    for budget in results:
        for number, one in enumerate(results[budget]["attention"]):
            for source in ("python", "wikipedia"):
                share = 0.0 if source == "wikipedia" else 0.25
                one["sources"][source]["512"] = rows_of(share)
            one["failed"] = number == 1 and budget == "equal FLOPs"
    out = tmp_path / "values"
    found = judged(results, out)
    verdict = {name: one["verdict"] for name, one in found["claims"].items()}
    assert verdict["python: attention, equal tokens"] == "refuted"
    assert verdict["python: attention, equal FLOPs"] == "inconclusive"
    assert verdict["wikipedia: context"] == "refuted"
    assert verdict["wikipedia: state, equal tokens"] == "inconclusive"
    page = (out / "README.md").read_text(encoding="utf-8")
    assert (
        "Out of held-out Python a model of fixed state reads back more than attention; out of Wikipedia attention"
        in page
    )
    assert "trained for other things" not in page
    assert "A larger model" not in page
    check_page(out)


def test_models_that_others_trained_are_added_to_results_that_are_there(results, tmp_path):
    out = tmp_path / "values"
    judged(results, out, {"teacher": [model(0.5, 1)]})
    script("values").beside({"SmolLM2-135M-Instruct": [model(0.0, 2)]}, out)
    found = json.loads((out / "results.json").read_text())
    assert set(found["converted"]) == {"teacher", "SmolLM2-135M-Instruct"}
    assert "so the rows may be beyond it too" in (out / "README.md").read_text(encoding="utf-8")
    every = {"teacher": [model(0.5, 1)], "SmolLM2-135M-Instruct": [model(0.0, 2)]}
    made = {"date": None, "digest": None}
    assert found | made == judged(results, tmp_path / "again", every) | made
    check_page(out)


def test_models_that_were_asked_other_things_are_not_compared(results, tmp_path):
    results["equal FLOPs"]["window of 13"][2]["sources"]["python"]["512"]["asked"] = "b"
    with pytest.raises(ValueError, match="python, 512 tokens: models were measured on other rows"):
        judged(results, tmp_path)


def test_what_none_or_all_can_do_has_an_interval(results, tmp_path):
    for one in results["equal tokens"]["window of 13"]:
        one["sources"]["python"]["512"] = rows_of(0.0)
    shown = judged(results, tmp_path)["levels"]["python"]["equal tokens"]["window of 13"]["lengths"]["512"]["shown"]
    assert shown["value"] == shown["low"] == 0
    assert shown["high"] == pytest.approx(0.2425, abs=1e-3)  # Wilson's of 0 of 12


def test_the_overview_has_the_claims_before_they_are_run():
    rows, index = script("study_rows"), script("index")
    if rows.there("values"):
        pytest.skip("they were run")
    found = [row for row in rows.rows() if row.page == "values"]
    assert len({(row.study, row.claim) for row in found}) == len(found) == 14
    assert {row.verdict for row in found} == {"not yet run"}
    waiting = sum(row.verdict == "not yet run" for row in rows.rows())
    assert f"{waiting} claims are not yet run" in index.table(RESULTS / "README.md")
    assert "[values, Python](values.sh)" in index.table(RESULTS / "README.md")


def test_the_page_is_that_of_its_results():
    folder = RESULTS / "values"
    if not (folder / "results.json").exists():
        assert not (folder / "README.md").exists(), "figures that stand in for results are not published"
        pytest.skip("its results are made by `bash docs/results/values.sh`, which takes hours")
    found, page = json.loads((folder / "results.json").read_text(encoding="utf-8")), script("values_page")
    assert found["criterion"] == DIGEST
    assert (folder / "README.md").read_text(encoding="utf-8") == page.page(found)
    assert (folder / "state.svg").read_text(encoding="utf-8") == page.drawn(found)


# Trainings and saved models


def articles(folder: Path) -> Path:
    said = [f"Na{i} is a the{i} cat{i} on it." for i in range(24)]
    file = folder / "articles.txt"
    file.write_text("\n\n".join(" ".join(said[start : start + 4]) for start in range(0, 24, 4)), encoding="utf-8")
    return file


def test_converted_students_are_measured_once(tmp_path):
    study, file = script("values"), articles(tmp_path)
    run = tmp_path / "run"
    for folder in (run / "student", run / "seeds" / "seed1" / "student"):
        save(llama(layers=1, hidden=32), folder)
    assert study.students(str(run)) == [str(run / "student"), str(run / "seeds" / "seed1" / "student")]
    assert study.students(str(run / "student")) == [str(run / "student")]
    assert study.students("builtin:smollm2-135m") == ["builtin:smollm2-135m"]
    assert len(script("values_trainings").texts_in(file)) == 6
    study.converted(tmp_path / "work", file, f"based={run}")
    kept = tmp_path / "work" / "converted" / "based.json"
    found = json.loads(kept.read_text())
    assert len(found) == 2
    (length, first), *_ = found[0]["sources"]["wikipedia"].items()
    assert first["asked"] == found[1]["sources"]["wikipedia"][length]["asked"]
    assert set(first["document"]) <= set(range(6))
    shutil.rmtree(run)
    study.converted(tmp_path / "work", file, f"based={run}")
    assert json.loads(kept.read_text()) == found


TINY = """
import json, sys
from pathlib import Path
folder, work, source, file, out, constants = sys.argv[1:]
sys.path.insert(0, folder)
import values_criterion
vars(values_criterion).update(json.loads(constants))
import values
values.judge(*values.trained(Path(work), file, source=source), {}, Path(out))
"""


@pytest.mark.long
def test_the_trainings_run_and_continue(tmp_path):
    said = [
        f'def n{i}(x):\n    """Thing{i} or other{i} of it."""\n' for i in range(800)
    ]  # of which a twentieth is held out
    records = ({"text": "".join(said[start : start + 2])} for start in range(0, 800, 2))
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    tiny = {"PARAMETERS": 20_000, "WIDTH": 16, "HEADS": 2, "VOCAB": 320, "LENGTHS": [128], "LENGTH": 128, "STEPS": 2}
    tiny |= {"TUNING_STEPS": 1, "FACTORS": [1.0, 2.0], "SEEDS": [1], "ROWS": 2}
    command = [sys.executable, "-c", TINY, RESULTS, tmp_path / "work", tmp_path / "text.jsonl", articles(tmp_path)]
    command += [tmp_path / "out", json.dumps(tiny)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(list(map(str, command)), check=True, capture_output=True, env=environment)
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {one["verdict"] for one in found["claims"].values()} == {"inconclusive"}, "one seed decides nothing"
    assert found["arms"]["equal tokens"]["attention"]["trained_tokens"] == 2 * 2 * 128
    trained = sorted((tmp_path / "work" / "trainings" / "cells").iterdir())
    before = [file.stat().st_mtime_ns for one in trained for file in one.iterdir()]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, env=environment)
    assert [file.stat().st_mtime_ns for one in trained for file in one.iterdir()] == before

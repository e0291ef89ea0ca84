"""What comes after the trainings of rates.sh: the runs are judged, and the page is written from what was committed."""

import json

import pytest

from tests.helpers.pages import check_page
from tests.test_smollm2 import RESULTS, measured, script

LEVELS = {  # nats per token of each arm: both claims hold
    "20m": {"5e-4": 2.5, "1e-3": 2.3, "2e-3": 2.2, "4e-3": 2.4},
    "40m": {"5e-4": 2.4, "1e-3": 2.3, "2e-3": 2.3},
}


@pytest.fixture
def folder(tmp_path):
    """Results of folders as the commands of rates.sh leave them."""
    runs = tmp_path / "runs"
    for size, rates in LEVELS.items():
        for rate, value in rates.items():
            here = runs / f"{size}-{rate}"
            for seed in (200, 201, 202):
                measured(here / "measurements" / f"student-seed{seed}.safetensors", value, seed)
            run = {
                "signature": {"seed": 200, "seeds": 3},
                "plan": {"tokens": 199_123},
                "student": {"parameters": 19_750_400, "shape": "layers=16,hidden=320"},
            }
            (here / "run.json").write_text(json.dumps(run))
    (tmp_path / "out").mkdir()
    script("rates").judge(runs, tmp_path / "out")
    return tmp_path / "out"


def test_runs_in_which_the_higher_rate_is_better_confirm_both_claims(folder):
    found = json.loads((folder / "results.json").read_text())
    assert found["verdicts"] == {"20m": "confirmed", "40m": "confirmed"}
    assert found["gains"]["20m"]["value"] == pytest.approx(0.2)
    assert found["above"]["20m"]["4e-3"]["value"] == pytest.approx(0.1)
    assert (found["seeds"], found["documents"]) == ([200, 201, 202], 40)


def test_the_page_is_written_from_the_results(folder):
    script("rates").write(str(folder))
    check_page(folder)
    assert "2 claims: 2 confirmed." in (folder / "README.md").read_text(encoding="utf-8")


def test_the_committed_page_is_that_of_its_files():
    """The page is there as soon as results are, and not before."""
    if not (RESULTS / "rates" / "results.json").exists():
        assert not (RESULTS / "rates" / "README.md").exists(), "figures that stand in for results are not published"
        return
    written = (RESULTS / "rates" / "README.md").read_text(encoding="utf-8")
    assert written == script("rates").page(), "run: python docs/results/rates.py"

"""What comes after the trainings of quantised.sh: the runs are judged, and the page is written from what was committed."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.helpers.pages import check_page
from tests.test_smollm2 import RESULTS, measured, script

LEVELS = {  # nats per token of each arm, in which both claims hold
    "plain": {"teacher": 1.0, "student": 2.0},
    "int4": {"student": 2.1, "ptq": 2.4},
    "int8": {"student": 2.01, "ptq": 2.03},
}


@pytest.fixture
def runs(tmp_path) -> Path:
    """Folders as the commands of quantised.sh leave them."""
    here = tmp_path / "runs"
    for name, arms in LEVELS.items():
        for arm, value in arms.items():
            for seed in [200] if arm == "teacher" else [200, 201, 202]:
                measured(here / name / "measurements" / f"{arm}-seed{seed}.safetensors", value, seed)
        run = {
            "signature": {"seed": 200, "seeds": 3},
            "plan": {"tokens": 199_123, "learning_rate": 0.002},
            "student": {"parameters": 19_750_400, "shape": "layers=16,hidden=320"},
            "vocabulary": {"tokens": [49152, 9463]},
        }
        (here / name / "run.json").write_text(json.dumps(run))
    for name in ("int4", "int8"):
        folder = here / f"{name}-gguf"
        folder.mkdir()
        (folder / "student.gguf").write_bytes(bytes(12_300_000 if name == "int4" else 21_400_000))
        interval = {"value": 0.0123, "low": 0.0101, "high": 0.0145, "n": 33}
        compared = dict.fromkeys(("kl", "same", "nats", "written_nats", "difference"), interval)
        row = {
            "files": ["student.gguf", "Modelfile"],
            "compared": compared | {"tokens": 900, "largest_difference": 0.5},
        }
        (folder / "export.json").write_text(json.dumps({"student": {"bytes": 79_000_000}, "exports": [row]}))
    return here


@pytest.fixture
def folder(runs, tmp_path) -> Path:
    (tmp_path / "out").mkdir()
    script("quantised").judge(runs, tmp_path / "out")
    return tmp_path / "out"


def test_runs_in_which_both_claims_hold_are_judged_so(folder):
    found = json.loads((folder / "results.json").read_text())
    assert found["verdicts"] == {"int4": "confirmed", "int8": "confirmed"}
    assert found["gains"]["int4"]["value"] == pytest.approx(0.3)
    assert found["gains"]["int8"]["value"] == pytest.approx(0.02)
    assert found["above_plain"]["int4"]["ptq"]["value"] == pytest.approx(0.4)
    assert found["above_plain"]["int8"]["student"]["value"] == pytest.approx(0.01)
    assert (found["seeds"], found["documents"]) == ([200, 201, 202], 40)
    assert found["files"]["int4"]["bytes"] == 12_300_000


def test_a_file_that_was_not_read_again_is_no_result(runs, tmp_path):
    file = runs / "int4-gguf" / "export.json"
    found = json.loads(file.read_text())
    found["exports"][0] |= {"compared": None, "reason": "no llama.cpp"}
    file.write_text(json.dumps(found))
    with pytest.raises(AssertionError, match=r"no llama\.cpp"):
        script("quantised").judge(runs, tmp_path)


def test_the_page_is_written_from_the_results(folder):
    script("quantised_page").write(str(folder))
    written = (folder / "README.md").read_text(encoding="utf-8")
    check_page(folder)
    assert "2 claims: 2 confirmed." in written
    assert (
        "At equal tokens, Q4_0 trained with its weights is better than quantised afterwards by 0.3000 nats per token; Q8_0 "
        "trained with its weights is better than quantised afterwards by 0.0200 nats per token."
    ) in written
    assert "| Q4_0 | 12.3 MB | 79.0 MB | 0.0123 | 0.0123 | +0.0123 (+0.0101 to +0.0145) | 0.01230 | 1.2 % |" in written
    picture = ElementTree.fromstring((folder / "effects.svg").read_text(encoding="utf-8"))
    assert sum(one.tag.endswith("circle") for one in picture.iter()) == 8


@pytest.mark.parametrize("verdict", ["refuted", "inconclusive"])
def test_what_is_said_follows_the_verdicts(folder, verdict):
    results = json.loads((folder / "results.json").read_text())
    results["verdicts"] = dict.fromkeys(results["verdicts"], verdict)
    (folder / "results.json").write_text(json.dumps(results))
    page = script("quantised_page").page(str(folder))
    assert f"2 claims: 2 {verdict}." in page
    assert "trained with its weights is better" not in page.replace("training with its weights is better", "")


def test_the_committed_page_is_that_of_its_files():
    """The page is there as soon as results are, and not before."""
    if not (RESULTS / "quantised" / "results.json").exists():
        assert not (RESULTS / "quantised" / "README.md").exists(), "figures that stand in for results are not published"
        return
    page = script("quantised_page")
    written = (RESULTS / "quantised" / "README.md").read_text(encoding="utf-8")
    assert written == page.page(), "run: python docs/results/quantised_page.py"
    assert (RESULTS / "quantised" / "effects.svg").read_text(encoding="utf-8") == page.drawing()

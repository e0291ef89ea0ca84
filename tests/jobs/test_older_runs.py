"""A run that an older version began is the same run to this one: its run.json is accepted, and none of other settings.

The files in ``older/`` are beginnings of run.json as limbeck of that day writes it, for the settings below (``command`` by hand).
"""

import shutil
from pathlib import Path

import pytest

from limbeck.config import DistilSettings
from limbeck.errors import BadFolder
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.folder import claim, packing_of, signature_of
from limbeck.jobs.distil.plan import DistilPlan
from limbeck.jobs.distil.request import DistilRequest
from limbeck.run.world import alone
from tests.helpers.models import write_corpus, write_teacher

OLDER = Path(__file__).parent / "older"


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """The folder of a run that an older version began: it has a student by now."""
    monkeypatch.chdir(tmp_path)
    write_teacher(tmp_path)
    write_corpus(tmp_path)

    def begun(name: str) -> Path:
        (tmp_path / "run" / "student").mkdir(parents=True)
        shutil.copy(OLDER / f"{name}.json", tmp_path / "run" / "run.json")
        return tmp_path / "run"

    return begun


def today(job: str, **changes) -> dict:
    """What this version's run.json holds of the same command."""
    params = {"distil": 9_000, "family": (11_000, 9_000)}[job]
    usual = {"teacher": "teacher", "data": "text.jsonl", "params": params, "length": 32, "tokens": 2_000, "lr": 2e-3}
    objective = {"objective": "0.5*CrossEntropy + 0.5*ForwardKL", "baselines": ("cut+ce",), "dtype": "auto"}
    settings = DistilSettings(**(usual | objective | {"schedule": "wsd"} | changes))
    if job == "family":
        return signature_of(settings, "family")
    environment = Environment(alone(), bf16=False)
    return DistilPlan.of(DistilRequest.of(settings), environment).signature({}, environment)


@pytest.mark.parametrize(("day", "packing"), [("2026-11-21", "stream"), ("2026-11-28", "best-fit-3")])
@pytest.mark.parametrize("job", ["distil", "family"])
def test_a_run_of_an_older_version_is_accepted_and_keeps_its_packing(begun, job, day, packing):
    folder = begun(f"{job}-{day}")
    assert claim(folder, today(job))["started"].startswith("2026")
    assert packing_of(folder) == packing


@pytest.mark.parametrize(("key", "value"), [("lr", 3e-3), ("tokens", 4_000), ("objective", "ReverseKL"), ("seed", 1)])
@pytest.mark.parametrize("day", ["2026-11-21", "2026-11-28"])
def test_a_run_of_an_older_version_is_not_continued_with_other_settings(begun, day, key, value):
    folder = begun(f"distil-{day}")
    with pytest.raises(BadFolder, match=rf"holds another run's state \(.*{key}: .* there, .* now"):
        claim(folder, today("distil", **{key: value}))

"""The table of goals: each row is computed from its file, and says what it does not know."""

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[1] / "docs" / "results"


@pytest.fixture(scope="module")
def goals():
    """The script as a module."""
    spec = spec_from_file_location("goal_rows", RESULTS / "goal_rows.py")
    module = sys.modules["goal_rows"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["goal_rows"]


TRAINING = {"limbeck": (90, 120, 150), "trl": (30, 25, 20), "cached": (200, 260, 240), "plain": (1, 1, 1)}
FILES = {
    "memory": {"worst": {"usual": {"fitted": 0.05, "others": 0.081}, "layers twice": {"fitted": 0.02}}},
    "cut": {
        "models": [
            {"parameters": 1e8, "streamed": {"peak_gib": 9.0}},
            {"parameters": 3.2e9, "streamed": {"peak_gib": 4.25}},
        ]
    },
    "distil": {"runs": [{"contender": name, "tokens_per_cpu_s": r} for name, rates in TRAINING.items() for r in rates]},
    "on-policy": {"runs": [{"contender": n, "tokens_per_cpu_s": r} for n, r in (("trl", 100), ("limbeck", 300))]},
    "steps": {
        "vocabularies": [
            {"vocab": 8192, "seconds": {"packed": [2.0, 3.0, 2.6], "live": [1.0, 2.0, 2.0], "cached": [1.0, 1.0, 1.0]}},
            {"vocab": 32_000, "seconds": {"packed": [4.0], "live": [2.0], "cached": [1.0]}},
        ],
        "lengths": {"256": [3.0, 3.0], "2048": [4.0, 4.0], "8192": [3.0, 3.0]},
    },
    "losses-limbeck": {
        "results": [
            {"contender": "matrix products alone", "seconds": [1.0, 1.0]},
            {"contender": "limbeck ForwardKL", "seconds": [1.1, 1.3]},
        ]
    },
    "capture": {
        "formats": {
            "float32": {"bare": [9.0], "12 sampled": [9.0], "top-64": [9.0]},
            "bfloat16": {"bare": [1.0, 2.0], "12 sampled": [2.0, 2.5], "top-64": [1.25, 2.5]},
        },
        "reading": {"positions": 4e6, "seconds": {"12 sampled": [0.4, 0.5, 0.8], "top-64": [9.0]}},
    },
    "tokenising": {
        "bytes": 4e6,
        "runs": {
            "one core": {"bare": [{"cpu_s": 9.0}], "limbeck": [{"cpu_s": 2.0}, {"cpu_s": 1.6}]},
            "all cores": {"bare": [{"cpu_s": 9.0}], "limbeck": [{"cpu_s": 2.5}]},
        },
    },
    "start": {
        "help": {"limbeck --help": [0.3, 0.5, 0.35], "limbeck distil --help": [0.41]},
        "jobs": [{"whole": 50.0, "estimating": 2.5, "measuring": 5.0, "training": 20.0}],
    },
}
EXPECTED = [  # by hand, from the numbers above
    ("at most 10 %", "8.1 % (2.0 to 8.1)", "met"),
    ("at most 4 GiB", "4.25 GiB", "missed"),
    ("at least 4.5", "4.80 (3.00 to 7.50)", "met"),
    ("at least 8", "9.60 (6.67 to 12.00)", "met"),
    ("at least 2", "3.00", "met"),
    ("at least 1.3", "1.30 (1.30 to 2.00)", "met"),
    ("at least 1.8", "2.00", "met"),
    ("at least 0.85", "0.75", "missed"),
    ("at least 0.85", "1.00", "met"),
    ("at most 1.15", "1.20 (1.10 to 1.30)", "missed"),
    ("at least 0.6", "0.67 (0.50 to 0.80)", "met"),
    ("at least 0.6", "0.80", "met"),
    ("at least 8 M", "8.00 M (5.00 to 10.00)", "met"),
    ("at least 1.7 MB", "2.25 MB (2.00 to 2.50)", "met"),
    ("at least 1.7 MB", "1.60 MB", "missed"),
    ("at most 15 %", "15 %", "met"),
    ("at most 0.4 CPU-s", "0.35 CPU-s (0.30 to 0.50)", "met"),
    ("at most 0.4 CPU-s", "0.41 CPU-s", "missed"),
]


def test_each_row_is_computed_from_its_file(goals, tmp_path):
    for name, found in FILES.items():
        facts = {"date": "2026-01-02T03:04:05+00:00", "processor": f"that of {name}"}
        (tmp_path / f"{name}.json").write_text(json.dumps(facts | found))
    rows = list(goals.rows(tmp_path))
    assert [tuple(row[1:4]) for row in rows] == EXPECTED
    assert [row[4] for row in rows] == [f"that of {goal.file}, 2026-01-02" for goal in goals.GOALS]
    assert len({row[0] for row in rows}) == len(rows)


def test_what_has_no_file_or_no_such_contender_was_not_measured(goals, tmp_path):
    assert {tuple(row[2:]) for row in goals.rows(tmp_path)} == {("not measured", "", "")}
    runs = [run for run in FILES["distil"]["runs"] if run["contender"] != "cached"]
    (tmp_path / "distil.json").write_text(json.dumps({"runs": runs, "date": "2026-01-02", "hardware": "a CPU"}))
    rows = {row[0]: row[2:] for row in goals.rows(tmp_path)}
    assert rows["cached training, times TRL's GKD"] == ["not measured", "", ""]
    assert rows["live training, times TRL's GKD"] == ["4.80 (3.00 to 7.50)", "met", "a CPU, 2026-01-02"]


def test_committed_files_have_what_their_goals_are_computed_from(goals):
    """A file that is there and gives nothing would be a goal that nobody looks at again."""
    there = [goal for goal in goals.GOALS if (RESULTS / "performance" / f"{goal.file}.json").exists()]
    assert there
    silent = [goal.what for goal in there if goal.cells(RESULTS / "performance")[2] == goals.UNKNOWN]
    assert set(silent) <= {"peak of cutting a model of 3B"}


def test_the_page_has_todays_table(goals):
    page = (RESULTS / "performance.md").read_text(encoding="utf-8")
    table = page.split("<!-- table goals: begin -->\n\n")[1].split("\n\n<!-- table goals: end -->")[0]
    assert table == goals.table(), "run: python docs/results/tables.py"

"""`distil --tasks`: all models on the same items, in readings, report and card; a run that goes on keeps its bits."""

import json

import pytest

import limbeck
from limbeck.errors import BadTask
from tests.helpers.models import write_corpus, write_teacher

pytestmark = [pytest.mark.extras, pytest.mark.filterwarnings("ignore")]


def distil(folder, out, **more):
    return limbeck.distil(
        teacher=str(write_teacher(folder)),
        shrink=2,
        data=str(write_corpus(folder)),
        tokens=1000,
        seq_len=32,
        baselines="cut,cut+ce",
        out=folder / out,
        device="cpu",
        threads=1,
        **more,
    )


def write_tasks(folder):
    rows = [
        {"prompt": f"the {word}", "choices": [" cat", " dog sang"], "gold": i % 2}
        for i, word in enumerate(("red", "two", "sun", "rain", "mat", "one"))
    ]
    file = folder / "choices.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_tasks_are_added_to_a_run_without_changing_it(tmp_path):
    plain, tasks = distil(tmp_path, "plain"), write_tasks(tmp_path)
    both = distil(tmp_path, "both", tasks=tasks)
    weights = [(tmp_path / out / "student" / "model.safetensors").read_bytes() for out in ("plain", "both")]
    assert weights[0] == weights[1]
    later = distil(tmp_path, "plain", tasks=tasks)
    assert later.readings["student"]["acc, choices"] == both.readings["student"]["acc, choices"]
    assert "acc, choices" not in plain.readings["student"]
    for model in ("teacher", "student", "cut", "cut+ce"):
        assert later.readings[model]["acc, choices"].n == 6
    wanted = {"acc_minus_teacher, choices", "acc_minus_cut, choices", "acc_minus_cut+ce, choices"}
    assert wanted <= later.readings["student"].keys()
    page = (tmp_path / "plain" / "report.html").read_text()
    assert "Standard tasks: accuracy by model" in page
    assert "margin, nats" in page
    assert "## Standard tasks" in (tmp_path / "plain" / "student" / "README.md").read_text()


def test_a_teacher_with_captured_logits_answers_too(tmp_path):
    found = distil(tmp_path, "kept", tasks=write_tasks(tmp_path), cache_logits=True)
    assert found.readings["teacher"]["acc, choices"].n == 6
    assert "acc_minus_teacher, choices" in found.readings["student"]


def test_a_bad_task_stops_a_run_before_its_training(tmp_path):
    with pytest.raises(BadTask, match="does not exist"):
        distil(tmp_path, "run", tasks=str(tmp_path / "none.jsonl"))
    assert not (tmp_path / "run").exists()

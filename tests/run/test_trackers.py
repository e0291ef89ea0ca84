"""Trackers get what metrics.jsonl and held_out.jsonl get, and nothing of a training depends on them."""

import re
import sys
from types import SimpleNamespace

import pytest
import torch

from limbeck.config import DistilSettings, resolve
from limbeck.disk import read_lines
from limbeck.errors import BadSetting
from limbeck.jobs.common.folder import signature_of
from limbeck.jobs.common.training import rule_of, tracked_of
from limbeck.objectives import CrossEntropy
from limbeck.run.run import Run
from limbeck.run.trackers import Tracked, require_tracker
from tests.run.test_run import STEPS, build, weights
from tests.run.test_selection import Killed, run_of
from tests.run.test_watch import watch

SECRET = "sk-not-to-be-seen-anywhere"


class Fake:
    """A tracker that remembers; ``fails_at``: the step whose values it does not take."""

    def __init__(self, tracked, step, fails_at=None):
        self.tracked, self.begun, self.fails_at = tracked, step, fails_at
        self.logged, self.ended = [], []

    def log(self, step, values):
        if step == self.fails_at:
            raise ConnectionError(f"no route to https://u:{SECRET}@host/api?key={SECRET}")
        self.logged.append((step, values))

    def end(self, *, complete):
        self.ended.append(complete)


@pytest.fixture
def opened(monkeypatch):
    """The fakes that were opened in the place of TensorBoard, and the step at which the next one fails."""
    how = SimpleNamespace(opened=[], fails_at=None)

    def open_run(tracked, step):
        how.opened.append(Fake(tracked, step, how.fails_at))
        return how.opened[-1]

    monkeypatch.setitem(sys.modules, "limbeck.run.trackers.tensorboard_run", SimpleNamespace(open_run=open_run))
    return how


def tracked(folder, name="student-seed0", tracker="tensorboard", begun="2026-11-29T00:00:00") -> Tracked:
    return Tracked(tracker, folder, name, begun, {"lr": 5e-3, "objective": "CrossEntropy"})


def run_in(folder, data, **plan) -> Run:
    run = build(folder, data, make=CrossEntropy, **plan)
    run.watch, run.tracked = watch(data), tracked(folder)
    return run


def test_a_tracker_gets_the_rows_of_the_files(tmp_path, opened):
    data = tmp_path / "data"
    data.mkdir()
    run = run_in(tmp_path / "run", data)
    run.train()
    (fake,) = opened.opened
    steps = [(step, values) for step, values in fake.logged if "train/lr" in values]
    rows = read_lines(run.folder / "metrics.jsonl")
    assert [step for step, _ in steps] == [row["step"] for row in rows] == [*range(1, STEPS + 1)]
    for (_, values), row in zip(steps, rows, strict=True):
        assert values == {f"train/{name}": row[name] for name in row if name not in ("step", "crc32")}
    held_out = [(step, values["held_out/loss_nats"]) for step, values in fake.logged if "train/lr" not in values]
    assert held_out == [(row["step"], row["loss_nats"]) for row in read_lines(run.folder / "held_out.jsonl")]
    assert fake.ended == [True]


@pytest.mark.long
def test_a_training_goes_on_without_a_tracker_that_fails(tmp_path, opened, capsys):
    data = tmp_path / "data"
    data.mkdir()
    opened.fails_at = 3
    plain, run = build(tmp_path / "plain", data, make=CrossEntropy), run_in(tmp_path / "run", data)
    plain.train()
    run.train()
    assert torch.equal(weights(run), weights(plain))
    said = re.sub(r"\s+", " ", capsys.readouterr().err)
    assert said.count("note: --track tensorboard failed, and the training goes on without it") == 1
    assert "ConnectionError: no route to https://***@host/api?***" in said
    assert SECRET not in said
    assert max(step for step, _ in opened.opened[0].logged) == 2


@pytest.mark.long
def test_a_killed_training_is_continued_in_its_tracker(tmp_path, opened):
    data = tmp_path / "data"
    data.mkdir()
    run = run_of(tmp_path / "run", data, killed_at=8)
    run.tracked = tracked(run.folder)
    with pytest.raises(Killed):
        run.train()
    again = run_of(tmp_path / "run", data)
    again.tracked = tracked(run.folder)
    again.train()
    first, second = opened.opened
    assert (first.begun, first.ended, second.begun, second.ended) == (0, [False], 5, [True])
    assert first.tracked.identity == second.tracked.identity


def test_an_identity_is_of_one_training_of_one_run(tmp_path):
    one = tracked(tmp_path)
    others = [tracked(tmp_path, name="cut+ce-seed0"), tracked(tmp_path, begun="2026"), tracked(tmp_path / "other")]
    assert tracked(tmp_path).identity == one.identity
    assert len({one.identity, *(other.identity for other in others)}) == 4
    assert re.fullmatch("[0-9a-f]{16}", one.identity)
    assert one.group == tmp_path.name


@pytest.mark.parametrize("name", ["trackio", "wandb", "tensorboard", "mlflow"])
def test_a_missing_package_is_named_before_anything_begins(monkeypatch, name):
    monkeypatch.setattr("limbeck.packages.find_spec", lambda package: None)
    with pytest.raises(BadSetting, match=rf"--track {name}: .* the package {name}, .* pip install 'limbeck\[{name}\]'"):
        rule_of(DistilSettings(track=name))
    monkeypatch.setattr("limbeck.packages.find_spec", lambda package: package)
    require_tracker(name)


def test_what_a_tracker_shows_has_no_secrets_and_no_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    settings = resolve(
        DistilSettings,
        None,
        {
            "track": "wandb",
            "data": f"/home/me/notes/b.jsonl,https://u:{SECRET}@h/a.jsonl?key={SECRET}",
            "out": tmp_path,
        },
    )
    run = {"signature": signature_of(settings, "distil", objective_code=SECRET), "started": "2026-11-29T00:00:00"}
    shown = tracked_of(settings, run).settings
    assert SECRET not in str(shown)
    assert "/home/me" not in str(shown)
    assert shown["data"] == "b.jsonl,https://***@h/a.jsonl?***"
    assert (shown["tokens"], shown["schedule"]) == (500_000, "wsd")
    assert tracked_of(settings, {}) is None  # on other ranks
    assert tracked_of(DistilSettings(out=tmp_path), run) is None
    assert "track" not in run["signature"]  # which may be given, or left out, when a run is continued


@pytest.mark.extras
@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb", "trackio"])
def test_real_trackers_show_a_training_once(tmp_path, monkeypatch, capsys, name):
    """A training that was killed and continued is one run, with each step's values; nothing needs a network."""
    pytest.importorskip(name)
    data, folder = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    killed = run_of(folder, data, killed_at=8)
    killed.watch, killed.tracked = watch(data), tracked(folder, tracker=name)
    with pytest.raises(Killed):
        killed.train()
    again = run_of(folder, data)
    again.watch, again.tracked = watch(data), tracked(folder, tracker=name)
    again.train()
    assert "goes on without it" not in capsys.readouterr().err
    assert torch.equal(weights(again), weights(_plain(tmp_path, data)))
    expected = {row["step"]: row["loss_nats"] for row in read_lines(folder / "metrics.jsonl")}
    found = {"tensorboard": _of_tensorboard, "mlflow": _of_mlflow}.get(name)
    if found is not None:
        losses = found(folder)
        assert losses.keys() == expected.keys()
        assert all(losses[step] == pytest.approx(expected[step], rel=1e-6) for step in expected)


def _plain(tmp_path, data):
    run = build(tmp_path / "plain", data, make=CrossEntropy)
    run.train()
    return run


def _of_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard" / "student-seed0"))
    found.Reload()
    assert found.Tags()["tensors"] == ["settings/text_summary"]
    return {event.step: event.value for event in found.Scalars("train/loss_nats")}


def _of_mlflow(folder):
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("limbeck").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["objective"] == "CrossEntropy"
    return {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "train/loss_nats")}

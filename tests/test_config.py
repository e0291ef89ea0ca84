"""Settings from a file and flags: flags win, and nothing wrong is ignored."""

from pathlib import Path

import pytest

from limbeck.config import DistilSettings, count, resolve
from limbeck.errors import BadSetting


@pytest.mark.parametrize(
    ("text", "value"),
    [("250k", 250_000), ("6M", 6_000_000), ("1.3B", 1_300_000_000), ("2_000", 2000), (7, 7), ("1e6", 10**6)],
)
def test_counts_are_read_as_people_write_them(text, value):
    assert count(text) == value


def test_flags_win_over_the_file(tmp_path: Path):
    file = tmp_path / "run.toml"
    file.write_text('tokens = "2M"\nbatch-tokens = 4096\nbaselines = "cut, fresh+kd"\n')
    settings = resolve(DistilSettings, file, {"tokens": "3M", "seed": None})
    assert (settings.tokens, settings.batch_tokens, settings.baselines) == (3_000_000, 4096, ("cut", "fresh+kd"))


def test_an_unknown_key_names_the_nearest(tmp_path: Path):
    file = tmp_path / "run.toml"
    file.write_text('tokns = "2M"\n')
    with pytest.raises(BadSetting, match=r"run.toml: unknown key 'tokns'; did you mean 'tokens'\?"):
        resolve(DistilSettings, file, {})


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"tokens": "lots"}, "--tokens: expected a count such as 250k, 6M or 1.3B, got 'lots'"),
        ({"tokens": "0"}, "--tokens: expected more than 0, got "),
        ({"baselines": "cut+cee"}, r"unknown baseline 'cut\+cee'; did you mean 'cut\+ce'\?"),
        ({"schedule": "linear"}, "--schedule: .*'wsd', 'cosine' or 'constant'"),
        ({"lr": -1.0}, "--lr: expected more than 0, got "),
        ({"seeds": 0}, "--seeds: expected at least 1, got "),
        ({"columns": "body"}, "--columns: expected usual names and those of the data, such as text=body"),
        ({"columns": "text="}, "--columns: expected usual names"),
        (
            {"warmup": "1.5"},
            "--warmup: expected a share of the steps below 1, such as 0.01, or a number of steps, got '1.5'",
        ),
        ({"warmup": -0.1}, "--warmup: expected a share"),
        ({"weight_decay": 2}, "--weight-decay: expected at most 1, got 2"),
        ({"max_grad_norm": -1}, "--max-grad-norm: expected at least 0, got -1"),
        ({"betas": "0.9"}, "--betas: expected two numbers from 0 to below 1, such as 0.9,0.95, got '0.9'"),
        ({"betas": "0.9,1"}, "--betas: expected two numbers"),
        ({"save_every": "0"}, "--save-every: expected a number of steps such as 500, or a time such as 30min, got '0'"),
        ({"save_every": "5s"}, "--save-every: expected a number of steps"),
        ({"skip_bad": -1}, "--skip-bad: expected at least 0, got -1"),
    ],
)
def test_a_wrong_value_names_the_flag_and_what_came(flags, words):
    with pytest.raises(BadSetting, match=words):
        resolve(DistilSettings, None, flags)


@pytest.mark.parametrize("given", ["prompt=question, completion=a=b", ["prompt=question", "completion=a=b"]])
def test_columns_are_pairs_of_names(given):
    settings = resolve(DistilSettings, None, {"columns": given})
    assert settings.columns == (("prompt", "question"), ("completion", "a=b"))
    assert resolve(DistilSettings, None, settings.model_dump(include={"columns"})).columns == settings.columns


def test_a_missing_or_broken_run_file_is_an_error(tmp_path: Path):
    with pytest.raises(BadSetting, match=r"no run file .*give the path of a TOML file"):
        resolve(DistilSettings, tmp_path / "none.toml", {})
    file = tmp_path / "broken.toml"
    file.write_text("tokens 2M")
    with pytest.raises(BadSetting, match="is no TOML run file"):
        resolve(DistilSettings, file, {})
    data = tmp_path / "second.jsonl"
    data.write_text('{"text": "a"}')
    with pytest.raises(BadSetting, match=r"expected a TOML run file.*with commas: --data first.jsonl,second.jsonl"):
        resolve(DistilSettings, data, {"data": "first.jsonl"})

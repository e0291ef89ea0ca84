"""Hundreds of bad inputs over all commands: each ends with a message and a status, none with a traceback.

They are made by rules from what is right: flags with values that are none, run files, objectives, a model's configuration and
its weights' headers, folders of a run with another's or damaged files. What by chance is right may go on to work.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import limbeck
from limbeck import cli
from limbeck.models.save import save
from tests.helpers.models import llama, tokenizer, write_corpus

pytestmark = pytest.mark.long

SECONDS = 600  # after which an input is taken to have no end, on a busy machine too
ODD = [
    "",
    "-1",
    "0",
    "nan",
    "inf",
    "1e400",
    "9" * 400,
    "[red]",
    "[/]",
    "a" * 5000,
    "\x1b[2J",
    "é\u2028",
    "{}",
    "../..",
    "null",
]
JSON_ODD: list[Any] = [None, -1, 0, 1.5, 2**40, float("inf"), "x", [], {}, [[]], True, "[/x]", "\x1b[2J", 10**30]


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A teacher, a text, a run and a capture: what is right."""
    folder = tmp_path_factory.mktemp("fuzz")
    save(llama(layers=2, tok=tokenizer()), folder / "teacher")
    write_corpus(folder)
    about = {"teacher": str(folder / "teacher"), "data": str(folder / "text.jsonl"), "length": 32, "tokens": "1k"}
    limbeck.distil(**about, shrink=2.0, batch_tokens=128, baselines="none", seeds=1, out=folder / "run")
    limbeck.capture(**about, bytes_per_token=48, out=folder / "answers")
    return folder


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Runs a command; gives what is wrong with how it ended, "" for nothing."""
    monkeypatch.chdir(tmp_path)

    def too_long(*_: object) -> None:
        raise TimeoutError("no end")

    def run(*argv: object) -> str:
        monkeypatch.setattr(sys, "argv", ["limbeck", *map(str, argv)])
        old = signal.signal(signal.SIGALRM, too_long)
        signal.alarm(SECONDS)
        try:
            cli.main()
            return "it returned"
        except SystemExit as stop:
            err = capsys.readouterr().err
            if stop.code in (0, None):
                return ""
            if not isinstance(stop.code, int) or stop.code not in (1, 2):
                return f"status {stop.code}"
            if "\x1b" in err.replace("\x1b[", "", 0) and "\x1b[2J" in err:
                return "an escape sequence reached the terminal"
            return "" if err.strip() else "no message"
        except BaseException as error:  # a traceback for a user
            return f"{type(error).__name__}: {error}"[:300]
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, old)
            capsys.readouterr()

    return run


def report(faults: list[tuple[Any, str]]) -> None:
    """Fails with what went wrong."""
    assert not faults, "\n".join(f"{what}: {how}" for what, how in faults)


def flags_of(command: str) -> list[str]:
    """The long flags of a command that take a value."""
    import typer

    group = typer.main.get_command(cli.app)
    found = group.commands[command]  # type: ignore[attr-defined]
    return [option.opts[0] for option in found.params if option.opts[0].startswith("--") and not option.is_flag]


def usual(here: Path, out: Path) -> dict[str, list[str]]:
    """Commands as they should be, small."""
    model = ["--teacher", str(here / "teacher"), "--data", str(here / "text.jsonl"), "--length", "32"]
    small = ["--tokens", "200", "--batch-tokens", "128", "--threads", "1"]
    return {
        "plan": ["--params", "600M", "--tokens", "10B", "--candidates", "1.5B,4B"],
        "doctor": [*model, "--shrink", "2"],
        "shrink": [*model, "--shrink", "2", "--out", str(out)],
        "distil": [*model, *small, "--shrink", "2", "--baselines", "none", "--out", str(out)],
        "capture": [*model, "--tokens", "200", "--out", str(out)],
        "pretrain": [
            "--data",
            str(here / "text.jsonl"),
            "--params",
            "20k",
            "--vocab",
            "300",
            *small,
            "--out",
            str(out),
        ],
        "probe": [str(here / "run" / "student"), "--data", str(here / "text.jsonl")],
        "predict": ["--points", str(here / "run"), "--task", "addition", "--params", "20M"],
        "pilot": ["--data", str(here / "text.jsonl"), "--students", "0", "--out", str(out)],
        "reproduce": ["capacity-gap", "--points", str(here / "run"), "--out", str(out)],
    }


@pytest.mark.parametrize(
    "command",
    ["plan", "doctor", "shrink", "distil", "capture", "pretrain", "probe", "predict", "pilot", "reproduce"],
)
def test_flags(here, call, tmp_path, command):
    chosen = random.Random(command)
    faults = []
    for number, flag in enumerate(flags_of(command)):
        for value in chosen.sample(ODD, 2):
            out = tmp_path / f"{number}-{ODD.index(value)}"
            faults.append(((command, flag, value[:20]), call(command, *usual(here, out)[command], flag, value)))
    report([fault for fault in faults if fault[1]])


@pytest.mark.parametrize(
    "text",
    [
        *(
            "tokens = ",
            "[[",
            "tokens = 1e999",
            "out = 5",
            "x = 1",
            "tokens = [1, 2]",
            "data = {a = 1}",
            "\x00",
            "﻿tokens = 3",
        ),
        *(
            "a = " + "[" * 3000 + "]" * 3000,
            "tokens = " + "9" * 5000,
            "teacher = '\\x1b[2J[/x]'",
            "lr = nan",
            "lr = -1",
        ),
        *(
            'params = ["1M", 3]',
            "objective = 4",
            "objective = '" + "(" * 3000 + "'",
            "seeds = true",
            "seeds = 10000000000",
        ),
    ],
)
def test_run_files(here, call, tmp_path, text):
    file = tmp_path / "run.toml"
    file.write_text(text, encoding="utf-8")
    fault = call("distil", file, *usual(here, tmp_path / "out")["distil"])
    assert not fault, fault


@pytest.mark.parametrize(
    "objective",
    [
        *(
            "",
            " ",
            "(",
            ")",
            "1*",
            "*",
            "TAID(",
            "TAID()()",
            "TAID(start=)",
            "TAID(start=nan)",
            "TAID(start='x')",
            "GKD",
            "0/0",
        ),
        *(
            "1e400*CrossEntropy",
            "-1*CrossEntropy",
            "CrossEntropy+" * 900 + "CrossEntropy",
            "(" * 3000 + "CE" + ")" * 3000,
        ),
        *(
            "__import__('os')",
            "CE if 1 else CE",
            "ForwardKL(temperature=0)",
            "ForwardKL(temperature=9" + "9" * 400 + ")",
        ),
        *(
            "CTKD(ramp=-5)",
            "0*CrossEntropy",
            "CE, CE",
            ",",
            "ForwardKL(**{})",
            "[CE]",
            "CE.x",
            "é",
            "\x1b[2J",
            "TAID(alpha=1,alpha=2)",
        ),
    ],
)
def test_objectives(here, call, tmp_path, objective):
    fault = call("distil", *usual(here, tmp_path / "out")["distil"], "--objective", objective)
    assert not fault, fault


def mutated(value: dict[str, Any], chosen: random.Random, odd: list[Any]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """One field after the other with a value that is not its own."""
    for key in value:
        for other in chosen.sample(odd, 2):
            yield key, other, value | {key: other}


def test_configurations_of_models(here, call, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(here / "teacher", folder)
    config = json.loads((folder / "config.json").read_text())
    faults = []
    for number, (key, other, bad) in enumerate(mutated(config, random.Random(0), JSON_ODD)):
        (folder / "config.json").write_text(json.dumps(bad))
        command = ("doctor", "plan", "shrink", "probe")[number % 4]
        about = ["--teacher", folder, "--data", here / "text.jsonl", "--length", 32, "--shrink", 2]
        more = {
            "doctor": about,
            "shrink": [*about, "--out", tmp_path / f"out{number}"],
            "plan": ["--teacher", folder, "--device-memory", "1GiB"],
            "probe": [folder, "--data", here / "text.jsonl"],
        }[command]
        faults.append(((command, key, other), call(command, *more)))
    report([fault for fault in faults if fault[1]])


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json", "tokenizer.json", "config.json"])
@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", '{"a": ' * 3000, "\x00\xff", '{"model_type": 5}', "9" * 5000, '"x"']
)
def test_files_of_models(here, call, tmp_path, name, text):
    folder = tmp_path / "model"
    shutil.copytree(here / "teacher", folder)
    (folder / name).write_text(text, encoding="latin1")
    fault = call("probe", folder, "--data", here / "text.jsonl")
    assert not fault, fault


def headers(header: dict[str, Any], body: bytes) -> Iterator[bytes]:
    """Safetensors files that are none."""

    def file(text: bytes, length: int | None = None) -> bytes:
        return struct.pack("<Q", len(text) if length is None else length) + text + body

    first = next(name for name in header if name != "__metadata__")
    yield from (b"", b"\x00" * 7, file(b"{}", 2**63), file(b"{", 1), file(b"[]"), file(b"null"), file(b'{"a":' * 5000))
    for key, values in {
        "dtype": ["F99", 5, None],
        "shape": [[-1], [2**62, 2**62], "x", None, [0], []],
        "data_offsets": [[0], [5, 1], [0, 2**62], "x", [-4, 0]],
    }.items():
        for value in values:
            yield file(json.dumps(header | {first: header[first] | {key: value}}).encode())
    yield file(json.dumps({k: v for k, v in header.items() if k != first}).encode())
    yield file(json.dumps(header | {"../x": header[first]}).encode())


def test_headers_of_weights(here, call, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(here / "teacher", folder)
    whole = (folder / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", whole[:8])
    header, body = json.loads(whole[8 : 8 + size]), whole[8 + size :]
    faults = []
    for number, bad in enumerate(headers(header, body)):
        (folder / "model.safetensors").write_bytes(bad)
        for more in (
            ["probe", folder, "--data", here / "text.jsonl"],
            ["plan", "--teacher", folder, "--device-memory", "1GiB"],
        ):
            faults.append(((number, more[0]), call(*more)))
    report([fault for fault in faults if fault[1]])


@pytest.mark.parametrize(
    "index", ["{}", '{"weight_map": {}}', '{"weight_map": 5}', '{"weight_map": {"a": "../x"}}', "[", "[]"]
)
def test_indexes_of_weights(here, call, tmp_path, index):
    folder = tmp_path / "model"
    shutil.copytree(here / "teacher", folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    fault = call("probe", folder, "--data", here / "text.jsonl")
    assert not fault, fault


@pytest.mark.parametrize("kind", ["run", "answers"])
def test_foreign_folders(here, call, tmp_path, kind):
    """Each JSON file of a run or a capture with fields of other kinds, or with another file's words."""
    faults = []
    chosen = random.Random(kind)
    folder = tmp_path / "folder"
    for file in sorted((here / kind).rglob("*.json*")):
        name = file.relative_to(here / kind)
        text = file.read_text()
        words = ["", "[]", "null", "5", '{"a": 1}', "{" * 2000, text[: len(text) // 2], "\x00"]
        if name.suffix == ".json" and isinstance(value := json.loads(text), dict):
            words += [json.dumps(bad) for _, _, bad in mutated(value, chosen, JSON_ODD)][:: max(1, len(value) // 4)]
        for bad in chosen.sample(words, min(4, len(words))):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(here / kind, folder)
            (folder / name).write_text(bad)
            out = tmp_path / f"out{len(faults)}"
            more = [
                ["report", folder],
                ["verify", folder],
                ["probe", folder / "student", "--data", here / "text.jsonl"]
                if kind == "run"
                else [
                    "distil",
                    "--teacher",
                    folder,
                    "--shrink",
                    2,
                    "--tokens",
                    200,
                    "--batch-tokens",
                    128,
                    "--out",
                    out,
                ],
                ["cache", "inspect", folder],
            ][len(faults) % (3 if kind == "run" else 4)]
            faults.append(((str(name), bad[:30], more[0]), call(*more)))
    report([fault for fault in faults if fault[1]])

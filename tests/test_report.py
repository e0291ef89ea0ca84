"""The verdict in words, the page and the card, from the folder of a run made up for the purpose."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from limbeck.errors import BadFolder, Mismatch
from limbeck.probes.interval import bootstrap
from limbeck.probes.likelihood import likelihood
from limbeck.probes.measure import BINS, Measurements
from limbeck.report import model_card, verdict, write_report
from limbeck.report.folder import RunFolder
from limbeck.report.words import count, duration, plus_minus, size
from limbeck.types import Reading

DOCUMENTS = 200
NAUGHTY = "<script>alert(1)</script>"


def made_up(level: float, *, seed: int = 0, noise: float = 0.02, documents: int = DOCUMENTS) -> Measurements:
    """Measurements of a model that is ``level`` nats per token on average, on documents shared by all models."""
    shared = np.random.default_rng(0)
    tokens = shared.integers(50, 400, documents).astype(float)
    difficulty = shared.normal(0, 0.3, documents)
    own = np.random.default_rng(seed + round(level * 1e6)).normal(0, noise, documents)
    return Measurements(tokens, tokens * (level + difficulty + own - own.mean()), np.zeros((documents, BINS, 3)))


def arms(**levels: float) -> dict[str, list[Measurements]]:
    names = {"ce": "cut+ce", "fresh": "fresh+kd", "flops": "cut+ce@flops"}
    return {names.get(name, name): [made_up(level)] for name, level in levels.items()}


def metrics(arm: str, *, start: float, end: float, steps: int = 240) -> list[dict]:
    generator = np.random.default_rng(len(arm))
    rows = []
    for step in range(1, steps + 1):
        loss = end + (start - end) * np.exp(-step / 35) + generator.normal(0, 0.05)
        rows.append(
            {
                "step": step,
                "tokens": step * 8192,
                "loss_nats": loss,
                "lr": 1e-3,
                "grad_norm": 0.5,
                "tokens_per_s": 9000 + generator.normal(0, 200),
                "peak_rss_gib": 0.71,
            }
        )
    return rows


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


RUN = {
    "command": ["limbeck", "distil", "--teacher", "stories-llama-260k", "--shrink", "2.5", "--data", "my stories.jsonl"],
    "versions": {"limbeck": "0.1.0", "python": "3.12.3", "torch": "2.13.0", "machine": "Linux x86_64, a processor"},
    "signature": {"teacher": "stories-llama-260k", "shrink": 2.5, "data": "my stories.jsonl", "seed": 0},
    "started": "2026-03-02T09:15:00+00:00",
    "ended": "2026-03-02T09:21:30+00:00",
    "seconds": 390.4,
    "objective": "0.5*CrossEntropy() + 0.5*ForwardKL()",
    "plan": {"steps": 240, "tokens": 240 * 8192, "rows": 32, "length": 256},
    "teacher": {
        "name": "stories-llama-260k",
        "parameters": 260032,
        "shape": "layers=5,hidden=64,heads=8,kv_heads=4,ffn=172",
    },
    "student": {"name": "stories-cut", "parameters": 104512, "shape": {"layers": 4, "hidden": 48, "heads": 4, "kv_heads": 2, "ffn": 112}},
    "lineage": {"teacher": "stories-llama-260k", "method": "activation", "kept": {"layers": [0, 1, 3, 4]}},
    "doctor": [
        {"check": "vocabulary", "level": "ok", "message": "both speak the same 512 tokens", "remedy": ""},
        {"check": "context", "level": "warning", "message": "rows of 256 tokens, context 512", "remedy": "Use --length 512."},
    ],
}
STORY = "Once upon a time, there was a little girl named Lily. She loved to play outside in the"


def readings() -> list[Reading]:
    levels = {"teacher": 1.289, "student": 1.497, "cut": 2.024, "cut+ce": 1.531, "fresh+kd": 1.702}
    sizes = np.full(DOCUMENTS, 900.0)
    rows = []
    for name, level in levels.items():
        rows += likelihood(name, [made_up(level)], text_bytes=sizes)
        far = level - 1.289
        fidelity = {"kl_teacher_student": (far * 0.9, "nats/token"), "top1_agreement": (1 - far * 0.4, "share")}
        fidelity |= {"acceptance": (1 - far * 0.35, "share"), "ece": (0.012 + far * 0.03, "share")}
        rows += [Reading(name, "fidelity", key, v, u, DOCUMENTS, v * 0.98, v * 1.02) for key, (v, u) in fidelity.items()]
    for name, factor in (("teacher", 1.0), ("student", 0.402)):
        exact = {"parameters": (260032, "parameters"), "embedding_parameters": (32768, "parameters")}
        exact |= {"weights_on_disk": (1044992, "bytes"), "peak_memory": (3500000, "bytes")}
        rows += [Reading(name, "cost", key, v * factor, u, 1, v * factor, v * factor) for key, (v, u) in exact.items()]
        for key, speed in (("prefill", 31000), ("decode", 410)):
            v = speed / factor**0.6
            rows.append(Reading(name, "cost", key, v, "tokens/s", 5, v * 0.93, v * 1.05))
    return rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder, made up but plausible; its documents and its teacher's name hold markup."""
    out = tmp_path / "run"
    write_lines(out / "metrics.jsonl", metrics("student", start=2.2, end=0.42))
    write_lines(out / "baselines/cut+ce-seed0/metrics.jsonl", metrics("cut+ce", start=2.1, end=1.5))
    write_lines(out / "baselines/fresh+kd-seed0/metrics.jsonl", metrics("fresh+kd", start=5.1, end=0.7))
    write_lines(out / "readings.jsonl", [reading.row() for reading in readings()])
    found = verdict(
        arms(student=1.497, ce=1.531, fresh=1.702, cut=2.024),
        made_up(1.289),
        student_parameters=104512,
        teacher_parameters=260032,
    )
    (out / "verdict.json").write_text(json.dumps(found.row()))
    (out / "run.json").write_text(json.dumps(RUN))
    surprises = [
        {
            "document": f"stories.jsonl:{17 + i // 3}",
            "before": f"{STORY} {'park with her' if i else NAUGHTY}",
            "token": [" mom", "\n", " dog", " "][i % 4],
            "after": ". One day, she saw a big",
            "kl": 9.31 / (i + 1),
            "teacher_top": [[" mom", 0.81], [" dog", 0.11], [NAUGHTY if i == 0 else " friend", 0.04], ["\n", 0.02], [" ", 0.01]],
            "student_top": [[" dog", 0.52], [" friends", 0.21], [" mom", 0.08], [" big", 0.06], ["s", 0.04]],
        }
        for i in range(8)
    ]
    (out / "surprises.json").write_text(json.dumps(surprises))
    samples = [
        {
            "document": "stories.jsonl:4",
            "prompt": STORY,
            "text": f" garden. {NAUGHTY} One day, her mom gave her a new ball.",
            "teacher": " park. One day, she saw a big, red ball. She wanted to play with it, but it was too high.",
            "student": " park. One day, she saw a big dog. The dog was very happy. The dog was very happy.",
        }
    ] * 3
    (out / "samples.json").write_text(json.dumps(samples))
    return out


class Tags(HTMLParser):
    """Counts tags, and notes what is left open."""

    void = frozenset({"meta", "br", "link", "img", "use", "path"})

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.void:
            assert self.open.pop() == tag, f"</{tag}> closes another"

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(page: Path) -> tuple[str, Tags]:
    html = page.read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(html)
    return html, tags

"""The verdict in words, the page and the card, from the folder of a run made up for the purpose."""

import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import t as student_t

from limbeck.errors import BadFolder, Mismatch
from limbeck.planning.checks.price import Price
from limbeck.probes.interval import bootstrap
from limbeck.probes.likelihood import likelihood
from limbeck.probes.measurements import BINS, Measurements
from limbeck.report.card import model_card
from limbeck.report.decision import rows_decided
from limbeck.report.folder import RunFolder
from limbeck.report.page import _decided, _differences, _tiles, environment, write_report
from limbeck.report.start import CUT, GIVEN, price_of, start_of
from limbeck.report.verdict import verdict
from limbeck.report.words import bounded, count, duration, plus_minus, share, size, took, trainings
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


def arms(*, seeds: int = 3, **levels: float) -> dict[str, list[Measurements]]:
    """Arms whose trainings differ by 0.001 nats; what is not trained is measured once."""
    names = {"ce": "cut+ce", "fresh": "fresh+kd", "flops": "cut+ce@flops"}
    return {
        names.get(name, name): [made_up(level + 0.001 * (seed % 2)) for seed in range(1 if name == "cut" else seeds)]
        for name, level in levels.items()
    }


def metrics(arm: str, *, start: float, end: float, steps: int = 80) -> list[dict]:
    generator = np.random.default_rng(len(arm))
    rows = []
    for step in range(1, steps + 1):
        loss = end + (start - end) * np.exp(-step / 12) + generator.normal(0, 0.05)
        rows.append(
            {
                "step": step,
                "tokens": step * 24576,
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
    "command": [
        "limbeck",
        "distil",
        "--teacher",
        "stories-llama-260k",
        "--shrink",
        "2.5",
        "--data",
        "my stories.jsonl",
    ],
    "versions": {"limbeck": "0.1.0", "python": "3.12.3", "torch": "2.13.0", "machine": "Linux x86_64, a processor"},
    "signature": {"teacher": "stories-llama-260k", "shrink": 2.5, "data": "my stories.jsonl", "seed": 0},
    "started": "2026-03-02T09:15:00+00:00",
    "ended": "2026-03-02T09:21:30+00:00",
    "seconds": 390.4,
    "objective": "0.5*CrossEntropy() + 0.5*ForwardKL()",
    "plan": {"steps": 80, "tokens": 80 * 24576, "rows": 32, "length": 256},
    "teacher": {
        "name": "stories-llama-260k",
        "parameters": 260032,
        "shape": "layers=5,hidden=64,heads=8,kv_heads=4,ffn=172",
    },
    "student": {
        "name": "stories-cut",
        "parameters": 104512,
        "shape": {"layers": 4, "hidden": 48, "heads": 4, "kv_heads": 2, "ffn": 112},
    },
    "lineage": {"teacher": "stories-llama-260k", "method": "activation", "kept": {"layers": [0, 1, 3, 4]}},
    "doctor": [
        {"check": "vocabulary", "level": "ok", "message": "both have the same 512 tokens", "remedy": ""},
        {
            "check": "context",
            "level": "warning",
            "message": "rows of 256 tokens, context 512",
            "remedy": "Use --length 512.",
        },
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
        rows += [
            Reading(name, "fidelity", key, v, u, DOCUMENTS, v * 0.98, v * 1.02) for key, (v, u) in fidelity.items()
        ]
    for name, factor in (("teacher", 1.0), ("student", 0.402)):
        exact = {"parameters": (260032, "parameters"), "embedding_parameters": (32768, "parameters")}
        exact |= {"weights_on_disk": (1044992, "bytes"), "peak_memory": (3500000, "bytes")}
        rows += [Reading(name, "cost", key, v * factor, u, 1, v * factor, v * factor) for key, (v, u) in exact.items()]
        for key, speed in (("prefill", 31000), ("decode", 410)):
            v = speed / factor**0.6
            rows.append(Reading(name, "cost", key, v, "tokens/s", 5, v * 0.93, v * 1.05))
    return rows


@pytest.fixture
def folder(tmp_path: Path, made_up_run: Path) -> Path:
    """A run's folder of the test's own."""
    return shutil.copytree(made_up_run, tmp_path / "run")


@pytest.fixture(scope="module")
def made_up_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, made up but plausible; its documents hold markup."""
    out = tmp_path_factory.mktemp("made-up") / "run"
    write_lines(out / "metrics.jsonl", metrics("student", start=2.2, end=0.42))
    write_lines(out / "baselines/cut+ce-seed0/metrics.jsonl", metrics("cut+ce", start=2.1, end=1.5))
    write_lines(out / "baselines/fresh+kd-seed0/metrics.jsonl", metrics("fresh+kd", start=5.1, end=0.7))
    write_lines(out / "readings.jsonl", [reading.row() for reading in readings()])
    found = verdict(
        arms(student=1.497, ce=1.531, fresh=1.702, cut=2.024),
        made_up(1.289),
        price=Price(0.83),
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
            "teacher_top": [
                [" mom", 0.81],
                [" dog", 0.11],
                [NAUGHTY if i == 0 else " friend", 0.04],
                ["\n", 0.02],
                [" ", 0.01],
            ],
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


def test_the_page_is_one_file_that_needs_no_network_and_is_well_formed(folder):
    html, tags = read(write_report(folder))
    assert tags.open == []
    assert not {"script", "link", "img", "iframe", "object"} & set(tags.seen)
    outside = [url for url in re.findall(r"(?:https?:)?//[\w.]+", html) if "www.w3.org" not in url]
    assert outside == []
    assert "default-src 'none'" in html
    assert "url(" not in html.replace("url(#", "")
    assert not list(folder.glob(".report*")), "nothing is left beside it"


def test_all_text_from_outside_is_escaped(folder):
    run = RUN | {"command": ["limbeck", NAUGHTY], "objective": NAUGHTY, "teacher": RUN["teacher"] | {"name": NAUGHTY}}
    run["doctor"] = [{"check": "x", "level": "warning", "message": NAUGHTY, "remedy": NAUGHTY}]
    (folder / "run.json").write_text(json.dumps(run))
    html, tags = read(write_report(folder))
    assert "script" not in tags.seen
    assert NAUGHTY not in html
    assert "".join(tags.words).count(NAUGHTY) >= 8, "and yet it can be read"


@pytest.mark.usefixtures("drawn")
def test_the_page_shows_what_the_run_found(folder):
    _, tags = read(write_report(folder))
    text = " ".join(" ".join(tags.words).split())
    said = json.loads((folder / "verdict.json").read_text())
    assert said["text"] in text
    for expected in (
        "A student of stories-llama-260k",
        "105 k",
        "40 % of the teacher's",
        "pruned + cross-entropy",
        "random init + KD",
        "the student is better",
        "9.31 nats · stories.jsonl:17",
        "She wanted to play with it, but it was too high.",
        "Use --length 512.",
        "limbeck distil --teacher stories-llama-260k --shrink 2.5 --data 'my stories.jsonl'",
        "nats per token",
        "thousand tokens trained on",
    ):
        assert expected in text, expected
    nats = RunFolder.read(folder).reading("student", "held_out")
    assert f"{nats.value:.3f} ± {(nats.high - nats.low) / 2:.3f}" in text


@pytest.mark.usefixtures("drawn")
def test_loss_curves_take_their_colours_from_the_page(folder):
    html, _ = read(write_report(folder))
    drawing = html[html.index("<svg") : html.index("</svg>")]
    for name in ("student", "cut-ce", "fresh-kd", "text"):
        assert f"var(--{name})" in drawing
        assert f"--{name}: #" in html
    assert not re.search(r"#0102\d\d", drawing)


@pytest.mark.parametrize(
    "missing", ["readings.jsonl", "verdict.json", "samples.json", "surprises.json", "metrics.jsonl", "baselines"]
)
def test_a_part_that_is_absent_is_left_out(folder, missing):
    target = folder / missing
    target.rename(folder.parent / "away")
    _, tags = read(write_report(folder))
    assert tags.open == []
    assert "A student of stories-llama-260k" in tags.words


def test_a_run_record_alone_is_enough(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    _, tags = read(write_report(tmp_path))
    assert "A run of limbeck" in tags.words


def test_numbers_that_are_not_finite_are_shown_as_absent(folder):
    rows = [json.loads(line) for line in (folder / "readings.jsonl").read_text().splitlines()]
    for row in rows:
        row["low"] = row["high"] = None
        if row["model"] == "cut+ce":
            row["value"] = None
    write_lines(folder / "readings.jsonl", rows)
    said = json.loads((folder / "verdict.json").read_text())
    for difference in said["differences"]:
        difference["low"] = difference["high"] = None
    (folder / "verdict.json").write_text(json.dumps(said))
    html, _ = read(write_report(folder))
    assert "nan" not in re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL).lower().replace("nano", "")


def test_a_reading_over_all_seeds_comes_before_those_of_each(folder):
    rows = [json.loads(line) for line in (folder / "readings.jsonl").read_text().splitlines()]
    own = next(row for row in rows if row["model"] == "student" and row["name"] == "held_out")
    write_lines(folder / "readings.jsonl", [own | {"seed": 1, "value": 7.1}, own | {"seed": 0, "value": 7.2}])
    assert RunFolder.read(folder).reading("student", "held_out").value == 7.2
    write_lines(folder / "readings.jsonl", [own | {"seed": 0, "value": 7.2}, own | {"seed": None, "value": 7.3}])
    assert RunFolder.read(folder).reading("student", "held_out").value == 7.3


def test_a_last_line_cut_short_is_left_out_and_damage_elsewhere_is_named(folder):
    path = folder / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 81, "tok')
    assert len(RunFolder.read(folder).curves[0].rows) == 80
    path.write_text("nonsense\n" + whole)
    with pytest.raises(
        BadFolder, match=r"metrics\.jsonl, line 1: expected JSON as limbeck wrote it .* run the command"
    ):
        write_report(folder)
    path.write_text(whole)
    (folder / "verdict.json").write_text("{")
    with pytest.raises(BadFolder, match=r"verdict\.json: expected JSON"):
        write_report(folder)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(
        BadFolder, match=r"holds no run\.json, so there is nothing to report: give the --out folder of a run"
    ):
        write_report(tmp_path)


def test_a_page_that_cannot_be_written_is_an_error_with_the_remedy(folder):
    (folder / "report.html").mkdir()
    with pytest.raises(
        BadFolder, match=r"cannot write .*report\.html: Is a directory\. Give a folder you may write to with --out"
    ):
        write_report(folder)
    assert not list(folder.glob(".report*"))


def test_a_gain_is_reported_with_its_interval_and_the_share_of_the_gap():
    found = verdict(arms(student=1.5, ce=1.53, cut=2.0), made_up(1.3))
    assert found.outcome == "better"
    assert re.fullmatch(
        r"KD gained 0\.0\d\d ± 0\.00\d nats per token over cross-entropy at equal tokens\. "
        r"7\d % of the gap between the untrained student and the teacher is closed "
        r"\(7\d to 7\d %; cross-entropy alone: 6\d %, 6\d to 6\d %\)\.",
        found.text,
    )
    gain = next(d for d in found.differences if d.name == "cut+ce - student")
    assert gain.value == pytest.approx(0.03, abs=0.005)
    assert gain.low < gain.value < gain.high
    assert gain.n == DOCUMENTS
    assert found.notes[1] == (
        "3 seeds: all seeds start from one pruned student, so the 95 % intervals cover the choice of 200 held-out documents and "
        "the noise of what was trained after it, not that of the start."
    )
    assert found.notes[-1] == (
        "A winner is named where its probability by chance, corrected over these 2 comparisons (Holm), is below 5 %; each "
        "interval is that of its own comparison, not corrected."
    )


@pytest.mark.parametrize(("seeds", "trainings"), [(1, "one training"), (2, "two trainings")])
def test_one_or_two_trainings_each_decide_nothing_however_far_apart(seeds, trainings):
    found = verdict(arms(seeds=seeds, student=1.2, ce=1.53, fresh=1.1, cut=2.0), None)
    assert found.outcome == "undecided"
    assert re.fullmatch(
        rf"KD has a loss 0\.3\d\d ± 0\.\d+ nats per token lower than cross-entropy at equal tokens \({trainings} each, not "
        r"decided\)\.",
        found.text,
    )
    assert {one.outcome for one in found.differences} == {"undecided"}
    assert all(math.isnan(one.holm) and one.low < one.value < one.high for one in found.differences)
    words = " ".join((found.text, *found.notes))
    assert not re.search(r"gained|better|did not help", words)
    assert re.search(
        r"The student has a loss 0\.1\d\d ± 0\.\d+ nats per token higher than the same training from random weights",
        words,
    )
    assert (
        "no winner is named; the same command with --seeds 3 trains the seeds that are missing, and decides." in words
    )


def test_a_difference_that_four_comparisons_bring_by_chance_is_not_called_one():
    """p is 0.02 alone, which is better; of four comparisons the smallest p is taken four times."""
    tokens = np.full(40, 100.0)

    def trained(*levels: float) -> list[Measurements]:
        return [Measurements(tokens, tokens * level, np.zeros((40, BINS, 3))) for level in levels]

    ours = trained(1.5, 1.5, 1.5)
    # of three seeds 7.0 standard errors: p = 2 P(t_2 > 7) = 0.0198
    apart = trained(*(1.5 + 0.07 + d for d in (-0.01 * 3**0.5, 0.0, 0.01 * 3**0.5)))
    alone = verdict({"student": ours, "cut+ce": apart}, None)
    assert alone.differences[0].chance == pytest.approx(2 * student_t.sf(7.0, 2), rel=1e-6)
    assert alone.outcome == "better"
    many = {"student": ours, "cut+ce": apart} | dict.fromkeys(("cut+ce@flops", "fresh+kd", "attention"), ours)
    found = verdict(many, None)
    assert found.differences[0].holm == pytest.approx(4 * 2 * student_t.sf(7.0, 2), rel=1e-6)
    assert found.outcome == "inconclusive"
    assert found.differences[0].low > 0
    assert found.text.startswith(
        "KD has a loss 0.070 ± 0.043 nats per token lower than cross-entropy at equal tokens: inconclusive, since among these "
        "comparisons chance alone would do it (p = 0.079). "
    )


def test_a_page_decides_as_its_verdict_does_over_all_that_was_compared_together():
    """Also what the table does not show: a share of a gap is decided with nothing, a rise on other text with all."""
    shared = {"low": 0.001, "high": 0.1, "seeds": 3, "n": 40}
    rows = [
        {
            "name": "student - cut",
            "value": 0.05,
            "unit": "nats/token",
            "chance": 0.04,
            "outcome": "inconclusive",
            **shared,
        },
        {"name": "student - cut on other text", "value": 0.05, "unit": "nats/token of other text", "chance": 0.5}
        | {"outcome": "inconclusive", **shared},
        {"name": "gap_closed", "value": 0.3, "unit": "share", "outcome": "", **shared},
    ]
    (shown,) = _differences(rows, CUT)
    assert shown["says"] == "not distinguishable from chance (p = 0.08)"
    assert len(_decided(rows)) == 2
    older = [{key: value for key, value in row.items() if key != "outcome"} for row in rows]
    assert _differences(older, CUT)[0]["says"] == "the student is better (p = 0.04)"


def test_shares_below_one_per_cent_are_not_said_to_be_none():
    found = [share(one) for one in (0.004, -0.004, 0.0, -1e-6, 0.0004, 0.01, 0.126)]
    assert found == ["0.4 %", "-0.4 %", "0 %", "0 %", "0 %", "1 %", "13 %"]
    assert share(0.004, digits=1) == "0.4 %"


def test_rows_of_an_older_verdict_are_decided_by_their_bounds():
    """0.07 ± 0.043 of three seeds is 7 standard errors; of one seed nothing is decided."""
    row = {"value": 0.07, "low": 0.07 - 0.01 * student_t.ppf(0.975, 2), "high": 1.0, "seeds": 3}
    ((outcome, chance),) = rows_decided([row])
    assert outcome == "better"
    assert chance == pytest.approx(2 * student_t.sf(7.0, 2), rel=1e-6)
    assert rows_decided([row | {"seeds": 1}])[0][0] == "undecided"
    assert [outcome for outcome, _ in rows_decided([row] * 4)] == ["inconclusive"] * 4


def test_a_loss_is_reported_as_plainly():
    found = verdict(arms(student=1.56, ce=1.53), None)
    assert found.outcome == "worse"
    assert re.fullmatch(r"KD did not help: cross-entropy is better by 0\.0\d\d ± 0\.00\d nats per token\.", found.text)


def test_a_difference_whose_interval_holds_zero_is_inconclusive():
    student, other = ([made_up(1.5 + k, seed=s, noise=0.2) for k in (0.0, 0.001, 0.002)] for s in (0, 3))
    found = verdict({"student": student, "cut+ce": other}, None)
    assert found.outcome == "inconclusive"
    assert "KD shows no clear difference from cross-entropy at equal tokens (" in found.text
    assert found.text.endswith("inconclusive at this scale.")


def test_without_the_baseline_nothing_is_claimed():
    found = verdict(arms(student=1.5), made_up(1.3))
    assert found.outcome == "untested"
    assert (
        found.text
        == "Whether KD helped was not tested: no baseline was trained with cross-entropy (--baselines cut+ce does)."
    )
    assert found.differences == ()


@pytest.mark.parametrize("documents", [1, 2])
def test_one_or_two_documents_decide_nothing(documents):
    ours, theirs = ([made_up(level, documents=documents)] * 3 for level in (1.5, 1.6))
    found = verdict({"student": ours, "cut+ce": theirs}, None)
    assert found.outcome == "inconclusive"
    assert f"of so few documents ({documents}) no interval is given: inconclusive" in found.text
    assert found.row()["differences"][0]["low"] is None


def test_few_documents_are_reported_as_few():
    for documents, few in ((4, True), (30, False)):
        found = verdict(
            {name: [made_up(level, documents=documents)] for name, level in (("student", 1.5), ("cut", 2.0))}, None
        )
        said = f"{documents} documents held out: too few to stand for other text, whatever their interval; 30 or more are wanted"
        assert (said in " ".join(found.notes)) is few
    json.dumps(found.row(), allow_nan=False)


def test_seeds_that_disagree_take_the_certainty_away():
    steady = {"student": [made_up(1.5 + d) for d in (0.0, 0.001, 0.002)], "cut+ce": [made_up(1.53)] * 3}
    torn = {"student": [made_up(1.5 + d) for d in (0.0, 0.06, -0.05)], "cut+ce": [made_up(1.53)] * 3}
    assert verdict(steady, None).outcome == "better"
    assert verdict(torn, None).outcome == "inconclusive"
    given = verdict(steady, None, start=GIVEN)
    assert given.notes[0].startswith("3 seeds: the 95 % intervals cover training noise")
    assert verdict(steady, None).notes[1] == "A winner is named where the interval excludes 0."


def test_the_start_of_a_converted_student_is_called_what_it_is():
    seeds = {
        name: [made_up(level + d) for d in (0, 0.001, 0.002)] for name, level in (("student", 1.5), ("attention", 1.4))
    }
    for tokens, name, shared in (
        ({"blocks": 100}, "the student after matching", "matched"),
        ({}, "the converted student before training", "converted"),
    ):
        start = start_of({"conversion": {"tokens": tokens}})
        found = verdict(seeds | {"cut": [made_up(2.0)]}, made_up(1.3), start=start)
        notes = " ".join(found.notes)
        assert f"nats per token over {name}." in notes
        assert f"3 seeds: all seeds start from one {shared} student, so the 95 % intervals cover the choice" in notes
        assert f"the gap between {name} and the teacher is closed" in found.text
        for level, said in ((1.9, "better than"), (1.5, "no gap to close")):
            words = verdict(arms(student=1.6, cut=1.5), made_up(level), start=start).text
            assert said in words
            assert name in words
        assert "cut" not in notes
    assert start_of({}).name == "the untrained student"


def test_a_page_calls_a_matched_start_so_and_gives_attention_its_own_count(folder):
    rows = [*readings(), *likelihood("attention", [made_up(1.4)], text_bytes=np.full(DOCUMENTS, 900.0))]
    for seed in (0, 1):
        rows += likelihood("student", [made_up(1.5)], text_bytes=np.full(DOCUMENTS, 900.0), seed=seed)
    write_lines(folder / "readings.jsonl", [reading.row() for reading in rows])
    said = {"converted": [], "tokens": {"blocks": 100}, "error": {"blocks": 0.1}, "damage": None}
    run = json.loads((folder / "run.json").read_text())
    write = (folder / "run.json").write_text
    write(json.dumps(run | {"conversion": said | {"attention_parameters": 76944}}))
    page = write_report(folder).read_text()
    row = re.search(r"attention everywhere</th>\s*<td>([^<]*)</td>", page)
    assert row[1] == "76.9 k"
    assert "matched, not distilled" in page
    assert "pruned, untrained" not in page
    assert "as it was pruned from the teacher" not in page
    assert f"same {DOCUMENTS} held-out documents" in page
    assert "intervals over documents and 2 seeds (all seeds start from one matched student)" in page
    assert "| matched, not distilled |" in model_card(json.loads((folder / "run.json").read_text()), rows).replace(
        "teacher |", "|"
    )
    write(json.dumps(run | {"conversion": said}))  # of a run that did not count it
    assert re.search(r"attention everywhere</th>\s*<td>–</td>", write_report(folder).read_text())


MIXERS = ["based", "attention", "based", "based", "based"]


def converted(folder: Path, *models: str) -> None:
    """Makes the run that of a converted student, with recall of the student, the teacher and these."""
    run = json.loads((folder / "run.json").read_text())
    row = {"mixer": "based", "taken": "queries and keys", "fresh": "nothing"}
    said = {"mixers": MIXERS, "converted": [row] * 5, "tokens": {}, "error": {}, "damage": None}
    run |= {"conversion": said, "student": run["student"] | {"shape": None}}
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "student").mkdir()
    shape = {"num_hidden_layers": 5, "hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3}
    (folder / "student" / "config.json").write_text(json.dumps(shape | {"intermediate_size": 173}))
    rows = readings()
    for model in ("teacher", "student", *models):
        rows.append(Reading(model, "slices", "recall_hits", 1.128, "nats/token", 73, 0.859, 1.549))
        rows.append(Reading(model, "slices", "recall_hits, seen 0", 3.6, "nats/token", 2, -20.493, 22.875))
        rows.append(Reading(model, "slices", "recall_hits, seen 1-10", 4.0, "nats/token", 16, 3.9, 4.1))
        rows.append(Reading(model, "slices", "recall_hits, seen over 1000", 0.8, "nats/token", 70, 0.7, 0.9))
    if "attention" in models:
        rows += likelihood("attention", [made_up(1.4)], text_bytes=np.full(DOCUMENTS, 900.0))
        rows.append(Reading("student", "slices", "gap", 0.441, "nats/token", 79, 0.415, 0.466))
    write_lines(folder / "readings.jsonl", [reading.row() for reading in rows])


def test_recall_has_honest_intervals_in_words(folder):
    converted(folder)
    html, tags = read(write_report(folder))
    text = " ".join(" ".join(tags.words).split())
    assert "1.128 (0.859 to 1.549)" in text
    assert "± 0.345" not in text, "half the width of an interval that is not even"
    assert "of pairs never seen in training, nats/token 2 3.600 n = 2 3.600 n = 2" in text
    assert "-20" not in text, "two documents give no interval"
    assert "of pairs seen 1 to 10 times in training, nats/token 16 4.000 ± 0.100" in text
    assert "of pairs seen over 1000 times in training" in text
    assert "recall_hits" not in html


@pytest.mark.usefixtures("drawn")
def test_attention_everywhere_is_named_where_it_was_trained_and_has_its_colour(folder, tmp_path):
    shutil.copytree(folder, other := tmp_path / "other")
    converted(folder)
    page = write_report(folder).read_text()
    assert "same student with attention" not in page
    converted(other, "attention")
    write_lines(other / "baselines/attention-seed0/metrics.jsonl", metrics("attention", start=2.2, end=0.4))
    page = write_report(other).read_text()
    assert "Gaps are to the same student with attention everywhere" in page
    assert "<dt>attention everywhere</dt>" in page
    assert '--c: var(--attention)"' in page
    assert page.count("--attention: #") == 2, "in light and in dark"
    assert "var(--attention)" in page[page.index("<svg") : page.index("</svg>")]


def test_the_shape_of_a_converted_student_is_that_of_its_configuration(folder):
    converted(folder)
    _, tags = read(write_report(folder))
    text = " ".join(" ".join(tags.words).split())
    assert "layers 5 5 hidden width 64 72 heads 8 9 key-value heads 4 3 FFN width 172 173" in text


def test_a_converted_students_report_has_what_it_keeps_of_a_text(folder):
    converted(folder)
    run = json.loads((folder / "run.json").read_text())
    kept = [
        {"tokens": 128, "teacher": 163840, "student": 347264},
        {"tokens": 512, "teacher": 655360, "student": 445568},
    ]
    run["state"] = {"kept": kept, "context": 512, "fewer_from": 308, "itemsize": 4}
    (folder / "run.json").write_text(json.dumps(run))
    _, tags = read(write_report(folder))
    text = " ".join(" ".join(tags.words).split())
    assert "kept of a text of 128 tokens 164 kB 347 kB 2.12×" in text
    assert "fewer bytes from 308 tokens on" in text


def test_the_card_of_a_converted_student_names_mixers_notes_and_how_to_load(folder):
    converted(folder)
    run = json.loads((folder / "run.json").read_text())
    card = model_card(run, [], ["The student is 0.441 nats worse."])
    assert "Its layers mix with based, attention, 3 x based." in card
    assert "- The student is 0.441 nats worse." in card
    assert card.count(", trust_remote_code=True)") == 2
    assert "import limbeck" in card
    assert "trust_remote_code" not in model_card(RUN, [])


def test_a_tile_names_the_gap_that_closed_or_grew(folder):
    def tile(**levels: float) -> str:
        found = verdict(arms(**levels), made_up(1.289))
        (folder / "verdict.json").write_text(json.dumps(found.row()))
        rows = [r for r in readings() if r.name != "held_out"]
        both = {"student": levels["student"], "cut": levels["cut"], "teacher": 1.289}
        both |= {"cut+ce": levels["ce"]} if "ce" in levels else {}
        for name, level in both.items():
            rows += likelihood(name, [made_up(level)], text_bytes=np.full(DOCUMENTS, 900.0))
        write_lines(folder / "readings.jsonl", [reading.row() for reading in rows])
        page = write_report(folder).read_text()
        return page[page.index('class="tiles"') : page.index("Before and after")]

    closed = tile(student=1.5, cut=2.024, ce=1.531)
    assert "of the gap between the untrained student and the teacher closed" in closed
    assert "cross-entropy alone: 67&nbsp;%" in closed
    assert "alone" not in tile(student=1.5, cut=2.024)
    grown = tile(student=1.9, cut=1.31)
    assert "training left the student further from the teacher than the untrained student was" in grown
    assert "closed" not in grown
    assert re.search(r"<b>\+0\.59\d</b>", grown)


def test_an_interval_that_is_not_even_is_given_by_its_ends():
    assert bounded(1.128, 0.859, 1.549) == "1.128 (0.859 to 1.549)"
    assert bounded(0.118, 0.0932, 0.1431) == "0.118 ± 0.025"
    assert bounded(1.25, float("nan"), float("nan")) == "1.250"


def test_equal_compute_stands_in_the_verdict_and_other_arms_are_notes():
    found = verdict(arms(student=1.5, ce=1.53, fresh=1.7, flops=1.45, cut=2.0), None, price=Price(0.8))
    notes = " ".join(found.notes)
    assert "Cross-entropy given the same compute is better by 0.050" in found.text
    assert notes.startswith("Break-even: the teacher's logits must be used ")
    assert "The student gained 0.2" in notes
    assert "over the same training from random weights" in notes
    found = verdict(arms(student=1.5, ce=1.53), None, price=Price(1.0))
    assert "cross-entropy could have read 2.00 times as many tokens" in " ".join(found.notes)
    assert " Equal compute was not tested." in found.text


def test_overfitting_of_cross_entropy_is_reported():
    def notes(seeds: int, **levels: float) -> str:
        return " ".join(verdict(arms(seeds=seeds, **levels), None, price=Price(0.8, uses=10)).notes)

    found = notes(3, student=1.4, ce=1.5, flops=1.6)
    assert re.search(
        r"Cross-entropy given the same compute has a loss 0\.(09|10)\d ± 0\.00\d nats per token higher than at equal tokens, "
        r"which is no part of the comparisons above: a sign that it overfits this text, so that equal compute flatters the ",
        found,
    )
    assert "overfits" not in notes(3, student=1.4, ce=1.5, flops=1.45)
    one = {name: runs[:1] for name, runs in arms(student=1.4, ce=1.5, flops=1.6).items()}
    assert "overfits" not in " ".join(verdict(one, None, price=Price(0.8, uses=10)).notes)


def test_equal_compute_has_a_tile(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    found = verdict(arms(student=1.5, ce=1.53, flops=1.45), None, price=Price(0.8))
    (copy / "verdict.json").write_text(json.dumps(found.row()))
    (tile,) = [tile for tile in _tiles(RunFolder.read(copy), CUT) if "equal compute" in tile[0]]
    assert tile[0] == "nats per token more than cross-entropy at equal compute"
    assert re.fullmatch(r"0\.0[45]\d", tile[1])
    assert re.fullmatch(r"0\.0\d\d to 0\.0\d\d; the student is worse \(p < 0\.001\)", tile[2])


def test_a_tile_of_one_seed_decides_nothing(folder):
    found = verdict(arms(seeds=1, student=1.4, flops=1.45), None, price=Price(0.8))
    (folder / "verdict.json").write_text(json.dumps(found.row()))
    (tile,) = [tile for tile in _tiles(RunFolder.read(folder), CUT) if "equal compute" in tile[0]]
    assert tile[0] == "nats per token fewer than cross-entropy at equal compute"
    assert tile[2].endswith("; one training each, not decided")


def test_the_price_of_a_run_is_read_back_also_where_an_older_one_did_not_keep_it():
    models = {"student": {"parameters": 100}, "teacher": {"parameters": 240}}
    assert price_of(models) == Price(0.8)
    models["teacher"] |= {"passes": 0.1, "price": 0.7}
    assert price_of(models) == Price(0.7, uses=10)
    models["teacher"] |= {"passes": 0.0}
    assert price_of(models) is None


def test_the_share_of_a_gap_that_is_none_is_not_given():
    assert "so there is no gap to close" in verdict(arms(student=1.5, ce=1.5, cut=1.6), made_up(1.7)).text
    past = verdict(arms(student=1.2, cut=1.6), made_up(1.3))
    assert re.search(
        r" The student has a lower loss on this text than the teacher \(by 0\.0\d\d ± 0\.\d+ nats per token\), so no share",
        past.text,
    )
    weak = verdict(arms(student=1.4, ce=1.2, cut=1.6), made_up(1.3))
    assert re.search(
        r" The teacher is worse on this text than what cross-entropy reaches without it \(by 0\.\d+ ± 0\.\d+ nats per token\)",
        weak.text,
    )
    for found in (past, weak):
        assert "%" not in found.text
        assert "gap_closed" not in {one.name for one in found.differences}
    assert (
        "further from the teacher than the untrained student" in verdict(arms(student=1.9, cut=1.6), made_up(1.3)).text
    )


def test_models_measured_on_different_documents_are_not_compared():
    other = {"student": [made_up(1.5)], "cut+ce": [made_up(1.5, documents=150)]}
    with pytest.raises(Mismatch, match=r"200 documents, cut\+ce on \d+ of 150, .* same --eval-data and --seq-len"):
        verdict(other, None)


def test_the_interval_of_the_gap_closed_is_the_bootstraps():
    cut, student, teacher = (made_up(level) for level in (2.0, 1.5, 1.3))
    columns = np.stack([np.stack([cut.nats, student.nats, teacher.nats], -1)])
    (expected,) = bootstrap(lambda x: (x[..., :1] - x[..., 1:2]) / (x[..., :1] - x[..., 2:]), columns)
    found = verdict({"student": [student], "cut": [cut]}, teacher).differences[-1]
    assert (found.name, found.unit) == ("gap_closed", "share")
    assert (found.value, found.low, found.high) == (expected.value, expected.low, expected.high)


def test_the_gap_to_a_teacher_of_other_tokens_is_taken_by_bytes():
    cut, student, teacher = (made_up(level) for level in (2.0, 1.5, 1.3))
    same = verdict({"student": [student], "cut": [cut]}, teacher).differences[-1]
    longer = replace(teacher, tokens=teacher.tokens / 3)  # tokens of three times the bytes
    size = 4 * student.tokens
    said = verdict({"student": [student], "cut": [cut]}, longer, text_bytes=(size, size))
    assert said.differences[-1].value == pytest.approx(same.value)
    assert "in bits per byte" in said.text
    better = verdict(
        {"student": [student], "cut": [cut]}, longer, text_bytes=(size, 2 * size)
    )  # half as many nats a byte
    assert better.differences[-1].value == pytest.approx(0.5 / (2.0 - 0.65), rel=0.02)


def test_the_card_is_markdown_with_front_matter_that_parses():
    run = RUN | {"teacher": {"name": 'owner/a "model": x', "parameters": 260032}, "verdict": f"KD gained. {NAUGHTY}"}
    card = model_card(run, readings())
    front, body = card.split("---\n")[1:]
    parsed = yaml.safe_load(front)
    assert parsed["library_name"] == "transformers"
    assert parsed["base_model"] == 'owner/a "model": x'
    assert "distillation" in parsed["tags"]
    assert NAUGHTY not in body
    assert "A language model of 105 k parameters, pruned from its teacher (260 k)" in body
    assert re.search(r"\| nats per token \| 1\.\d{3} ± 0\.\d{3} \|", body)
    assert f"95 % interval over {DOCUMENTS} held-out documents" in body
    assert "AutoModelForCausalLM.from_pretrained" in body


def test_the_card_of_a_run_with_little_information():
    card = model_card({"teacher": {"name": "/home/someone/model"}}, [])
    assert "base_model" not in card, "a path is nothing the hub could link to"
    assert "Measured" not in card


def test_numbers_are_rounded_to_what_is_known():
    assert plus_minus(0.03123, 0.0058) == "0.031 ± 0.006"
    assert plus_minus(0.03123, 0.00012) == "0.03123 ± 0.00012"
    assert plus_minus(1.3, 0.2) == "1.300 ± 0.200"
    assert plus_minus(1.23456, float("nan")) == "1.235"
    assert [count(n) for n in (512, 1000, 260032, 999_999, 1_048_576, 7.24e9)] == [
        "512",
        "1.00 k",
        "260 k",
        "1.00 M",
        "1.05 M",
        "7.24 B",
    ]
    assert [size(n) for n in (12, 1_044_992)] == ["12 B", "1.04 MB"]
    assert [duration(s) for s in (12.4, 200, 3840)] == ["12 s", "3 min 20 s", "1 h 04 min"]
    assert took(19, continued=False) == "took 19 s in all"
    assert took(19, continued=True) == "took 19 s since it was last started"
    assert [trainings(n) for n in (1, 4)] == ["1 training", "4 trainings"]


# Folders that someone else made, or changed: each file, a path into its JSON, what stands there instead.
WRONG = [
    ("run.json", ("teacher",), "gpt"),
    ("run.json", ("teacher", "name"), 7),
    ("run.json", ("teacher", "parameters"), "260k"),
    ("run.json", ("teacher", "parameters"), -1),
    ("run.json", ("teacher", "parameters"), 0),
    ("run.json", ("student", "parameters"), 10**30),
    ("run.json", ("student",), [1]),
    ("run.json", ("plan",), "long"),
    ("run.json", ("plan", "tokens"), 1.5),
    ("run.json", ("plan", "steps"), "400"),
    ("run.json", ("doctor",), {"a": 1}),
    ("run.json", ("doctor", 0), "ok"),
    ("run.json", ("doctor", 0, "level"), 3),
    ("run.json", ("lineage",), "t"),
    ("run.json", ("lineage", "kept"), [0]),
    ("run.json", ("lineage", "kept", "layers"), "all"),
    ("run.json", ("versions",), ["1"]),
    ("run.json", ("versions",), {"torch": 2}),
    ("run.json", ("command",), 3),
    ("run.json", ("seconds",), "long"),
    ("run.json", ("seconds",), -1),
    ("run.json", ("started",), 12),
    ("run.json", ("objective",), ["KL"]),
    ("run.json", ("conversion",), True),
    ("run.json", ("state",), {"kept": 3}),
    ("run.json", (), [1, 2]),
    ("run.json", (), None),
    ("verdict.json", (), []),
    ("verdict.json", ("text",), None),
    ("verdict.json", ("notes",), "none"),
    ("verdict.json", ("differences",), {"a": 1}),
    ("verdict.json", ("differences", 0, "value"), "high"),
    ("verdict.json", ("differences", 0), 3),
    ("samples.json", (), "none"),
    ("samples.json", (0, "prompt"), 3),
    ("samples.json", (0,), "text"),
    ("surprises.json", (0, "kl"), "much"),
    ("surprises.json", (0, "teacher_top"), [["a"]]),
    ("readings.jsonl", (0, "value"), "1.3"),
    ("readings.jsonl", (0, "model"), None),
    ("readings.jsonl", (0, "n"), 2.5),
    ("metrics.jsonl", (0, "tokens"), "all"),
    ("metrics.jsonl", (0,), 7),
]


@pytest.mark.parametrize(("name", "path", "value"), WRONG)
def test_what_does_not_belong_into_a_runs_file_is_named(name, path, value, folder):
    file = folder / name
    lines = name.endswith(".jsonl")
    text = file.read_text()
    found = [json.loads(line) for line in text.splitlines()] if lines else json.loads(text)
    if not path:
        found = value
    else:
        inner = found
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
    file.write_text("".join(json.dumps(row) + "\n" for row in found) if lines else json.dumps(found))
    with pytest.raises(BadFolder, match=rf"{re.escape(str(file))}.*: expected .* The file was changed or damaged"):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_no_line_of_a_page_breaks_within_a_flag_and_nothing_in_it_is_markup():
    said = str(environment().filters["kept"]("<b> --eval-data 58 % of 1.2 ± 0.1"))
    assert said == '&lt;b&gt; <span class="kept">--eval-data</span> 58&nbsp;% of 1.2&nbsp;±&nbsp;0.1'


def test_a_card_names_seeds_equal_compute_and_no_digits_beyond_its_interval():
    rows = [*readings(), Reading("student", "likelihood", "perplexity", 318.26, "tokens", DOCUMENTS, 274.916, 373.465)]
    for seed in (0, 1):
        rows += likelihood("cut+ce@flops", [made_up(1.6)], text_bytes=np.full(DOCUMENTS, 900.0), seed=seed)
        rows += likelihood("student", [made_up(1.5)], text_bytes=np.full(DOCUMENTS, 900.0), seed=seed)
    card = model_card(RUN, rows)
    assert "| pruned + cross-entropy, equal compute |" in card
    assert f"over {DOCUMENTS} held-out documents and 2 seeds." in card
    assert "318.3 (274.9 to 373.5)" in card


@pytest.mark.usefixtures("drawn")
def test_the_report_of_a_model_from_scratch_has_no_teacher(tmp_path):
    run = {"signature": {"job": "pretrain"}, "parameters": 75264, "command": ["limbeck", "pretrain"]}
    (tmp_path / "run.json").write_text(json.dumps(run))
    rows = [Reading("model", "likelihood", "held_out", 2.858, "nats/token", 11, 2.833, 2.89, 0)]
    write_lines(tmp_path / "readings.jsonl", [reading.row() for reading in rows])
    write_lines(tmp_path / "metrics.jsonl", metrics("student", start=5.0, end=2.8))
    _, tags = read(write_report(tmp_path))
    text = " ".join(" ".join(tags.words).split())
    for words in (
        "A model trained from scratch",
        "On 11 held-out documents",
        "model 75.3 k 2.858",
        "objective: CrossEntropy",
    ):
        assert words in text, text
    rest = text[text.index("On 11") :]
    assert not (found := re.search("student|teacher|distil|cut", rest)), rest[
        max(0, found.start() - 90) : found.end() + 60
    ]

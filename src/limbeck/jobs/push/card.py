"""The card of what is published: the folder's own, with what the hub reads: licence, base model, data, results as model-index."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import EvalResult, ModelCard

from limbeck.corpora.files import READERS
from limbeck.corpora.hub import hub_name
from limbeck.corpora.mixture import plain
from limbeck.corpora.source import SOURCES, without_conditions
from limbeck.corpora.streams import kind_of
from limbeck.disk import existing, read_json, read_lines
from limbeck.errors import BadFolder, first_line
from limbeck.jobs.push.files import CARD
from limbeck.types import Reading, ReadingRow

_METRICS = {
    "held_out": ("loss", "nats per token on held-out text"),
    "perplexity": ("perplexity", "perplexity on held-out text"),
    "bits_per_byte": ("bits_per_byte", "bits per byte on held-out text"),
    "kl_teacher_student": ("kl", "KL(teacher || student), nats per token"),
    "top1_agreement": ("accuracy", "top-1 agreement with the teacher"),
}
_NAME = re.compile(r"(?:\w[\w.-]*/)?\w[\w.-]*")
_FILES = re.compile(r"hf://datasets/(\w[\w.-]*/\w[\w.-]*)(?:[@/].*)?")
_EMPTY = "---\npipeline_tag: text-generation\ntags:\n- limbeck\n---\n\n# {name}\n"


def card_of(folder: Path, repo: str) -> str:
    """The text of README.md. Raises BadFolder where the folder's own cannot be read."""
    file = folder / CARD
    text = file.read_text(encoding="utf-8") if file.is_file() else _EMPTY.format(name=repo.rpartition("/")[2])
    try:
        card = ModelCard(text, ignore_metadata_errors=False)
    except Exception as error:  # of whatever kind a YAML reader raises
        raise BadFolder(
            f"{file}: the front matter is no YAML of a model card ({first_line(error)}); repair it"
        ) from error
    run = _run_of(folder)
    data = card.data
    if (names := _datasets(run)) and not data.datasets:
        data.datasets = names
    if data.base_model and "base_model_relation" not in data.to_dict():
        data["base_model_relation"] = "quantized" if any(folder.glob("*.gguf")) else "finetune"
    results = [*_results(folder, run)]
    if results:
        data.model_name, data.eval_results = repo.rpartition("/")[2], results
    return str(card)


def _run_of(folder: Path) -> Path | None:
    """The run that the folder is the student of, None for another."""
    above = folder.resolve().parent
    return above if folder.resolve().name == "student" and (above / "run.json").is_file() else None


def _signature(run: Path | None) -> Mapping[str, Any]:
    found = {} if run is None else read_json(run / "run.json", Any, remedy="copy the run again").get("signature", {})
    return found if isinstance(found, dict) else {}


def _sources(data: str) -> list[str]:
    """The sources of a value of --data, without weights."""
    return [source.strip() for source in plain(data).split(",")]


def _datasets(run: Path | None) -> list[str]:
    """The hub's data sets among the sources of the run's text."""
    return sorted({name for source in _sources(str(_signature(run).get("data") or "")) if (name := _data_set(source))})


def _data_set(source: str) -> str | None:
    """The hub's name of the data set that a source reads, None for another source."""
    source = without_conditions(source)
    if (files := _FILES.fullmatch(source)) is not None:
        owner, name = files[1].split("/")
        return owner if kind_of(Path(name)) in READERS else f"{owner}/{name}"  # old data sets have no owner
    if not source.startswith("hf:") or source.startswith("hf://"):
        return None
    name, *_ = hub_name(source)
    return name if _NAME.fullmatch(name) and existing(name) is None else None


def _text_of(run: Path) -> str:
    """The names of the run's text without their folders."""
    text = str(_signature(run).get("eval_data") or _signature(run).get("data") or "text")
    return ", ".join(source if _data_set(source) else _name_of(source) for source in _sources(text))


def _name_of(source: str) -> str:
    """The name of a source that is no data set of the hub."""
    scheme, colon, rest = source.partition(":")
    if colon and scheme in SOURCES and scheme != "hf" and "/" not in rest:
        return source
    return PurePosixPath(hub_name(source)[0] if scheme == "hf" and not rest.startswith("//") else source).name


def _results(folder: Path, run: Path | None) -> Iterator[EvalResult]:
    """The readings of the run's student, or how an export compares."""
    if run is not None:
        rows = [Reading.of(row) for row in read_lines(run / "readings.jsonl", ReadingRow, appended=False)]
        for name, (kind, words) in _METRICS.items():
            mine = [row for row in rows if row.model == "student" and row.name == name and math.isfinite(row.value)]
            if mine:
                best = min(mine, key=lambda row: -1 if row.seed is None else row.seed)  # that over all seeds first
                yield _result(
                    kind, f"{words} (95 %: {best.low:.4g} to {best.high:.4g}, n = {best.n})", best.value, _text_of(run)
                )
    elif (folder / "export.json").is_file():
        record = read_json(folder / "export.json", Any, remedy="export the model again")
        compared = record["exports"][0]["compared"]
        if compared is not None:
            where = record["measured_on"]
            yield _result("loss", "nats per token", compared["written_nats"]["value"], where)
            yield _result("kl", "KL(model || export), nats per token", compared["kl"]["value"], where)


def _result(kind: str, words: str, value: float, text: str) -> EvalResult:
    return EvalResult(
        task_type="text-generation",
        dataset_type="text",
        dataset_name=text,
        metric_type=kind,
        metric_name=words,
        metric_value=round(value, 6),
    )

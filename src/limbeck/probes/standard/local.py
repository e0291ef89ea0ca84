"""Tasks in files of the user: plain JSONL, or a YAML of lm-eval.

A line of a JSONL file has one of these forms, and all lines the same:

- ``{"prompt": ..., "choices": [...], "gold": 0}``: which choice is likeliest after the prompt;
- ``{"sentence_good": ..., "sentence_bad": ...}``: which of two sentences is likelier, as in BLiMP;
- ``{"prompt": ..., "target": ...}``: whether the target is what the model would write, and its likelihood, as in LAMBADA;
- ``{"text": ...}``: the likelihood of a text.

Texts are joined as they stand: a space between prompt and answer belongs into one of them. Other keys are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from limbeck.corpora.jsonl import Record
from limbeck.corpora.records import kind
from limbeck.errors import BadTask
from limbeck.probes.tasks import task_rows

CHOICES, CONTINUATION, TEXT = "multiple_choice", "loglikelihood", "loglikelihood_rolling"  # lm-eval's output types
_FORMS = (
    '{"prompt": ..., "choices": [...], "gold": 0}, {"sentence_good": ..., "sentence_bad": ...}, '
    '{"prompt": ..., "target": ...}, or {"text": ...}'
)


def local_task(path: Path) -> tuple[str, list[dict[str, Any]]]:
    """(output type of lm-eval, rows) of a JSONL task.

    Rows have the keys prompt, choices and gold; prompt and target; or text. Raises BadTask, with the line, for a line of no known
    form, of another form than the first, or without a right answer.
    """
    found: list[dict[str, Any]] = []
    form = ""
    for number, row in task_rows(path):
        where = f"{path}:{number}"
        own, made = _read(row, where)
        if form and own != form:
            raise BadTask(f"{where}: expected the form of the first line ({form}), got {own}: put them into two files")
        form = own
        found.append(made)
    if not found:
        raise BadTask(f"{path}: expected a line for each item, got none. A line is {_FORMS}")
    return form, found


def _read(row: Record, where: str) -> tuple[str, dict[str, Any]]:
    for keys, form, read in _READERS:
        if all(key in row for key in keys):
            return form, read(row, where)
    given = ", ".join(map(repr, row)) or "none"
    lacks = " It has no right answer: add 'gold', the number of the right choice from 0." if "choices" in row else ""
    if "instruction_id_list" in row:
        lacks = " Constraints on answers are measured with limbeck probe --probe constraints --task FILE."
    raise BadTask(f"{where}: expected the keys of {_FORMS}; got {given}.{lacks}")


def _choices(row: Record, where: str) -> dict[str, Any]:
    choices, gold = row["choices"], row["gold"]
    if not isinstance(choices, list) or len(choices) < 2:
        raise BadTask(
            f"{where}: expected 'choices' to be a list of at least 2 texts, got {kind(choices)}: write them all"
        )
    texts = [_text(choice, "a choice", where) for choice in choices]
    if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(choices):
        raise BadTask(
            f"{where}: expected 'gold' to be the number of the right choice, 0 to {len(choices) - 1}, got {gold!r}: without it "
            "nothing can be scored"
        )
    return {"prompt": _text(row.get("prompt", ""), "'prompt'", where, empty=True), "choices": texts, "gold": gold}


def _pair(row: Record, where: str) -> dict[str, Any]:
    pair = [_text(row[key], repr(key), where) for key in ("sentence_good", "sentence_bad")]
    return {"prompt": "", "choices": pair, "gold": 0}


def _continuation(row: Record, where: str) -> dict[str, Any]:
    prompt = _text(row["prompt"], "'prompt'", where, empty=True)
    return {"prompt": prompt, "target": _text(row["target"], "'target'", where)}


def _whole(row: Record, where: str) -> dict[str, Any]:
    return {"text": _text(row["text"], "'text'", where)}


def _text(value: Any, what: str, where: str, *, empty: bool = False) -> str:
    if not isinstance(value, str) or not (value or empty):
        raise BadTask(f"{where}: expected {what} to be a text, got {kind(value)}: write one")
    return value


_READERS: tuple[tuple[tuple[str, ...], str, Callable[[Record, str], dict[str, Any]]], ...] = (
    (("choices", "gold"), CHOICES, _choices),
    (("sentence_good", "sentence_bad"), CHOICES, _pair),
    (("prompt", "target"), CONTINUATION, _continuation),
    (("text",), TEXT, _whole),
)


def config_of(path: Path, custom_dataset: Callable[[list[dict[str, Any]]], Any]) -> dict[str, Any]:
    """lm-eval's configuration of a JSONL task. ``custom_dataset`` makes a data set of rows.

    Fields are given as functions, since lm-eval reads templates of digits as numbers.
    """
    form, rows = local_task(path)
    answer: Mapping[str, Any] = {
        CHOICES: {
            "doc_to_text": lambda doc: doc["prompt"],
            "doc_to_choice": lambda doc: doc["choices"],
            "doc_to_target": lambda doc: doc["gold"],
            "metric_list": [{"metric": "acc"}],
        },
        CONTINUATION: {
            "doc_to_text": lambda doc: doc["prompt"],
            "doc_to_target": lambda doc: doc["target"],
            "metric_list": [{"metric": "acc"}],
        },
        TEXT: {
            "doc_to_text": "",
            "doc_to_target": lambda doc: doc["text"],
            "metric_list": [{"metric": "bits_per_byte"}],
        },
    }[form]
    return {
        "task": path.stem,
        "custom_dataset": lambda **_: {"test": custom_dataset(rows)},
        "test_split": "test",
        "output_type": form,
        "target_delimiter": "",
        **answer,
    }

"""README.md of an export: the card of the model it was made from, with a section on what was written and how it compares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.errors import BadModel
from limbeck.models.source import resolve_description
from limbeck.report.card import plain
from limbeck.report.words import bounded, share, size
from limbeck.terminal import visible

_LIBRARIES = {"gguf": "gguf", "onnx": "onnx"}  # what the hub calls the library of a format
_LOAD = re.compile(r"\n## Load\n.*?(?=\n## |\nThe licences |\Z)", re.DOTALL)
_FRONT = "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- limbeck\n---\n"


def card_of(model: str) -> str:
    """The card of a model's folder, or one that only names it."""
    folder = resolve_description(model)
    file = folder / "README.md"
    if not file.is_file():
        return f"{_FRONT}\n# {plain(folder.name)}\n"
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadModel(f"{file}: the model card cannot be read ({error}); repair it, or take it away") from error


def with_export(card: str, row: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """The card with a section on one export; a format that Transformers does not load loses the section on loading."""
    library = _LIBRARIES.get(row["format"].partition(":")[0])
    if library is not None:
        card = re.sub(r"(?m)^library_name: .*$", f"library_name: {library}", card, count=1)
        card = _LOAD.sub("", card)
    files = ", ".join(f"`{plain(name)}`" for name in row["files"])
    lines = [f"## Export: {row['format']}", "", f"{files}: {size(row['bytes'])}.", ""]
    lines += [f"- {plain(note)}" for note in row["notes"]]
    compared = row["compared"]
    if compared is None:
        lines += ["", f"Not verified: {plain(row['reason'])}."]
    else:
        lines += ["", *_table(compared), "", f"Compared on {plain(result['measured_on'])}. {_of(compared)}"]
    if row["speeds"]:
        lines += ["", *_speeds(row), "", f"Measured on {plain(result['machine'])}; what ran beside it counts too."]
    return visible(card.rstrip("\n") + "\n\n" + "\n".join(lines) + "\n")


def _of(compared: Mapping[str, Any]) -> str:
    if compared["nats"]["low"] is None:
        return f"{compared['tokens']:,} tokens of too few documents for an interval."
    return (
        f"± or what is in brackets is a 95 % interval over {compared['nats']['n']} documents ({compared['tokens']:,} "
        f"tokens), for "
        "the difference a paired one."
    )


def _table(compared: Mapping[str, Any]) -> list[str]:
    rows = {
        "KL(model ‖ export), nats per token": value_of(compared["kl"], least=6),
        "equal greedy tokens": f"{share(compared['same']['value'], digits=2)}",
        "nats per token": value_of(compared["written_nats"]),
        "nats per token, export - model": value_of(compared["difference"], least=5),
        "largest difference of log-probabilities": f"{compared['largest_difference']:.3g}",
    }
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]


def value_of(row: Mapping[str, Any], *, least: int = 3) -> str:
    """A value with its interval as ± or in brackets, the value alone where there is none."""
    if row["low"] is None:
        return f"{row['value']:.{least}f}"
    return bounded(row["value"], row["low"], row["high"], least=least)


def _speeds(row: Mapping[str, Any]) -> list[str]:
    lines = ["| threads | reads, tokens/s | writes, tokens/s |", "|---|---|---|"]
    return lines + [f"| {one['threads']} | {one['prefill']:,.0f} | {one['generation']:,.1f} |" for one in row["speeds"]]


def write_card(folder: Path, card: str) -> None:
    """Writes README.md into a folder that is being made."""
    (folder / "README.md").write_text(card, encoding="utf-8")

"""The card of a model that was trained on text alone, from random weights or from another model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.report.card import plain
from limbeck.report.grown import grown_from
from limbeck.types import Reading


def trained_how(run: Mapping[str, Any]) -> str:
    """`trained from scratch`, or `trained further from NAME`, from run.json."""
    start = run.get("start")
    return f"trained further from {start['name']}" if start else "trained from scratch"


def pretrained_card(run: Mapping[str, Any], readings: Sequence[Reading]) -> str:
    """The model card (README.md): the command, the corpus and the readings."""
    corpus, versions = run["corpus"], run["versions"]
    lines = "\n".join(
        f"| {r.name} | {r.value:.4f} | {r.low:.4f} to {r.high:.4f} | {r.unit} | {r.n} |" for r in readings
    )
    settings = run["signature"]
    own = "" if "start" in run else ", on which its tokenizer was trained too"
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [limbeck]
{_stated(run)}---
{_kind(run)}, {plain(trained_how(run))} with limbeck {versions["limbeck"]}:

    {shlex.join(run["command"])}

on {run["tokens"]:,} tokens ({run["tokens"] / corpus["tokens"]:.1f} epochs of the {corpus["tokens"]:,} in the training part of
`{settings["data"]}`{own}),
{run["tokens"] / run["parameters"]:.1f} tokens a parameter, seed {settings["seed"]}, peak learning rate {run["lr"]:.2g},
from {run["started"]} to {run["ended"]}; torch {versions["torch"]}, transformers {versions["transformers"]},
Python {versions["python"]}.{_start(run)}

Measured on documents held out from {_held_out_from(run)} (95 % intervals over documents):

| reading | value | interval | unit | documents |
|---|---|---|---|---|
{lines}
"""


def _stated(run: Mapping[str, Any]) -> str:
    """Lines of the front matter: the licence and base model that the start's card states. A JSON string is a YAML string."""
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in (run.get("stated") or {}).items())


def _kind(run: Mapping[str, Any]) -> str:
    layers = f" with the layers {', '.join(run['layers'])}" if "layers" in run else ""
    kind = "A decoder of limbeck's" if layers else "A language model" if "start" in run else "A Llama"
    return f"{kind} of {run['parameters']:,} parameters{layers}"


def _start(run: Mapping[str, Any]) -> str:
    """Sentences about the model from which this one goes on; "" for one of random weights."""
    if (start := run.get("start")) is None:
        return ""
    grown = grown_from(run.get("lineage") or {})
    was = f" It was {plain(grown)}." if grown else ""
    return (
        f"\n\n{plain(start['name'])} has weights with the SHA-256 `{start['weights']}`, and its tokenizer is this model's.{was}\n"
        "Its licence applies to this model too."
    )


def _held_out_from(run: Mapping[str, Any]) -> str:
    """Which trainings the documents that were measured took no part in."""
    both = "this training" if "start" in run else "both trainings"
    if not (overlap := run["corpus"].get("overlap")):
        return both
    first = "nothing" if "start" in run else "the training of the tokenizer"
    return f"{first}, while {overlap:,} documents of the model's training text are among them"

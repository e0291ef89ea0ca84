"""Settings of `limbeck probe`, which measures a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from limbeck.config.flag import Flag
from limbeck.config.settings.common import MeshText, Settings
from limbeck.config.values import Count, ProbeNames, Successes, TaskNames


class ProbeSettings(Settings):
    """The settings of a probe. ``task`` is of pass-until, of reversal a file of facts, and of constraints
    and style one of prompts.

    ``successes`` and ``max_samples`` are of pass-until.
    """

    probe: Annotated[
        ProbeNames,
        Flag(
            "What to measure: likelihood, slices, change, tradeoff, tasks, constraints, style, values, mqar, reversal, "
            "arithmetic, listops; or pass-until alone.",
            "Measurement",
            synonyms=("probes", "metrics", "eval"),
        ),
    ] = ("likelihood",)
    task: Annotated[
        str | None,
        Flag(
            "Of pass-until: addition, subtraction, base7, reverse-string, copy, or a JSONL file. Of reversal, constraints "
            "and style: a JSONL file.",
            "Measurement",
            metavar="NAME|FILE",
        ),
    ] = None
    tasks: Annotated[
        TaskNames,
        Flag(
            "Standard tasks: names of lm-eval, and files (.jsonl, .yaml), between commas.",
            "Measurement",
            needs="--probe tasks",
            metavar="NAME|FILE,...",
            examples=("lambada_openai,piqa,mine.jsonl",),
            synonyms=("benchmark", "benchmarks"),
        ),
    ] = None
    target: Annotated[
        str | None,
        Flag(
            "What a model was specialised in, in the forms of --data: prompts with an answer beside them, of which the right "
            "completions count, or text, of which nats do. Its first 500 items are read: give what was not trained on.",
            "Measurement",
            needs="--probe tradeoff",
            metavar="SOURCE",
            examples=("sums.jsonl",),
        ),
    ] = None
    guard: Annotated[
        TaskNames,
        Flag(
            "What it should still do, in the same forms, between commas.",
            "Measurement",
            needs="--probe tradeoff",
            metavar="SOURCE,...",
            examples=("chat.jsonl,text.jsonl",),
            synonyms=("guards", "retain"),
        ),
    ] = None
    styles: Annotated[
        str | None,
        Flag(
            "A strategy for each kind of task and a pattern that its answers match: a TOML file such as capture --system reads.",
            "Measurement",
            needs="--probe style",
            metavar="FILE",
            examples=("strategies.toml",),
            synonyms=("strategies", "patterns"),
        ),
    ] = None
    successes: Annotated[
        Successes,
        Flag("Passes to wait for.", "Measurement", needs="--probe pass-until", unit="passes", synonyms=("passes",)),
    ] = 4
    max_samples: Annotated[
        Count,
        Flag(
            "The most completions of one instance.",
            "Measurement",
            needs="--probe pass-until",
            synonyms=("samples", "num_samples", "limit"),
        ),
    ] = 100_000
    mesh: MeshText = None


ReadingsFolder = Annotated[
    Path | None,
    Flag("Folder to write the readings into.", "Output", metavar="FOLDER", synonyms=("output_dir", "output")),
]


class ProbeCommandSettings(ProbeSettings):
    """The keys of `limbeck probe`, which are also its flags."""

    model: Annotated[str, Flag("Folder or hub id of the model to measure.")]
    teacher: Annotated[
        str | None,
        Flag(
            "Compare with this teacher, of change and tradeoff with the model that training began with: folder or hub id.",
            "Measurement",
            metavar="MODEL",
            synonyms=("teacher_model", "reference", "compare_with"),
        ),
    ] = None
    out: ReadingsFolder = None  # type: ignore[assignment]  # a probe need not write any

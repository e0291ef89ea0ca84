"""Settings of `limbeck pretrain` and `limbeck pilot`, which train models on text alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from limbeck.config.defaults import VOCABULARY
from limbeck.config.flag import Flag
from limbeck.config.settings.common import (
    AnyTeacher,
    Layers,
    MeshText,
    Mixers,
    RunFolder,
    SeedCount,
    SeededSettings,
    Settings,
    Shape,
    TextSettings,
    Width,
)
from limbeck.config.settings.distil import OBJECTIVE_SYNONYMS
from limbeck.config.settings.training import TrainingSettings
from limbeck.config.values import Count, ObjectiveText


class PretrainSettings(TrainingSettings, Settings):
    """The keys of `limbeck pretrain`, which are also its flags."""

    mesh: MeshText = None
    start: Annotated[
        str | None,
        Flag(
            "Model to go on from, with its tokenizer, instead of new weights: a folder or hub id.",
            "Model",
            metavar="MODEL",
            default="random weights and a new tokenizer",
            synonyms=("init_from", "from_pretrained", "model_name_or_path", "base_model", "resume_from", "checkpoint"),
        ),
    ] = Field(default=None, exclude=True)
    vocab: Annotated[
        Count,
        Flag(
            "Tokens of the vocabulary, which is trained here.",
            "Model",
            unit="tokens",
            synonyms=("vocab_size", "vocabulary"),
        ),
    ] = VOCABULARY
    params: Annotated[
        Count | None,
        Flag(
            "Parameters of the model.",
            "Model",
            examples=("250k", "6M", "1.3B"),
            synonyms=("parameters", "num_params", "model_size"),
        ),
    ] = None
    shape: Shape = None
    mixers: Mixers = None
    width: Width = None
    layers: Layers = None
    out: RunFolder = Path("runs/pretrain")


Scale = Annotated[
    Literal["smoke", "small", "gpu"],
    Flag(
        "How large the models are: smoke takes a minute, small an hour or two on two cores, gpu needs one.", "Training"
    ),
]
Workers = Annotated[
    int | None,
    Field(ge=1, le=2**16),
    Flag(
        "Processes, of one thread each.",
        "Machine",
        default="one a core",
        synonyms=("num_workers", "processes", "n_jobs", "jobs", "threads"),
    ),
]
Seeds = Annotated[
    int,
    SeedCount,
    Flag("Number of seeds, from --seed on.", "Comparison", synonyms=("num_seeds", "n_seeds", "repeats", "trials")),
]


class ScaledSettings(SeededSettings):
    """The common settings of sweeps over small models."""

    scale: Scale = "small"
    seeds: Seeds = 3
    workers: Workers = None


class PilotSettings(ScaledSettings, TextSettings):
    """The keys of `limbeck pilot`, which are also its flags."""

    students: Annotated[
        str | None,
        Flag(
            "Number of student sizes, or the sizes.",
            "Model",
            metavar="INT|COUNT,...",
            examples=("30k,60k,120k",),
            default="3; 2 at scale gpu",
            synonyms=("student_sizes",),
        ),
    ] = None
    teachers: Annotated[
        str,
        Flag(
            "Number of teacher sizes, or the sizes.",
            "Model",
            metavar="INT|COUNT,...",
            examples=("45k,90k,200k,600k",),
            synonyms=("teacher_sizes",),
        ),
    ] = "6"
    objective: Annotated[
        ObjectiveText,
        Flag(
            "Distillation loss, by name, as a weighted sum, or FILE.py:CLASS.", "Training", synonyms=OBJECTIVE_SYNONYMS
        ),
    ] = "0.5*CrossEntropy + 0.5*ForwardKL"
    law: Annotated[
        bool | None,
        Flag(
            "Also train what a distillation law needs: students for fewer tokens, teachers for more.",
            "Training",
            synonyms=("scaling_law",),
        ),
    ] = None
    grow: Annotated[
        bool,
        Flag(
            "Grow each teacher but the smallest from the one below, and train it on 0.6 of the tokens; the results say what that "
            "saved.",
            "Training",
            synonyms=("progressive", "stacking", "grow_teachers"),
        ),
    ] = Field(default=False, exclude=True)
    ray: Annotated[
        str | None,
        Flag(
            "Address of a Ray cluster to spread the work over.", "Machine", metavar="ADDRESS", synonyms=("ray_address",)
        ),
    ] = None
    any_teacher: AnyTeacher = False
    out: Annotated[
        Path,
        Flag(
            "Folder of the pilot.",
            "Output",
            metavar="FOLDER",
            synonyms=("output_dir", "output", "output_path", "save_dir"),
        ),
    ] = Path("runs/pilot")

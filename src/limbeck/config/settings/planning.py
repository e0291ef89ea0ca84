"""Settings of `limbeck plan`, `predict` and `reproduce`, which answer questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from limbeck.config.defaults import VOCABULARY
from limbeck.config.flag import Flag
from limbeck.config.settings.common import Base, BodyParams, DeviceSettings, Layers, Mixers, Params, WeightBytes, Width
from limbeck.config.settings.train import ScaledSettings
from limbeck.config.values import Bytes, Context, Count, Names, Seconds, Vocabularies
from limbeck.plugins import papers


class PlanSettings(Base):
    """The keys of `limbeck plan`, which are also its flags. Memory is in bytes, latency in seconds per token.

    ``text_tokens``: what there is of text, which is read in several epochs where it is less than ``tokens``.

    ``width`` and ``layers`` go with ``mixers``, where the question is of a mixture of layers. ``samples``, ``trainable`` and
    ``snr`` ask about over-training.
    """

    params: Params = None
    shrink: Annotated[
        float | None,
        Field(gt=1),
        Flag(
            "Its parameters over those of the student.",
            "Model",
            needs="--teacher",
            metavar="RATIO",
            synonyms=("ratio", "compression", "compression_ratio", "prune_ratio"),
        ),
    ] = None
    weight_bytes: WeightBytes = None
    body_params: BodyParams = None
    tokens: Annotated[
        Count | None,
        Flag(
            "Tokens that the student is trained on.",
            "Question",
            examples=("2M", "10B"),
            default="with --teacher 20 a parameter",
            synonyms=("max_steps", "steps", "epochs", "num_train_epochs", "train_tokens", "budget"),
        ),
    ] = None
    candidates: Annotated[
        Names,
        Flag(
            "Teachers to choose from: sizes, hub ids, folders.",
            "Question",
            metavar="TEACHER,...",
            examples=("1.5B,4B,Qwen/Qwen3-8B",),
            synonyms=("teachers", "candidate", "teacher_candidates"),
        ),
    ] = ()
    teacher: Annotated[
        str | None,
        Flag(
            "One teacher, folder or hub id, for the question which student fits the device.",
            "Question",
            metavar="MODEL",
            synonyms=("teacher_model", "teacher_model_name_or_path", "model_name_or_path", "model"),
        ),
    ] = None
    teacher_tokens: Annotated[
        Count | None,
        Flag("Tokens that each teacher was trained on.", "Question", default="20 for each of its parameters"),
    ] = None
    text_tokens: Annotated[
        Count | None,
        Flag(
            "Tokens of text that exist, if fewer than --tokens: the teacher reads them once, and its logits are kept.",
            "Question",
            synonyms=("dataset_tokens", "data_tokens"),
        ),
    ] = None
    pay_teacher: Annotated[
        bool,
        Flag(
            "Count the compute of the teacher's forward passes, or not (logits are there already).",
            "Question",
            off="free-teacher",
        ),
    ] = True
    epsilon: Annotated[
        float,
        Field(ge=0, lt=10),
        Flag(
            "Tolerance: a difference in loss that does not matter, in nats per token.",
            "Question",
            unit="nats",
            synonyms=("tolerance",),
        ),
    ] = 0.005
    points: Annotated[
        Path | None,
        Flag(
            "Folder of a pilot or table of points, to fit a law to.",
            "Question",
            metavar="PATH",
            synonyms=("pilot", "law"),
        ),
    ] = None
    device_memory: Annotated[
        Bytes | None,
        Flag(
            "Memory that the student must fit into.",
            "Device",
            examples=("24GiB", "8GB"),
            synonyms=("memory", "max_memory", "vram"),
        ),
    ] = None
    latency: Annotated[
        Seconds | None,
        Flag(
            "Longest time of one token on the device; with --bytes and no device it is measured on this machine.",
            "Device",
            examples=("20ms",),
        ),
    ] = None
    gpu: Annotated[
        str | None,
        Flag(
            "A device by name.",
            "Device",
            metavar="NAME",
            examples=("L4", "RTX-4090", "A100-80", "H100-SXM", "H200"),
            synonyms=("device", "device_name"),
        ),
    ] = None
    length: Annotated[
        Context,
        Flag(
            "Sequence length, the context of the model.",
            "Device",
            name="seq_len",
            aliases=("context",),
            old=("length",),
            unit="tokens",
            examples=("32k",),
            synonyms=("seq_length", "sequence_length", "max_length", "max_seq_length", "max_seq_len", "context_length"),
        ),
    ] = 4096
    mixers: Mixers = None
    width: Width = None
    layers: Layers = None
    vocab: Annotated[
        Vocabularies,
        Flag(
            "Tokens of the vocabulary: with --teacher those that it is trimmed to (with --bytes several numbers), with --mixers "
            "those of the model.",
            "Question",
            examples=("8k", "4k,8k,16k"),
            default=f"all of the teacher's; with --mixers {VOCABULARY}",
            synonyms=("vocab_size", "vocabulary"),
        ),
    ] = None
    samples: Annotated[
        Count | None,
        Flag(
            "Labelled samples, for the question when a linear read-out over-trains.",
            "Question",
            examples=("5000", "20k"),
            synonyms=("num_samples", "n_samples", "rows"),
        ),
    ] = None
    trainable: Annotated[
        Count | None,
        Flag(
            "Numbers that are trained on them.",
            "Question",
            examples=("4096",),
            synonyms=("trainable_params", "trainable_parameters", "n_params"),
        ),
    ] = None
    snr: Annotated[
        float | None,
        Field(ge=1e-4, le=1e4),
        Flag(
            "Variance of the labels that inputs explain, over that of their noise; 4 where noise is 20 % of the variance.",
            "Question",
            metavar="RATIO",
            synonyms=("signal_to_noise", "signal_to_noise_ratio"),
        ),
    ] = None


class PredictSettings(Base):
    """The keys of `limbeck predict`, which are also its flags."""

    points: Annotated[
        Path,
        Flag(
            "Folder of results of limbeck probe --probe pass-until.",
            "Question",
            metavar="FOLDER",
            synonyms=("results",),
        ),
    ]
    task: Annotated[
        str, Flag("Which task of those measured there.", "Question", metavar="NAME", synonyms=("benchmark",))
    ]
    params: Annotated[
        Count,
        Flag(
            "Parameters of the model to predict.",
            "Question",
            examples=("6M", "1.3B"),
            synonyms=("parameters", "num_params", "size"),
        ),
    ]


class ReproduceSettings(DeviceSettings, ScaledSettings):
    """The keys of `limbeck reproduce`, which are also its flags.

    Without ``data`` a recipe takes its own. ``points`` are of a pilot that exists already.
    """

    recipe: Annotated[str, Flag(f"One of {', '.join(papers())}, or one of a package that is installed.")]
    data: Annotated[
        str | None,
        Flag(
            "Dataset to use instead of the recipe's own.", "Data", metavar="SOURCE,...", synonyms=("dataset", "corpus")
        ),
    ] = None
    points: Annotated[
        Path | None,
        Flag("Folder of a pilot to judge, instead of training one.", "Data", metavar="FOLDER", synonyms=("pilot",)),
    ] = None
    out: Annotated[
        Path | None,
        Flag(
            "Folder of the reproduction.",
            "Output",
            metavar="FOLDER",
            default="runs/RECIPE-SCALE",
            synonyms=("output_dir", "output"),
        ),
    ] = None

"""Settings of `limbeck capture` and of the commands that look at captured logits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from limbeck.config.defaults import FREE_SHARE
from limbeck.config.flag import Flag
from limbeck.config.settings.common import Base, MeshText, SeededSettings, TeacherSettings
from limbeck.config.values import Bytes, CodecName, Count, Price, Shard, Sizes

CapturedTokens = Annotated[
    Count | None,
    Flag(
        "Tokens to compute logits for, or with --text and --pairs the most that each model generates.",
        "Data",
        examples=("2M", "10B"),
        default="all of --data",
        synonyms=("max_tokens", "num_tokens"),
    ),
]


class CaptureSettings(TeacherSettings):
    """The keys of `limbeck capture`, which are also its flags. Without ``tokens`` all of the text is captured.

    Students of the sizes in ``params`` are pruned out of the teacher, for a time when it is no longer there; others may be later.
    With ``text`` the teacher generates, with ``pairs`` that student does, and those from ``max_new_tokens`` to ``price`` say how;
    they are no part of what decides another capture.
    """

    tokens: CapturedTokens = None  # type: ignore[assignment]  # all of the text
    params: Annotated[
        Sizes,
        Flag(
            "Sizes of students to prune now, for when the teacher is gone.",
            "Model",
            examples=("1B,600M",),
            synonyms=("parameters", "num_params", "student_size"),
        ),
    ] = Field(default=(), exclude=True)
    qat: Annotated[
        Literal["int8", "int4"] | None,
        Flag(
            "With --params: shapes for limbeck distil --qat, whose rows blocks of quantised weights divide.",
            "Model",
            default="any shape",
        ),
    ] = Field(default=None, exclude=True)
    bytes_per_token: Annotated[
        int,
        Field(ge=1, le=2**16),
        Flag(
            "Bytes kept of each token's distribution.",
            "Logit cache",
            unit="bytes",
            synonyms=("gkd_logits_topk", "top_k", "topk", "max_logprobs", "k"),
        ),
    ] = 48
    kind: Annotated[
        CodecName,
        Flag(
            "How a distribution is kept: sampled (unbiased), top-k (the likeliest tokens and the mass of the rest), or auto, "
            "whichever is measured to be better.",
            "Logit cache",
            name="codec",
            old=("kind",),
            synonyms=("compression", "encoding", "method"),
        ),
    ] = "auto"
    mesh: MeshText = Field(default=None, exclude=True)
    shard: Annotated[
        Shard,
        Flag(
            "Which of how many machines this is.",
            "Machine",
            examples=("3/16",),
            synonyms=("rank", "world_size"),
        ),
    ] = (1, 1)
    ray: Annotated[
        str | None,
        Flag(
            "Address of a Ray cluster whose machines capture together, or auto for that of this machine; --out is on a disk "
            "that all share.",
            "Machine",
            metavar="ADDRESS",
            synonyms=("ray_address",),
        ),
    ] = Field(default=None, exclude=True)
    shards: Annotated[
        Count | None,
        Flag(
            "Parts of the capture that workers take one by one.",
            "Machine",
            needs="--ray",
            default="one for each worker: a GPU, or a core where there are none",
            synonyms=("num_shards", "n_shards"),
        ),
    ] = Field(default=None, exclude=True)
    stream: Annotated[
        bool,
        Flag(
            "Read a teacher larger than memory from disk, layer by layer.",
            "Machine",
            synonyms=("offload", "streaming", "low_memory"),
        ),
    ] = False
    device_memory: Annotated[
        Bytes | None,
        Flag(
            "Memory that the teacher may take.",
            "Machine",
            needs="--stream",
            examples=("8GiB",),
            default=f"{100 * FREE_SHARE:.0f} % of what is free",
            synonyms=("memory", "max_memory", "vram"),
        ),
    ] = None
    text: Annotated[
        bool,
        Flag(
            "Generate completions of the prompts in --data, and keep the text instead of logits.",
            "Generated text",
            synonyms=("generate", "rollout", "rollouts"),
        ),
    ] = Field(default=False, exclude=True)
    pairs: Annotated[
        str | None,
        Flag(
            "Write preference pairs instead of logits: this student's completions of the prompts in --data, judged by --judge. A "
            "folder, a .gguf file or a hub id.",
            "Generated text",
            metavar="STUDENT",
            default="no pairs",
            synonyms=("preference", "preferences", "dpo", "student", "policy"),
        ),
    ] = Field(default=None, exclude=True)
    judge: Annotated[
        Literal["author", "likelihood", "checks"],
        Flag(
            "What is preferred: author (the teacher's text to the student's), likelihood (the student's best to its worst, by "
            "the teacher's log-probability per token), or checks (one of the student's that passes to one that fails, of prompts "
            "with an 'answer' or constraints). --text takes checks alone, and keeps the completions that pass.",
            "Generated text",
            needs="--text or --pairs",
            synonyms=("reward", "reward_model", "reward_funcs", "judge_model", "verifier"),
        ),
    ] = Field(default="author", exclude=True)
    max_new_tokens: Annotated[
        Count,
        Flag(
            "The longest completion.",
            "Generated text",
            needs="--text or --pairs",
            unit="tokens",
            synonyms=("max_completion_length",),
        ),
    ] = Field(default=256, exclude=True)
    temperature: Annotated[
        float,
        Field(ge=0, le=100),
        Flag("Sampling temperature; 0 takes the likeliest token.", "Generated text", needs="--text or --pairs"),
    ] = Field(default=1.0, exclude=True)
    samples: Annotated[
        int,
        Field(ge=1, le=10_000),
        Flag(
            "Completions of each prompt.",
            "Generated text",
            needs="--text or --pairs",
            synonyms=("num_return_sequences", "n", "num_generations"),
        ),
    ] = Field(default=1, exclude=True)
    system: Annotated[
        str | None,
        Flag(
            "System message that the teacher reads before each conversation, and that what is kept does not have: a text, "
            "@FILE, or @FILE.toml with one for each value of the field 'strategy', and patterns that its answers match.",
            "Generated text",
            needs="--text or --pairs",
            examples=("'Think step by step.'", "@how.txt", "@strategies.toml"),
            synonyms=("system_prompt", "system_message", "instruction"),
        ),
    ] = Field(default=None, exclude=True)
    price: Annotated[
        Price,
        Flag(
            "Dollars for a million prompt tokens and a million generated tokens, to show what it costs.",
            "Generated text",
            needs="--text or --pairs",
            examples=("0.15,0.60",),
            synonyms=("cost",),
        ),
    ] = Field(default=None, exclude=True)
    out: Annotated[
        Path,
        Flag(
            "Folder of the capture.",
            "Output",
            metavar="FOLDER",
            synonyms=("output_dir", "output", "output_path", "save_dir"),
        ),
    ] = Path("runs/capture")


class FolderSettings(Base):
    """A command about a folder that limbeck wrote."""

    folder: Annotated[Path, Flag("A folder that limbeck wrote: a run, a capture, a pilot, a token store.")]


class InspectSettings(Base):
    """The keys of `limbeck cache inspect`, which are also its flags."""

    folder: Annotated[Path, Flag("A folder of captured logits.")]


class VerifySettings(InspectSettings, SeededSettings):
    """The keys of `limbeck cache verify`, which are also its flags."""

    rows: Annotated[
        int,
        Field(ge=2),
        Flag("Sequences whose logits are computed again by the teacher.", "Measurement", unit="sequences"),
    ] = 32


class MergeSettings(Base):
    """The keys of `limbeck cache merge`, which are also its flags."""

    out: Annotated[Path, Flag("The folder to make.")]
    shards: Annotated[list[Path], Flag("All shards, in any order.")]

"""The settings of a run: one flat, strict table of keys, from a TOML file and the command line.

A key that does not exist, or a value of the wrong kind, is an error that names the nearest key: nothing is ignored.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from limbeck.errors import BadSetting
from limbeck.plugins import PROBES

LARGEST = (
    10**18
)  # of a count: tokens or parameters beyond it are a slip, and would not fit what they are multiplied with
_SUFFIX = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
Number = TypeVar("Number", int, float)
BASELINES = ("cut", "cut+ce", "cut+ce@flops", "fresh+kd")
ATTENTION = "attention"  # a baseline of a student of other mixers


def count(text: str | int) -> int:
    """A number written as people write it: 6M is 6,000,000, 1.3B, 250k, 2_000_000."""
    if isinstance(text, int) and not isinstance(text, bool):
        return _bounded(text, text)
    found = re.fullmatch(r"\s*(\d[\d_,]*\.?\d*(?:e\d{1,2})?)\s*([kmbt]?)\s*", str(text), re.IGNORECASE)
    if not found:
        raise ValueError(f"expected a count such as 250k, 6M or 1.3B, got {text!r}")
    value = float(found[1].replace(",", "").replace("_", "")) * _SUFFIX[found[2].lower()]
    return round(_bounded(value, text))


def _bounded(value: Number, text: str | float) -> Number:
    if value > LARGEST:
        raise ValueError(f"expected a count of at most {LARGEST:.0e}, got {str(text)[:24]}")
    return value


Count = Annotated[int, BeforeValidator(count), Field(gt=0)]


def _counts(value: Any) -> Any:
    """One count, or several that differ, the largest first."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        return count(value)
    found = sorted({count(part) for part in parts}, reverse=True)
    return found[0] if len(found) == 1 else tuple(found)


def _sizes(value: Any) -> Any:
    """The same, always as several."""
    found = _counts(value)
    return found if isinstance(found, tuple) else (found,)


_BYTES = {
    "": 1,
    "b": 1,
    "kb": 1e3,
    "mb": 1e6,
    "gb": 1e9,
    "tb": 1e12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}


def _measured(units: Mapping[str, float], example: str) -> BeforeValidator:
    """Turns a number with its unit into the number in the base unit."""

    def read(text: str | float) -> float:
        found = re.fullmatch(r"\s*(\d+\.?\d*)\s*([a-zµ]*)\s*", str(text), re.IGNORECASE)
        if not found or found[2].lower() not in units:
            raise ValueError(f"expected a number with its unit, such as {example}, got {text!r}")
        return _bounded(float(found[1]) * units[found[2].lower()], text)

    return BeforeValidator(read)


Bytes = Annotated[float, _measured(_BYTES, "24GiB"), Field(gt=0)]
Seconds = Annotated[float, _measured(_SECONDS, "20ms"), Field(gt=0)]


def nearest(name: str, names: Iterable[str]) -> str:
    """ "; did you mean X?" where there is a name near enough, else a full stop."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "."


# What other tools call a key, which no likeness of letters would find.
_ELSEWHERE = {
    **dict.fromkeys(("learning_rate", "peak_lr", "max_lr"), "lr"),
    **dict.fromkeys(("lr_scheduler_type", "lr_scheduler", "scheduler"), "schedule"),
    **dict.fromkeys(
        ("seq_len", "seq_length", "sequence_length", "max_length", "max_seq_length", "block_size"), "length"
    ),
    **dict.fromkeys(
        ("batch_size", "global_batch_size", "train_batch_size", "per_device_train_batch_size"), "batch_tokens"
    ),
    **dict.fromkeys(("max_steps", "steps", "epochs", "num_train_epochs", "train_tokens"), "tokens"),
    **dict.fromkeys(("dataset", "train_data", "train_file", "text_file", "corpus"), "data"),
    **dict.fromkeys(("validation_file", "eval_dataset", "valid_data", "test_data"), "eval_data"),
    **dict.fromkeys(("output_dir", "output", "out_dir", "save_dir"), "out"),
    **dict.fromkeys(("teacher_model", "teacher_model_name_or_path", "model_name_or_path"), "teacher"),
    **dict.fromkeys(("student_model", "base_model"), "student"),
    **dict.fromkeys(("loss", "loss_fn", "criterion"), "objective"),
    **dict.fromkeys(("parameters", "num_params", "student_size"), "params"),
    **dict.fromkeys(("vocab_size", "vocabulary"), "vocab"),
    **dict.fromkeys(("num_layers", "num_hidden_layers", "depth"), "layers"),
    **dict.fromkeys(("hidden_size", "d_model", "embed_dim"), "width"),
    **dict.fromkeys(("precision", "torch_dtype"), "dtype"),
    **dict.fromkeys(("num_threads", "nproc"), "threads"),
}


def likely_key(name: str, known: Sequence[str]) -> str | None:
    """The key that was probably meant: what another tool's name stands for, else the nearest in letters."""
    plain = name.strip("-").replace("-", "_").lower()
    meant = _ELSEWHERE.get(plain)
    return meant if meant in known else next(iter(difflib.get_close_matches(plain, known, n=1, cutoff=0.6)), None)


def _baselines(value: Any) -> Any:
    parts = value.split(",") if isinstance(value, str) else list(value)
    names = list(dict.fromkeys(part.strip() for part in parts if part.strip().lower() not in {"", "none"}))
    for name in names:
        if name not in (*BASELINES, ATTENTION):
            raise ValueError(
                f"unknown baseline {name!r}{nearest(name, (*BASELINES, ATTENTION))} There are: {', '.join(BASELINES)}, with "
                f"--mixers also {ATTENTION}, or none."
            )
    return names


def _joined(value: Any) -> Any:
    """Several objectives or mixers as one text, with commas between them."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def split_objectives(text: str) -> tuple[str, ...]:
    """The objectives of a text, which stand between commas; those in brackets or quotes belong to one of them."""
    pieces, depth, quote = [""], 0, ""
    for sign in text:
        if quote or sign in "'\"":
            quote = "" if sign == quote else quote or sign
        depth += 0 if quote else (sign == "(") - (sign == ")")
        if sign == "," and not depth and not quote:
            pieces.append("")
        else:
            pieces[-1] += sign
    return tuple(piece.strip() for piece in pieces)


def _columns(value: Any) -> Any:
    """(usual name, name in the data) pairs of text such as ``text=body``."""
    parts = value.split(",") if isinstance(value, str) else value
    pairs = [tuple(part.split("=", 1)) if isinstance(part, str) else tuple(part) for part in parts or ()]
    if any(len(pair) != 2 or not all(isinstance(name, str) and name.strip() for name in pair) for pair in pairs):
        raise ValueError(
            "expected usual names and those of the data, such as text=body or prompt=question,completion=answer"
        )
    return tuple((ours.strip(), there.strip()) for ours, there in pairs) or None


Columns = Annotated[tuple[tuple[str, str], ...] | None, BeforeValidator(_columns)]
SkipBad = Annotated[int | None, Field(ge=0)]


class Settings(BaseModel):
    """What every job needs to know."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str = "python:stdlib"
    eval_data: str | None = None
    columns: Columns = None
    skip_bad: SkipBad = None
    length: int | None = Field(default=None, ge=2, le=2**30)
    long_conversations: Literal["split", "drop"] = "split"
    tokens: Count = 500_000
    batch_tokens: Count | None = None
    lr: float | None = Field(default=None, gt=0, le=1)
    schedule: Literal["wsd", "cosine", "constant"] = "wsd"
    seed: int = Field(default=0, ge=0, lt=2**32)
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: int | None = Field(default=None, ge=1, le=2**16)
    out: Path = Path("runs/distil")
    json_: bool = Field(default=False, alias="json")


class TeacherSettings(Settings):
    """What a job needs to know that asks a teacher. ``tokenizer`` to ``time_limit`` (seconds of a question) are of a server.

    Of ``data`` the first ``text_tokens`` tokens are trained on, in whole documents.
    """

    teacher: str = "builtin:stdlib"
    text_tokens: Count | None = Field(default=None, exclude=True)
    any_teacher: bool = False
    tokenizer: str | None = None
    in_flight: int = Field(default=32, ge=1, le=1024)
    time_limit: float = Field(default=120, gt=0, le=86_400)


Stage = Literal["mixers", "blocks"]
STAGES: tuple[Stage, ...] = get_args(Stage)


def _stages(value: Any) -> Any:
    """The stages in their order, each at most once; "none" is none."""
    parts = [part.strip() for part in (value.split(",") if isinstance(value, str) else value)]
    for part in parts:
        if part not in (*STAGES, "none"):
            raise ValueError(f"unknown stage {part!r}{nearest(part, STAGES)} There are: {', '.join(STAGES)}, none.")
    return tuple(stage for stage in STAGES if stage in parts)


class DistilSettings(TeacherSettings):
    """The keys of `limbeck distil`, which are also its flags. ``keep_attention`` and ``match`` belong to ``mixers``.

    ``cache_logits``: whether the teacher's logits are kept and used again, None where that is decided by how often they would be.
    """

    student: str | None = None
    params: Annotated[int | tuple[int, ...] | None, BeforeValidator(_counts)] = None
    shrink: float | None = None
    shape: str | None = None
    mixers: Annotated[str | None, BeforeValidator(_joined)] = None
    keep_attention: int | None = Field(default=None, ge=1, le=2**16)
    match: Annotated[tuple[Stage, ...] | None, BeforeValidator(_stages)] = None
    student_dtype: Literal["float32", "bfloat16", "float16"] | None = None  # None: the teacher's
    objective: Annotated[str, BeforeValidator(_joined)] = "ForwardKL"
    tokenizer_align: Literal["bytes"] | None = None
    cache_logits: bool | None = Field(default=None, exclude=True)
    seeds: int = Field(default=1, ge=1, le=100)
    baselines: Annotated[tuple[str, ...], BeforeValidator(_baselines)] = BASELINES

    @property
    def objectives(self) -> tuple[str, ...]:
        """One, or several: then there is a student of each."""
        return split_objectives(self.objective)

    @property
    def compared(self) -> tuple[str, ...]:
        """The baselines; of a student of other mixers, unless some are named, also itself with attention everywhere."""
        implied = self.mixers is not None and "baselines" not in self.model_fields_set
        return (*self.baselines, ATTENTION) if implied else self.baselines

    @property
    def is_family(self) -> bool:
        """Whether several students are asked for, of several sizes or objectives."""
        return isinstance(self.params, tuple) or len(self.objectives) > 1


def _shard(value: Any) -> Any:
    if isinstance(value, tuple):
        return value
    found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", str(value))
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError("expected which of how many machines this is, such as 3/16")
    return int(found[1]), int(found[2])


def _price(value: Any) -> Any:
    """Dollars for a million tokens of prompts, and for a million that are written."""
    parts = value.split(",") if isinstance(value, str) else value
    try:
        prompt, written = (float(part) for part in parts)
    except (TypeError, ValueError):
        prompt, written = -1.0, -1.0
    if not (0 <= prompt < math.inf and 0 <= written < math.inf):
        raise ValueError("expected dollars for a million tokens of prompts and of what is written, such as 0.15,0.60")
    return prompt, written


class CaptureSettings(TeacherSettings):
    """The keys of `limbeck capture`, which are also its flags. Without ``tokens`` all of the text is captured.

    Students of the sizes in ``params`` are cut out of the teacher, for a time when it is no longer there; others may be later.
    With ``text`` the teacher writes, and those from ``max_new_tokens`` to ``price`` say how; they are no part of what decides
    another capture.
    """

    tokens: Count | None = None  # type: ignore[assignment]
    params: Annotated[tuple[int, ...], BeforeValidator(_sizes)] = Field(default=(), exclude=True)
    bytes_per_token: int = Field(default=48, ge=1, le=2**16)
    kind: Literal["auto", "drawn", "coarse"] = "auto"
    shard: Annotated[tuple[int, int], BeforeValidator(_shard)] = (1, 1)
    stream: bool = False
    device_memory: Bytes | None = None
    text: bool = Field(default=False, exclude=True)
    max_new_tokens: Count = Field(default=256, exclude=True)
    temperature: float = Field(default=1.0, ge=0, le=100, exclude=True)
    samples: int = Field(default=1, ge=1, le=10_000, exclude=True)
    price: Annotated[tuple[float, float] | None, BeforeValidator(_price)] = Field(default=None, exclude=True)
    out: Path = Path("runs/capture")


class PretrainSettings(Settings):
    """The keys of `limbeck pretrain`, which are also its flags."""

    vocab: Count = 2048
    params: Count | None = None
    shape: str | None = None
    mixers: Annotated[str | None, BeforeValidator(_joined)] = None
    width: int | None = Field(default=None, ge=1, le=2**20)
    layers: int | None = Field(default=None, ge=1, le=2**16)
    out: Path = Path("runs/pretrain")


class PilotSettings(BaseModel):
    """The keys of `limbeck pilot`, which are also its flags."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str = "python:stdlib"
    columns: Columns = None
    skip_bad: SkipBad = None
    scale: Literal["smoke", "small", "gpu"] = "small"
    students: str | None = None
    teachers: str = "6"
    objective: str = "0.5*CrossEntropy + 0.5*ForwardKL"
    law: bool | None = None
    seed: int = Field(default=0, ge=0, lt=2**32)
    seeds: int = Field(default=3, ge=1, le=100)
    workers: int | None = Field(default=None, ge=1, le=2**16)
    ray: str | None = None
    any_teacher: bool = False
    out: Path = Path("runs/pilot")
    json_: bool = Field(default=False, alias="json")


def _names(value: Any) -> Any:
    parts = value.split(",") if isinstance(value, str) else list(value)
    return tuple(dict.fromkeys(str(part).strip() for part in parts if str(part).strip()))


class PlanSettings(BaseModel):
    """The keys of `limbeck plan`, which are also its flags. Memory is in bytes, latency in seconds per token.

    ``text_tokens``: what there is of text, which is read in several epochs where it is less than ``tokens``.

    ``width``, ``layers`` and ``vocab`` go with ``mixers``, where the question is of a mixture of layers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    params: Count | None = None
    shrink: float | None = Field(default=None, gt=1)
    tokens: Count | None = None
    candidates: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()
    teacher: str | None = None
    teacher_tokens: Count | None = None
    text_tokens: Count | None = None
    pay_teacher: bool = True
    epsilon: float = Field(default=0.005, ge=0, lt=10)
    points: Path | None = None
    device_memory: Bytes | None = None
    latency: Seconds | None = None
    gpu: str | None = None
    length: Annotated[int, BeforeValidator(count), Field(ge=2)] = 4096
    mixers: Annotated[str | None, BeforeValidator(_joined)] = None
    width: int | None = Field(default=None, ge=1, le=2**20)
    layers: int | None = Field(default=None, ge=1, le=2**16)
    vocab: Count | None = None
    json_: bool = Field(default=False, alias="json")


def _successes(value: Any) -> Any:
    if isinstance(value, int) and value < 1:
        raise ValueError(
            "expected at least 1 success; the unbiased estimate (r - 1)/(K - 1) needs 2, the usual number is 4"
        )
    return value


OF_TASK = "pass-until"  # the probe whose results are files of their own, to predict from


def _probes(value: Any) -> Any:
    """One probe, or several; pass-until, which has results of its own, only alone."""
    names = _names(value)
    for name in names:
        if name != OF_TASK and name not in PROBES:
            known = (*PROBES, OF_TASK)
            raise ValueError(f"unknown probe {name!r}{nearest(name, known)} There are: {', '.join(known)}.")
    if not names or (OF_TASK in names and len(names) > 1):
        raise ValueError(f"expected one probe or several between commas, {OF_TASK} alone")
    return names


class ProbeSettings(Settings):
    """The keys of `limbeck probe`, which are also its flags.

    ``task`` is of pass-until, and of reversal a file of facts; ``successes`` and ``max_samples`` are of pass-until.
    """

    probe: Annotated[tuple[str, ...], BeforeValidator(_probes)] = ("likelihood",)
    task: str | None = None
    successes: Annotated[int, BeforeValidator(_successes)] = 4
    max_samples: Count = 100_000


class ExportSettings(BaseModel):
    """The keys of `limbeck export`, which are also its flags. ``to``: a format; ``dtype``: of its numbers, auto the model's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    to: str = "folder"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    seed: int = Field(default=0, ge=0, lt=2**32)
    device: str = "auto"
    out: Path
    json_: bool = Field(default=False, alias="json")


class PredictSettings(BaseModel):
    """The keys of `limbeck predict`, which are also its flags."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    points: Path
    task: str
    params: Count
    json_: bool = Field(default=False, alias="json")


class ReproduceSettings(BaseModel):
    """The keys of `limbeck reproduce`, which are also its flags.

    Without ``data`` a recipe takes its own. ``points`` are of a pilot that exists already.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: str
    scale: Literal["smoke", "small", "gpu"] = "small"
    data: str | None = None
    points: Path | None = None
    seed: int = Field(default=0, ge=0, lt=2**32)
    seeds: int = Field(default=3, ge=1, le=100)
    workers: int | None = Field(default=None, ge=1, le=2**16)
    device: str = "auto"
    out: Path | None = None
    json_: bool = Field(default=False, alias="json")


AnySettings = TypeVar("AnySettings", bound=BaseModel)


def resolve(kind: type[AnySettings], file: Path | None, flags: Mapping[str, Any]) -> AnySettings:
    """The settings of a TOML file, overridden by the flags that were given (those that are not None)."""
    values: dict[str, Any] = {}
    if file is not None:
        values = {key.replace("-", "_"): value for key, value in _toml(file).items()}
    known = sorted((f.alias or name) for name, f in kind.model_fields.items())
    where = dict.fromkeys(values, f"{file}: ") | dict.fromkeys(flags, "")
    values |= {key: value for key, value in flags.items() if value is not None}
    for key in values:
        if key not in known:
            meant = likely_key(key, known)
            hint = f"; did you mean {meant!r}?" if meant else "."
            raise BadSetting(f"{where[key]}unknown key {key!r}{hint} The keys are: {', '.join(known)}.")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise BadSetting("\n".join(_explain(item) for item in error.errors())) from error


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadSetting(f"no run file {file}: give the path of a TOML file, or flags alone") from error
    except (ValueError, IsADirectoryError) as error:  # also of a number of thousands of digits
        raise BadSetting(f'{file} is no TOML run file: {error}. Write lines such as: tokens = "2M"') from error


_REASONS = {  # of pydantic's own checks, in the words of ours
    "Input should be greater than or equal to ": "expected at least ",
    "Input should be less than or equal to ": "expected at most ",
    "Input should be greater than ": "expected more than ",
    "Input should be less than ": "expected less than ",
    "Input should be ": "expected ",
}


def _explain(item: Any) -> str:
    key = "--" + ".".join(str(part) for part in item["loc"][:1]).replace("_", "-")
    reason = item["msg"].removeprefix("Value error, ")
    for theirs, ours in _REASONS.items():
        reason = reason.replace(theirs, ours)
    came = f"{item['input']!r}"
    return f"{key}: {reason}" if f"got {came}" in reason else f"{key}: {reason.removesuffix('.')}, got {came}"

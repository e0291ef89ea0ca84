"""The command line: thin functions that turn flags into settings and call a job.

Exit status: 0 done; 2 the user's mistake, said in one message on stderr; 1 a fault of ours, with a traceback; 130 and 143
after SIGINT and SIGTERM. Jobs are imported inside the commands, so that `--help` does not wait for torch.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from pydantic import BaseModel
from typer import Argument, Option
from typer.core import TyperCommand

from limbeck import __version__, api
from limbeck.border import explained
from limbeck.config import (
    CaptureSettings,
    DistilSettings,
    PilotSettings,
    PlanSettings,
    PredictSettings,
    PretrainSettings,
    Settings,
    likely_key,
    resolve,
)
from limbeck.errors import Interrupted, LimbeckError
from limbeck.scrub import scrubbed
from limbeck.terminal import Terminal, visible


class _Command(TyperCommand):
    """Says of a flag that does not exist which was probably meant, by what other tools call it too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # Typer's own, of which older versions have Click's: told by what it says
            if (wrong := getattr(error, "option_name", None)) and hasattr(error, "possibilities"):
                flags = [flag.removeprefix("--") for p in self.params for flag in p.opts if flag.startswith("--")]
                meant = likely_key(wrong, [flag.replace("-", "_") for flag in flags])
                error.possibilities = [f"--{meant.replace('_', '-')}"] if meant else []
            raise


class _App(typer.Typer):
    def command(self, *args: Any, **kwargs: Any) -> Any:
        return super().command(*args, **{"cls": _Command} | kwargs)


app = _App(
    name="limbeck",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": shutil.get_terminal_size().columns},
)


def _say_version(asked: bool) -> None:
    if asked:
        print(f"limbeck {__version__}")
        raise typer.Exit


@app.callback()
def _all(
    version: Annotated[
        bool, Option("--version", help="Say the version and exit.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    """Makes a large language model small: shrink a student out of a teacher, distil it, prove what came out."""


File = Annotated[Path | None, Argument(metavar="[RUN.toml]", help="A TOML file with the same keys; flags win.")]
Teacher = Annotated[str | None, Option(help="Folder, hub id, or builtin:stdlib (the default).")]
Student = Annotated[str | None, Option(help="A model to start from, instead of cutting one out of the teacher.")]
Params = Annotated[str | None, Option(help="The student's parameters: 250k, 6M, 1.3B.")]
FamilyParams = Annotated[
    str | None, Option("--params", help="The student's parameters: 250k, 6M, 1.3B; of several students 1B,600M,300M.")
]
Shrink = Annotated[float | None, Option(help="The teacher's parameters over the student's (default 2.5).")]
Shape = Annotated[str | None, Option(help="The student's shape: layers=4,hidden=48,heads=6,kv_heads=3,ffn=128.")]
Data = Annotated[
    str | None,
    Option(
        help="Text: .txt, .jsonl, .json (also .gz, .zst), .parquet, a folder, a glob, hf:NAME[:CONFIG][/SPLIT], python:stdlib; "
        "comma for more. Records: text, messages (with tools, weight), ShareGPT, prompt and completion, or Alpaca."
    ),
]
ColumnNames = Annotated[
    str | None,
    Option("--columns", help="Fields of --data with other names: text=body, or prompt=question,completion=answer."),
]
SkipBad = Annotated[
    int | None,
    Option(help="How many records of --data that cannot be read may be left out (default 0: then it stops)."),
]
EvalData = Annotated[str | None, Option(help="Held-out text (default: a part of --data, split by document hash).")]
StudentDType = Annotated[
    str | None, Option(help="Number format of the student's file: float32, bfloat16, float16 (default: the teacher's).")
]
TextTokens = Annotated[
    str | None, Option(help="Train on the first tokens of --data alone, whole documents: 100k (default: all of it).")
]
CacheLogits = Annotated[
    bool | None,
    Option(
        "--cache-logits/--no-cache-logits",
        help="Compute the teacher's logits once and keep them, or anew each time (default: kept where the text is read often).",
    ),
]
Tokens = Annotated[str | None, Option(help="Tokens to train on, in whole rows: 500k, 2M (default 500k).")]
Length = Annotated[int | None, Option(help="Tokens of a row (default 256 on a CPU, 1024 on a GPU, or the context).")]
LongConversations = Annotated[
    str | None,
    Option(
        help="Of conversations longer than a row: split (pieces in which an answer keeps its question if both fit) or drop "
        "(default split)."
    ),
]
BatchTokens = Annotated[str | None, Option(help="Tokens of one optimiser step (default: about 400 steps).")]
LearningRate = Annotated[
    float | None, Option("--lr", help="Peak learning rate (default by the student's size; of a converted one a third).")
]
ObjectiveText = Annotated[
    str | None,
    Option("--objective", help="ForwardKL, 'TAID(start=0.2)', '0.5*CrossEntropy + 0.5*ForwardKL', my_loss:MyLoss."),
]
FamilyObjectives = Annotated[
    str | None,
    Option(
        "--objective",
        help="ForwardKL, 'TAID(start=0.2)', '0.5*CrossEntropy + 0.5*KL', my_loss:MyLoss; of several students 'KL, TAID'.",
    ),
]
TokenizerAlign = Annotated[
    str | None, Option(help="bytes: the student has a tokenizer of its own, and learns from chunks of equal bytes.")
]
ConvertTo = Annotated[
    str | None,
    Option(
        help="Put these in the place of attention, layer by layer: 'attention*1,gdn*3'; one of them with --keep-attention."
    ),
]
KeepAttention = Annotated[
    int | None, Option(help="With --mixers: how many layers keep attention, those whose loss harms recall most.")
]
Match = Annotated[
    str | None,
    Option(
        help="With --mixers: what is matched to attention first: mixers,blocks (default both) or none; a tenth of --tokens each."
    ),
]
ScheduleName = Annotated[
    str | None,
    Option("--schedule", help="wsd, cosine or constant (default wsd; cosine for cut students of 100M parameters on)."),
]
AnyTeacher = Annotated[
    bool | None,
    Option(
        "--any-teacher", help="Go on with a teacher that knows no more of the text than how often each token is in it."
    ),
]
Seed = Annotated[int | None, Option(help="Seed of data order and fresh weights (default 0).")]
Seeds = Annotated[
    int | None,
    Option(
        help="How many seeds, from --seed on (default 1, which names no winner; 3 do, also if given later in the same --out)."
    ),
]
Baselines = Annotated[
    str | None, Option(help="Of cut, cut+ce, cut+ce@flops, fresh+kd, with --mixers attention (default all), or none.")
]
Device = Annotated[str | None, Option(help="auto, cpu, cuda, cuda:1 (default auto).")]
DType = Annotated[str | None, Option("--dtype", help="auto, float32 or bfloat16 (default auto: what is fast here).")]
Threads = Annotated[int | None, Option(help="Threads of this process (default: torch's).")]
Tokenizer = Annotated[
    str | None, Option(help="Of a teacher on a server: folder or hub id of its configuration and tokenizer.")
]
InFlight = Annotated[int | None, Option(help="Questions that a server gets at once (default 32).")]
TimeLimit = Annotated[float | None, Option(help="Seconds that a server may take for one (default 120).")]
Out = Annotated[Path | None, Option(help="Folder of the run.")]
Json = Annotated[bool | None, Option("--json", help="The last line of stdout is one JSON object.")]
Mixers = Annotated[
    str | None,
    Option(
        help="Layers of a decoder of limbeck's own: conv,based,conv,swa:64 or attention*1,gdn*3, repeated until full."
    ),
]
Width = Annotated[int | None, Option(help="With --mixers, channels of the model.")]
Layers = Annotated[int | None, Option(help="With --mixers, how many layers, a multiple of the pattern.")]
Vocab = Annotated[str | None, Option(help="Tokens of the vocabulary trained here (default 2048).")]
Method = Annotated[str, Option(help="How importance is scored: activation, gradient or random.")]

AnySettings = TypeVar("AnySettings", bound=BaseModel)


def _settings(kind: type[AnySettings], file: Path | None, flags: dict[str, Any]) -> AnySettings:
    given = {name: value for name, value in flags.items() if name not in {"file", "json_"}}
    return api.settings_of(kind, file, given | {"json": flags.get("json_")})


def _say(settings: Settings, result: dict[str, Any], what: str, name: str) -> None:
    """The result on stdout: one JSON object, or where to look. Ranks that have none say nothing."""
    if result:
        print(json.dumps(result) if settings.json_ else visible(f"{what}: {settings.out / name}"))


@app.command()
def plan(
    params: Params = None,
    shrink: Annotated[float | None, Option(help="The teacher's parameters over the student's; with --teacher.")] = None,
    tokens: Annotated[
        str | None, Option(help="Tokens the student sees: 2M, 10B (with --teacher: 20 a parameter).")
    ] = None,
    candidates: Annotated[
        str | None, Option(help="Teachers to choose from: sizes, hub ids, folders: 1.5B,4B,Qwen/Qwen3-8B.")
    ] = None,
    teacher: Annotated[str | None, Option(help="One teacher, folder or hub id: which student fits the device?")] = None,
    teacher_tokens: Annotated[
        str | None, Option(help="Tokens each teacher was trained on (default 20 for each of its parameters).")
    ] = None,
    text_tokens: Annotated[
        str | None,
        Option(help="Tokens of text that there are, if fewer: the teacher reads them once, and its logits are kept."),
    ] = None,
    pay_teacher: Annotated[
        bool, Option("--pay-teacher/--free-teacher", help="Count the teacher's forward passes, or not (cached).")
    ] = True,
    epsilon: Annotated[float | None, Option(help="Nats per token that nobody minds (default 0.005).")] = None,
    points: Annotated[Path | None, Option(help="A pilot's folder or table of points: fits a law of your own.")] = None,
    device_memory: Annotated[str | None, Option(help="What the student must fit into: 24GiB, 8GB.")] = None,
    latency: Annotated[str | None, Option(help="What a token may take on the device: 20ms.")] = None,
    gpu: Annotated[str | None, Option(help="A device by name: L4, RTX-4090, A100-80, H100-SXM, H200.")] = None,
    length: Annotated[
        str | None, Option("--length", "--context", help="Tokens of context: 4096 (the default), 32k.")
    ] = None,
    mixers: Mixers = None,
    width: Width = None,
    layers: Layers = None,
    vocab: Annotated[str | None, Option(help="With --mixers, tokens of the vocabulary (default 2048).")] = None,
    json_: Json = None,
) -> None:
    """Choose a teacher for a student, or a student for a device, from configurations alone; say what it costs.

    With --mixers: the state, FLOPs and parameters of a mixture of layers, beside attention everywhere.
    """
    flags = {name: value for name, value in locals().items() if name != "json_"}
    settings = resolve(PlanSettings, None, flags | {"json": json_})
    from limbeck.jobs.plan.job import plan as job
    from limbeck.jobs.plan.show import show

    if settings.mixers is not None:
        from limbeck.jobs.plan.mixers import show_mixture as show

    result = job(settings)
    if settings.json_:
        print(json.dumps(result, allow_nan=False))
    else:
        show(result, Terminal(soft_wrap=True))


@app.command()
def distil(
    file: File = None,
    teacher: Teacher = None,
    student: Student = None,
    params: FamilyParams = None,
    shrink: Shrink = None,
    shape: Shape = None,
    data: Data = None,
    columns: ColumnNames = None,
    skip_bad: SkipBad = None,
    eval_data: EvalData = None,
    text_tokens: TextTokens = None,
    tokens: Tokens = None,
    length: Length = None,
    long_conversations: LongConversations = None,
    batch_tokens: BatchTokens = None,
    lr: LearningRate = None,
    mixers: ConvertTo = None,
    keep_attention: KeepAttention = None,
    match: Match = None,
    student_dtype: StudentDType = None,
    objective: FamilyObjectives = None,
    tokenizer_align: TokenizerAlign = None,
    cache_logits: CacheLogits = None,
    schedule: ScheduleName = None,
    seed: Seed = None,
    seeds: Seeds = None,
    baselines: Baselines = None,
    tokenizer: Tokenizer = None,
    in_flight: InFlight = None,
    time_limit: TimeLimit = None,
    any_teacher: AnyTeacher = None,
    device: Device = None,
    dtype: DType = None,
    threads: Threads = None,
    out: Out = None,
    json_: Json = None,
) -> None:
    """Make a small model out of a large one, and report what it is worth."""
    settings = _settings(DistilSettings, file, dict(locals()))
    if settings.is_family:
        from limbeck.jobs.distil.sweep import sweep as job
    else:
        from limbeck.jobs.distil.job import distil as job

    _say(settings, job(settings), "report", "report.html")


@app.command()
def capture(
    file: File = None,
    teacher: Annotated[
        str | None, Option(help="Folder, hub id, http://HOST:PORT/v1#MODEL, or builtin:stdlib (the default).")
    ] = None,
    data: Data = None,
    columns: ColumnNames = None,
    skip_bad: SkipBad = None,
    eval_data: EvalData = None,
    text_tokens: TextTokens = None,
    tokens: Annotated[
        str | None,
        Option(help="Tokens to ask about, or with --text to write at most: 2M, 10B (default: all of --data)."),
    ] = None,
    length: Length = None,
    long_conversations: LongConversations = None,
    params: Annotated[
        str | None, Option("--params", help="Sizes of students to cut now, for when the teacher is gone: 1B,600M.")
    ] = None,
    bytes_per_token: Annotated[int | None, Option(help="Bytes kept of each answer (default 48).")] = None,
    kind: Annotated[
        str | None, Option(help="drawn (unbiased), coarse (likeliest + rest), or auto: the better one, measured.")
    ] = None,
    tokenizer: Tokenizer = None,
    in_flight: InFlight = None,
    time_limit: TimeLimit = None,
    shard: Annotated[str | None, Option(help="Which of how many machines this is: 3/16.")] = None,
    stream: Annotated[
        bool | None, Option("--stream", help="For a teacher larger than memory: read it from disk layer by layer.")
    ] = None,
    device_memory: Annotated[
        str | None, Option(help="With --stream, what the teacher may take: 8GiB (default 80 % of what is free).")
    ] = None,
    text: Annotated[
        bool | None, Option("--text", help="Let the teacher answer the prompts of --data, and keep what it writes.")
    ] = None,
    max_new_tokens: Annotated[str | None, Option(help="With --text, the most it writes to one (default 256).")] = None,
    temperature: Annotated[
        float | None, Option(help="With --text, of what is drawn; 0 takes the likeliest token (default 1.0).")
    ] = None,
    samples: Annotated[int | None, Option(help="With --text, how often each prompt is answered (default 1).")] = None,
    price: Annotated[
        str | None, Option(help="With --text, dollars for a million tokens of prompts and of answers: 0.15,0.60.")
    ] = None,
    seed: Annotated[int | None, Option(help="Seed of what is drawn (default 0).")] = None,
    any_teacher: AnyTeacher = None,
    device: Device = None,
    dtype: DType = None,
    threads: Threads = None,
    out: Out = None,
    json_: Json = None,
) -> None:
    """Ask a teacher about a text once, and keep its answers for any number of students; or what it writes, with --text."""
    settings = _settings(CaptureSettings, file, dict(locals()))
    from limbeck.jobs.capture.job import capture as job

    _say(settings, job(settings), *(("text", "text.jsonl") if settings.text else ("answers", "")))


cache = _App(no_args_is_help=True, help="Look at, check, merge and choose captured answers.")
app.add_typer(cache, name="cache")
Folder = Annotated[Path, Argument(help="A folder that limbeck capture wrote.")]


@cache.command("inspect")
def cache_inspect(folder: Folder, json_: Json = None) -> None:
    """What is in a folder of answers, and what it was made from."""
    from limbeck.jobs.capture.verify import inspect, show_facts

    facts = inspect(folder)
    if json_:
        print(json.dumps(facts))
    else:
        show_facts(facts, Terminal(soft_wrap=True))


@app.command("verify")
def verify_files(
    folder: Annotated[Path, Argument(help="A folder that limbeck wrote: a run, a capture, a pilot, a token store.")],
    json_: Json = None,
) -> None:
    """Compare every file of a folder with the checksum it got when it was written; exits with 1 where one is damaged."""
    from limbeck.jobs.capture.verify import verify_files as job
    from limbeck.run.log import console

    result = job(folder, console)
    if json_:
        print(json.dumps(result))
    raise typer.Exit(0 if result["ok"] else 1)


@cache.command("verify")
def cache_verify(
    folder: Folder,
    rows: Annotated[int, Option(min=2, help="Rows that the teacher is asked about again.")] = 32,
    seed: Seed = None,
    json_: Json = None,
) -> None:
    """Read every answer, and ask the teacher again about some; exits with 1 where something is wrong."""
    from limbeck.jobs.capture.verify import verify
    from limbeck.run.log import console

    result = verify(folder, rows=rows, seed=seed or 0, console=console)
    if json_:
        print(json.dumps(result))
    raise typer.Exit(0 if result["ok"] else 1)


@cache.command("merge")
def cache_merge(
    out: Annotated[Path, Argument(help="The folder to make.")],
    shards: Annotated[list[Path], Argument(help="All shards, in any order.")],
    json_: Json = None,
) -> None:
    """Put the shards of several machines together."""
    from limbeck.jobs.capture.merge import merge

    result = merge(out, shards)
    print(json.dumps(result) if json_ else visible(f"answers: {out}"))


@cache.command("choose")
def cache_choose(
    teacher: Teacher = None,
    data: Data = None,
    columns: ColumnNames = None,
    skip_bad: SkipBad = None,
    length: Length = None,
    long_conversations: LongConversations = None,
    bytes_per_token: Annotated[int | None, Option(help="A size to look at besides the usual ones.")] = None,
    kind: Annotated[str | None, Option(help="drawn or coarse alone (default both).")] = None,
    seed: Seed = None,
    device: Device = None,
    dtype: DType = None,
    threads: Threads = None,
    json_: Json = None,
) -> None:
    """Measure what several kinds and sizes of answers lose, before any is captured."""
    flags = {name: value for name, value in locals().items() if name != "json_"}
    settings = api.settings_of(CaptureSettings, None, flags | {"json": json_})
    from limbeck.jobs.capture.job import choose

    result = choose(settings)
    if json_:
        print(json.dumps(result))


@app.command()
def pretrain(
    file: File = None,
    vocab: Vocab = None,
    params: Params = None,
    shape: Shape = None,
    mixers: Mixers = None,
    width: Width = None,
    layers: Layers = None,
    data: Data = None,
    columns: ColumnNames = None,
    skip_bad: SkipBad = None,
    eval_data: EvalData = None,
    tokens: Tokens = None,
    length: Length = None,
    long_conversations: LongConversations = None,
    batch_tokens: BatchTokens = None,
    lr: LearningRate = None,
    schedule: ScheduleName = None,
    seed: Seed = None,
    device: Device = None,
    dtype: DType = None,
    threads: Threads = None,
    out: Out = None,
    json_: Json = None,
) -> None:
    """Train a model from scratch, with a tokenizer of its own."""
    settings = _settings(PretrainSettings, file, dict(locals()))
    from limbeck.jobs.pretrain.job import pretrain as job

    _say(settings, job(settings), "model", "model")


@app.command()
def shrink(
    out: Annotated[Path, Option(help="Folder of the student.")],
    teacher: Teacher = None,
    params: Params = None,
    shrink: Shrink = None,
    shape: Shape = None,
    data: Data = None,
    columns: ColumnNames = None,
    skip_bad: SkipBad = None,
    method: Method = "activation",
    student_dtype: StudentDType = None,
    length: Length = None,
    long_conversations: LongConversations = None,
    seed: Seed = None,
    device: Device = None,
    json_: Json = None,
) -> None:
    """Cut a student out of a teacher, without training it."""
    flags = {k: v for k, v in locals().items() if k != "method"}
    settings = _settings(DistilSettings, None, flags)
    from limbeck.jobs.shrink.job import shrink as job

    _say(settings, job(settings, method=method), "student", "")


@app.command()
def doctor(
    teacher: Teacher = None,
    student: Student = None,
    data: Data = None,
    columns: ColumnNames = None,
    skip_bad: SkipBad = None,
    text_tokens: TextTokens = None,
    params: Params = None,
    shrink: Shrink = None,
    shape: Shape = None,
    tokens: Tokens = None,
    length: Length = None,
    long_conversations: LongConversations = None,
    batch_tokens: BatchTokens = None,
    tokenizer_align: TokenizerAlign = None,
    cache_logits: CacheLogits = None,
    seeds: Seeds = None,
    baselines: Baselines = None,
    any_teacher: AnyTeacher = None,
    device: Device = None,
    dtype: DType = None,
    json_: Json = None,
) -> None:
    """Check that a teacher, a student and data belong together; say what the run would cost."""
    settings = _settings(DistilSettings, None, dict(locals()))
    from limbeck.jobs.doctor.job import doctor as job
    from limbeck.planning.checks.pair import Finding, show

    result = job(settings)
    if settings.json_:
        print(json.dumps(result))
    else:
        show([Finding(**found) for found in result["findings"]], Terminal())
    raise typer.Exit(0 if result["ok"] else 2)


@app.command()
def pilot(
    file: File = None,
    data: Data = None,
    columns: ColumnNames = None,
    skip_bad: SkipBad = None,
    scale: Annotated[str | None, Option(help="smoke (a minute), small (two cores, an hour or two) or gpu.")] = None,
    students: Annotated[
        str | None, Option(help="How many sizes, or which: 30k,60k,120k (default 3; 2 at scale gpu).")
    ] = None,
    teachers: Annotated[str | None, Option(help="How many sizes, or which: 45k,90k,200k,600k (default 6).")] = None,
    objective: ObjectiveText = None,
    law: Annotated[
        bool | None,
        Option("--law", help="Also train what a distillation law needs: shorter students, longer teachers."),
    ] = None,
    seed: Seed = None,
    seeds: Annotated[int | None, Option(help="How many seeds, from --seed on (default 3).")] = None,
    workers: Annotated[int | None, Option(help="Processes of one thread each (default: one a core).")] = None,
    ray: Annotated[str | None, Option(help="Address of a Ray cluster to spread the work over.")] = None,
    any_teacher: AnyTeacher = None,
    out: Out = None,
    json_: Json = None,
) -> None:
    """Train a ladder of small teachers and students on your data, to see which teacher is best."""
    settings = _settings(PilotSettings, file, dict(locals()))
    from limbeck.jobs.pilot import pilot as job

    result = job(settings)
    print(json.dumps(result) if settings.json_ else visible(f"points: {settings.out / 'points.parquet'}"))


@app.command()
def probe(
    model: Annotated[str, Argument(help="Folder or hub id of the model to measure.")],
    probe: Annotated[
        str | None,
        Option(
            help="likelihood (the default), slices, mqar, reversal, arithmetic, listops, between commas; or pass-until alone."
        ),
    ] = None,
    data: Data = None,
    columns: ColumnNames = None,
    skip_bad: SkipBad = None,
    teacher: Annotated[str | None, Option(help="Compare with this teacher.")] = None,
    task: Annotated[
        str | None,
        Option(
            help="For pass-until: addition, subtraction, base7, reverse-string, copy, or a JSONL file. For reversal: JSONL."
        ),
    ] = None,
    successes: Annotated[int | None, Option(help="For pass-until: passes to wait for (default 4).")] = None,
    max_samples: Annotated[
        str | None, Option(help="For pass-until: most samples of an instance (default 100k).")
    ] = None,
    seed: Annotated[int | None, Option(help="Seed of samples, and of what is asked (default 0).")] = None,
    length: Length = None,
    long_conversations: LongConversations = None,
    device: Device = None,
    threads: Threads = None,
    out: Annotated[Path | None, Option(help="Write the readings into this folder.")] = None,
    json_: Json = None,
) -> None:
    """Measure a model: likelihood, calibration, cost, fidelity to a teacher; recall and sums; or how often it passes a task."""
    flags = {
        "probe": probe,
        "data": data,
        "columns": columns,
        "skip_bad": skip_bad,
        "task": task,
        "successes": successes,
        "max_samples": max_samples,
        "seed": seed,
        "length": length,
        "long_conversations": long_conversations,
        "device": device,
        "threads": threads,
    }
    result = api.probe(model, teacher=teacher, out=out, **flags)
    if json_:
        print(json.dumps(result))
    else:
        from limbeck.jobs.probe.job import show

        show(result["readings"].values(), Terminal())


@app.command()
def predict(
    points: Annotated[Path, Option(help="Folder of results of limbeck probe --probe pass-until.")],
    task: Annotated[str, Option(help="Which task of those measured there.")],
    params: Annotated[str, Option(help="Parameters of the model that is not there yet: 6M, 1.3B.")],
    json_: Json = None,
) -> None:
    """Predict a larger model's score on a task from smaller ones', and check what was predicted before."""
    settings = resolve(PredictSettings, None, {"points": points, "task": task, "params": params, "json": json_})
    from limbeck.jobs.predict.job import predict as job
    from limbeck.jobs.predict.job import show

    result = job(settings)
    if settings.json_:
        print(json.dumps(result))
    else:
        show(result, Terminal())


@app.command()
def reproduce(
    recipe: Annotated[
        str,
        Argument(
            help="capacity-gap, distillation-law, pass-until, taid-gap, minima, zoology, s4d, based, arithmetic, "
            "self-pretraining or reversal."
        ),
    ],
    scale: Annotated[str | None, Option(help="smoke (a minute), small (two cores) or gpu (default small).")] = None,
    data: Annotated[str | None, Option(help="Text to use instead of the recipe's own.")] = None,
    points: Annotated[
        Path | None, Option(help="A pilot's folder to judge, instead of a pilot of the recipe's own.")
    ] = None,
    seed: Seed = None,
    seeds: Annotated[int | None, Option(help="How many seeds, from --seed on (default 3).")] = None,
    workers: Annotated[int | None, Option(help="Processes of one thread each (default: one a core).")] = None,
    device: Device = None,
    out: Annotated[Path | None, Option(help="Folder of the reproduction (default runs/RECIPE-SCALE).")] = None,
    json_: Json = None,
) -> None:
    """Reproduce a published result, and say confirmed, refuted or inconclusive by a criterion whose changes are told."""
    from limbeck.papers.reproduce import show

    flags = {name: value for name, value in locals().items() if name not in {"recipe", "show", "json_"}}
    result = api.reproduce(recipe, **flags)
    if json_:
        print(json.dumps(result))
    else:
        show(result, Terminal())


@app.command()
def report(folder: Annotated[Path, Argument(help="Folder of a run.")]) -> None:
    """Write report.html again, from what a run's folder holds."""
    from limbeck.report import write_family_report, write_report
    from limbeck.report.folder import read_run

    print(visible(str((write_family_report if "members" in read_run(folder) else write_report)(folder))))


@app.command()
def selftest() -> None:
    """Check every objective on this machine against a float64 computation, in under a minute."""
    from limbeck.selftest import main as job

    raise typer.Exit(job())


def main() -> NoReturn:
    """Runs the command line and exits."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        with explained():
            app()  # prints a wrong flag itself and exits with 2; turns SIGINT into 130
    except (LimbeckError, Interrupted) as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # under torchrun every rank comes to the same end
            print(f"limbeck: {visible(scrubbed(str(error)))}", file=sys.stderr)
        sys.exit(error.status)
    sys.exit(0)


def _terminated(number: int, frame: FrameType | None) -> None:
    raise Interrupted("stopped by SIGTERM; what was saved is kept, and the same command continues", number)

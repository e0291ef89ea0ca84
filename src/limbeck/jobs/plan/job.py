"""`limbeck plan`: which teacher for a student, or which student for a device, and what it costs. No weights are read.

Three planners are shown side by side, since they disagree and a single number would hide that. A bare size such as 8B does not
determine embeddings and training tokens; the assumptions are printed. Torch and scipy are imported only where needed, since that
takes longer than the plan: scipy for the points of a sweep, torch for an architecture that must be built to be counted
(`models.declared`) and for a mixture of layers (`jobs.plan.mixers`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.config import PlanSettings, count
from limbeck.disk import existing, finite
from limbeck.errors import BadPoints, BadSetting
from limbeck.jobs.plan.device import BFLOAT16, Limits, largest_student
from limbeck.jobs.plan.sized import of_bytes
from limbeck.models.anatomy import Anatomy
from limbeck.models.declared import read_anatomy
from limbeck.models.source import config_file
from limbeck.planning.cost.fitting import FULL, Asked, flags, forward_share, needed, remedy, smallest
from limbeck.planning.cost.gpus import BANDWIDTH_SHARE, GPU, UTILISATION, gpu, stand_in
from limbeck.planning.cost.memory import USUAL, MemoryUse, Step
from limbeck.planning.cost.size import Size
from limbeck.planning.cost.training import estimate
from limbeck.planning.laws.distillation import COMPUTE_OPTIMAL
from limbeck.planning.laws.teachers import (
    Model,
    Recommendation,
    Task,
    by_fitted_ratio,
    by_loss,
    by_published_law,
    by_published_ratio,
)
from limbeck.students.shape import (
    BODY,
    Budget,
    Shape,
    anatomy_of,
    balanced,
    balanced_within,
    row_widths,
    shrunk_budget,
)

if TYPE_CHECKING:
    from transformers.configuration_utils import PreTrainedConfig

    from limbeck.planning.laws.points import Table as Points

_GPU = "H100-SXM"  # the GPU of the estimated hours if none is named
_BATCH = 2**19  # tokens of a step whose memory is shown
OUTCOMES = 32  # of a cached teacher, in addition to all outcomes
_FEWER = (32_768, 16_384, 8_192, 4_096)  # tokens of trimmed vocabularies that are shown


@dataclass(frozen=True)
class _Pair:
    """The student and its candidates."""

    student: Model
    candidates: tuple[Model, ...]
    limits: Limits | None
    shape: str | None
    assumed: tuple[str, ...]
    rows: dict[str, int] = field(default_factory=dict)  # lengths of rows of the student's matrices, if known
    shapes: dict[str, Any] | None = None  # those of a budget of bytes


def plan(settings: PlanSettings) -> dict[str, Any]:
    """Plans a distillation; returns ``{"student", "device", "assumptions", "planners", "costs", "skipped"}``, and ``shapes``
    of a budget of bytes.

    With ``mixers`` it plans a mixture of layers instead (`jobs.plan.mixers`), with ``samples``, ``trainable`` and ``snr`` when to
    stop the training of a read-out (`jobs.plan.overtraining`).

    Raises BadSetting for flags that miss or contradict each other, BadModel for a candidate without a configuration, BadPoints
    for a table that cannot be read, NotConverged where a pilot's fit finds no optimum.
    """
    if not (settings.samples is settings.trainable is settings.snr is None):
        from limbeck.jobs.plan.overtraining import plan_overtraining

        return plan_overtraining(settings)
    if settings.mixers is not None:
        from limbeck.jobs.plan.mixers import plan_mixture

        return plan_mixture(settings)
    _check(settings)
    device = gpu(settings.gpu) if settings.gpu else None
    points = None if settings.points is None else _points(settings.points)
    pair = _forward(settings, device) if settings.candidates else _backward(settings, device)
    assumed = [*pair.assumed]
    tokens = settings.tokens
    if tokens is None:
        tokens = round(COMPUTE_OPTIMAL * pair.student.body)
        assumed.append(
            f"{tokens:,} tokens for the student, {COMPUTE_OPTIMAL} per parameter without embeddings (--tokens)"
        )
    uses = max(1.0, tokens / settings.text_tokens) if settings.text_tokens else 1.0
    task = Task(pair.student, tokens, settings.pay_teacher, settings.epsilon, settings.teacher_tokens, uses)
    assumed += _assumptions(task, pair, settings)
    answers = [by_published_ratio(task, pair.candidates), by_published_law(task, pair.candidates)]
    answers += [] if points is None else _local(task, pair.candidates, points)
    timed = device or gpu(_GPU)
    return {
        "student": _described(pair.student) | {"shape": pair.shape, "rows": pair.rows},
        "device": None if pair.limits is None else _on_device(pair, pair.limits),
        "shapes": pair.shapes,
        "tokens": tokens,
        "pay_teacher": task.paid,
        "uses": task.uses,
        "epsilon": task.epsilon,
        "assumptions": assumed,
        "planners": [_answer(answer) for answer in answers],
        "local_fit": None if points is None else str(settings.points),
        "skipped": [] if points is None else list(points.skipped),
        "gpu": asdict(timed),
        "costs": [_costs(task, teacher, timed) for teacher in pair.candidates],
    }


def _points(place: Path) -> Points:
    from limbeck.planning.laws.points import read_points

    return read_points(place)


def _check(settings: PlanSettings) -> None:
    for flag, value in (("--width", settings.width), ("--layers", settings.layers)):
        if value is not None:
            raise BadSetting(f"{flag} {value}: needs --mixers, which defines the layers: give it, or leave {flag} out")
    if settings.vocab is not None and settings.teacher is None:
        raise BadSetting(
            f"--vocab {settings.vocab}: goes with --teacher, whose vocabulary it trims, or with --mixers: give one of them"
        )
    if isinstance(settings.vocab, str):
        raise BadSetting(
            f"--vocab {settings.vocab}: which tokens a text uses is counted in the text, and plan reads none: limbeck doctor "
            "with --data and --vocab auto says how many; give that number"
        )
    sizes = {
        f"--params {settings.params or 0:,}": settings.params,
        f"--shrink {settings.shrink or 0:g}": settings.shrink,
        f"--bytes {settings.weight_bytes}": settings.weight_bytes,
        f"--body-params {settings.body_params or 0:,}": settings.body_params,
    }
    given = [flag for flag, value in sizes.items() if value is not None]
    if len(given) > 1:
        raise BadSetting(f"{' and '.join(given)} both define the size of the student: give one of them")
    if isinstance(settings.vocab, tuple) and settings.weight_bytes is None:
        raise BadSetting(
            f"--vocab {','.join(map(str, settings.vocab))}: several vocabularies are compared at equal --bytes: give these, or "
            "one number"
        )
    if settings.candidates and settings.teacher is not None:
        raise BadSetting(
            "--candidates and --teacher both name a teacher: give candidates to choose from, or the one teacher"
        )
    if not settings.candidates and settings.teacher is None:
        raise BadSetting(
            "no teacher: give --candidates (sizes such as 8B, hub ids or folders) to choose one for --params, or --teacher "
            "to choose a student for a device"
        )
    if settings.candidates:
        amounts: dict[str, object] = {"--bytes": settings.weight_bytes, "--body-params": settings.body_params}
        for name, amount in amounts.items():
            if amount is not None:
                raise BadSetting(
                    f"{name} {amount} needs a configuration to count from: give one --teacher instead of --candidates"
                )
        if settings.params is None:
            raise BadSetting("--candidates need the student's size: give --params, such as 600M")
        if settings.tokens is None:
            raise BadSetting(
                "no tokens: the best teacher depends on how many the student sees; give --tokens, such as 10B"
            )
        if settings.latency is not None:
            raise BadSetting(
                "--latency needs a configuration to count from: give one --teacher instead of --candidates"
            )
    elif not (settings.params or settings.shrink or settings.weight_bytes or settings.body_params or _named(settings)):
        raise BadSetting(
            "nothing says how large the student may be: give --device-memory or --gpu, with or without --latency, or --params, "
            "--body-params, --shrink or --bytes"
        )


def _forward(settings: PlanSettings, device: GPU | None) -> _Pair:
    """A student of known size, and candidates to choose from."""
    assert settings.params is not None
    models = tuple(_candidate(name) for name in settings.candidates)
    student = Model.of_count("student", settings.params)
    largest = max(models, key=lambda m: m.parameters)
    if largest.parameters <= settings.params:
        raise BadSetting(
            f"--candidates: none is larger than the student's {settings.params:,} parameters, the largest is {largest.name} "
            f"with {largest.parameters:,.0f}; give a larger candidate, or fewer --params"
        )
    memory = settings.device_memory or (device.memory if device else None)
    if memory is not None and settings.device_memory is not None:
        _check_weights(settings.params, memory)
    bare = [model.name for model in (student, *models) if model.size is None]
    assumed = (
        f"of {', '.join(bare)} only a size is known: all of it is taken as parameters without embeddings, which the laws count",
    )
    return _Pair(student, models, None, None, assumed if bare else ())


def _check_weights(params: int, memory: float) -> None:
    if BFLOAT16 * params > memory:
        raise BadSetting(
            f"--params {params:,} and --device-memory {memory / 2**30:.1f} GiB contradict each other: the weights alone take "
            f"{BFLOAT16 * params / 2**30:.1f} GiB in bfloat16; give fewer parameters or more memory"
        )


def _backward(settings: PlanSettings, device: GPU | None) -> _Pair:
    """One teacher, and the student that the device or a flag allows."""
    assert settings.teacher is not None
    if _is_count(settings.teacher) and existing(settings.teacher) is None:
        raise BadSetting(
            f"--teacher {settings.teacher}: keys, values and layers are counted from a configuration, which a size has "
            "not; give a model folder or a hub id"
        )
    whole = _anatomy(settings.teacher)
    vocabularies = settings.vocab if isinstance(settings.vocab, tuple) else (settings.vocab,)
    teachers = [whole if vocab is None else _trimmed(whole, vocab, settings) for vocab in vocabularies]
    teacher = teachers[0]
    limits, assumed = _limits(settings, device)
    if settings.weight_bytes is not None:
        sized = of_bytes(settings, teachers, limits, lambda: _config(config_file(str(settings.teacher))))
        pair = _paired(settings, sized.teacher, sized.shape, sized.limits, assumed + sized.assumed)
        return replace(pair, shapes=sized.shapes)
    if settings.body_params is not None:
        shape = balanced_within(teacher, Budget(settings.body_params, BODY))
    elif settings.params is not None or settings.shrink is not None:
        budget = settings.params or shrunk_budget(teacher, settings.shrink or 0.0)
        shape = balanced(teacher, parameters=budget)
    else:
        assert limits is not None
        shape = largest_student(teacher, limits)
    student = anatomy_of(shape, teacher)
    size = Size.of_anatomy(student)
    if limits is not None and limits.fill(size) > 1:
        what = f"--params {settings.params:,}" if settings.params else f"--shrink {settings.shrink}"
        what = f"--body-params {settings.body_params:,}" if settings.body_params else what
        need = limits.bytes(size)
        raise BadSetting(
            f"{what} and the device contradict each other: a student of {size.parameters:,} parameters takes "
            f"{need / 2**30:.2f} GiB and {limits.seconds(size) * 1e3:.3g} ms a token, allowed are {limits} "
            f"({_named(settings)}); give a smaller student, or leave the size out to have the largest that fits"
        )
    return _paired(settings, teacher, shape, limits, assumed)


def _paired(
    settings: PlanSettings, teacher: Anatomy, shape: Shape, limits: Limits | None, assumed: tuple[str, ...]
) -> _Pair:
    assert settings.teacher is not None
    student = anatomy_of(shape, teacher)
    size = Size.of_anatomy(student)
    known = Model.of_size(settings.teacher, Size.of_anatomy(teacher))
    return _Pair(Model.of_size("student", size), (known,), limits, str(shape), assumed, row_widths(student))


def _trimmed(teacher: Anatomy, vocab: int | str, settings: PlanSettings) -> Anatomy:
    """The teacher with so many tokens."""
    assert isinstance(vocab, int)
    if vocab >= teacher.sizes.vocab:
        raise BadSetting(
            f"--vocab {vocab}: {settings.teacher} has {teacher.sizes.vocab:,} tokens, so nothing would be trimmed: give "
            "fewer, or leave it out"
        )
    return replace(teacher, sizes=replace(teacher.sizes, vocab=vocab))


def _named(settings: PlanSettings) -> str:
    flags = {"--device-memory": settings.device_memory, "--latency": settings.latency, "--gpu": settings.gpu}
    return ", ".join(flag for flag, value in flags.items() if value is not None)


def _limits(settings: PlanSettings, device: GPU | None) -> tuple[Limits | None, tuple[str, ...]]:
    if settings.device_memory is None and device is None and (settings.latency is None or settings.weight_bytes):
        return None, ()
    if device is None and settings.device_memory is None:
        raise BadSetting(
            "--latency needs a memory to read from: give --gpu, or --device-memory to assume one of that size, or --bytes, whose "
            "shapes are measured on this machine"
        )
    memory = settings.device_memory if settings.device_memory is not None else device.memory if device else math.inf
    if device is not None and memory > device.memory * 1.08:  # sheets say 24 GB of what is sold as 24 GiB
        raise BadSetting(
            f"--device-memory {memory / 1e9:.1f} GB and --gpu {device.name} contradict each other: it has "
            f"{device.memory / 1e9:.0f} GB; give one of them"
        )
    assumed: tuple[str, ...] = ()
    if device is None:
        device = stand_in(memory)
        assumed = (f"{device.bandwidth / 1e9:,.0f} GB/s of memory bandwidth, {device.name}'s: no --gpu is named",)
    return Limits(device, memory, settings.latency, settings.length), assumed


def _is_count(name: str) -> bool:
    try:
        return count(name) > 0
    except ValueError:
        return False


def _candidate(name: str) -> Model:
    if _is_count(name) and existing(name) is None:
        return Model.of_count(name, count(name))
    file = config_file(name)
    anatomy = read_anatomy(file)
    return Model.of_size(name, Size.of(_config(file)) if anatomy is None else Size.of_anatomy(anatomy))


def _anatomy(name: str) -> Anatomy:
    file = config_file(name)
    return read_anatomy(file) or Anatomy.of_students(_config(file))


def _config(file: Path) -> PreTrainedConfig:
    from limbeck.models.configuration import load_config

    return load_config(file.parent)


def _assumptions(task: Task, pair: _Pair, settings: PlanSettings) -> list[str]:
    seen = (
        f"{COMPUTE_OPTIMAL} tokens per parameter"
        if task.teacher_tokens is None
        else f"{task.teacher_tokens:,.0f} tokens (--teacher-tokens)"
    )
    assumptions = [f"every teacher was trained on {seen}: a law knows a teacher by the loss that follows"]
    assumptions.append(
        "the teacher's forward passes are paid, each beside three of the student on as many tokens, and its logits are used "
        f"{_times(task.uses)}; cross-entropy is given the same FLOPs, so more tokens"
        if task.paid
        else "the teacher's logits are free (cached): cross-entropy is given the same tokens"
    )
    if task.uses > 1:
        assumptions.append(
            "text that is repeated is worth as much to cross-entropy as new text, which flatters it: laws know no epochs"
        )
    shapeless = [model.name for model in (task.student, *pair.candidates) if model.size is None]
    assumptions.append(
        f"FLOPs are counted by layers, attention in rows of {task.length:,} tokens included"
        + (
            f"; of {', '.join(shapeless)}, known by a number alone, 2 a parameter for a forward pass"
            if shapeless
            else ""
        )
    )
    assumptions.append(f"a GPU reaches {UTILISATION:.0%} of its dense bfloat16 peak in training")
    if pair.limits is not None:
        assumptions.append(
            f"and {BANDWIDTH_SHARE:.0%} of its memory bandwidth in generation, with weights in {pair.limits.kind}, keys and "
            "values in bfloat16, one text at a time"
        )
    return assumptions


def _times(uses: float) -> str:
    return "once" if uses == 1 else f"{uses:.1f} times"


def _local(task: Task, candidates: tuple[Model, ...], points: Points) -> list[Recommendation]:
    """The recommendations from a pilot's points: a ratio rule and a law per arm, or the reason why there is none."""
    from limbeck.planning.laws.fit import fit_distillation_law
    from limbeck.planning.laws.points import usual
    from limbeck.planning.laws.ratio import fit_ratio_law

    answers = []
    alone = [p for p in points.points if not p.distilled]
    for arm in sorted({p.arm for p in points.points if p.distilled}) or ["fresh"]:
        taught = [p for p in points.points if p.distilled and p.arm == arm]
        try:
            answers.append(by_fitted_ratio(task, candidates, fit_ratio_law(usual(taught)), arm=arm))
        except BadPoints as error:
            answers.append(_silent(f"ratio rule, your pilot ({arm})", error))
        name = f"distillation law, your pilot ({arm})"
        try:
            fit = fit_distillation_law([*alone, *taught])
        except BadPoints as error:
            answers.append(_silent(name, error))
            continue
        losses = {m.name: float(fit.law.supervised.predict(m.body, task.seen_by(m))) for m in candidates}
        notes = [
            f"{fit.points} points, noise {fit.noise:.2%}; {fit.held_out.cells} held-out cells predicted to "
            f"{fit.held_out.error:.2%}, without a capacity gap to {fit.held_out.error_without_gap:.2%}"
        ]
        if not fit.sizes[0] <= task.student.body <= fit.sizes[1]:
            notes.append(
                f"extrapolated: the pilot's students had {fit.sizes[0]:,.0f} to {fit.sizes[1]:,.0f} parameters"
            )
        best = fit.best_teacher(task.student.body, task.tokens)
        answers.append(by_loss(name, task, candidates, fit, losses, best, notes))
    return answers


def _silent(name: str, error: BadPoints) -> Recommendation:
    return Recommendation(name, "unknown", f"cannot say: {error}", None, None, None, (), ())


def _described(model: Model) -> dict[str, Any]:
    found = {"parameters": model.parameters, "without_embeddings": model.body, "only_a_size": model.size is None}
    return found | ({} if model.size is None else {"vocabulary": _vocabulary(model.size)})


def _vocabulary(size: Size) -> dict[str, Any]:
    """Tokens, the share of the parameters that they take, and parameters of the same shape with fewer tokens."""
    row = size.hidden * (1 if size.head == 0 else 2)
    fewer = {str(n): size.parameters - (size.rows - n) * row for n in _FEWER if n < size.rows}
    return {"tokens": size.rows, "share": size.rows * row / size.parameters, "trimmed": fewer}


def _on_device(pair: _Pair, limits: Limits) -> dict[str, Any]:
    assert pair.student.size is not None
    size = pair.student.size
    return {
        "gpu": limits.gpu.name,
        "memory_bytes": limits.memory,
        "latency_s": limits.latency,
        "length": limits.length,
        "format": limits.kind,
        "student_bytes": limits.bytes(size),
        "student_kv_bytes_per_token": size.kv_bytes(BFLOAT16),
        "student_latency_s": limits.seconds(size),
        "teacher_fits": pair.student.parameters == pair.candidates[0].parameters,
    }


def _answer(answer: Recommendation) -> dict[str, Any]:
    """A recommendation as JSON. Infinite values are null."""
    rows = [asdict(row) | {"gain": row.gain} for row in answer.rows]
    return {name: finite(value) for name, value in (asdict(answer) | {"rows": rows}).items()}


def _costs(task: Task, teacher: Model, device: GPU) -> dict[str, Any]:
    """The cost of distilling from this teacher: FLOPs, hours of one GPU, peak bytes, a cache on disk."""
    flops = task.flops(teacher, task.tokens)
    student = task.student.size
    if student is not None and teacher.size is not None:
        parts: dict[str, float] = dict(_parts(student, teacher.size, task, USUAL))
    else:  # weights, gradients and AdamW's moments in float32; activations depend on a shape
        parts = {"student, gradients, AdamW": 16 * task.student.parameters, "teacher's weights": 2 * teacher.parameters}
    return {
        "teacher": teacher.name,
        "flops": flops,
        "gpu_hours": device.training_seconds(flops) / 3600,
        "peak_bytes": sum(parts.values()),
        "bytes": parts,
        "fits": _fits(student, teacher.size, task, device),
        "activations_counted": student is not None and teacher.size is not None,
        "cache_bytes": _cache(teacher.size, task.tokens, OUTCOMES),
        "full_cache_bytes": _cache(teacher.size, task.tokens, None),
    }


def _parts(student: Size, teacher: Size, task: Task, use: MemoryUse, length: int | None = None) -> Mapping[str, int]:
    """Peak bytes by part on a GPU, in bfloat16."""
    cost = estimate(
        *(student, teacher),
        length=length or task.length,
        tokens=round(task.tokens),
        batch_tokens=_BATCH,
        itemsize=BFLOAT16,
        device="cuda",
        use=use,
    )
    return cost.bytes


def _fits(student: Size | None, teacher: Size | None, task: Task, device: GPU) -> dict[str, Any] | None:
    """The fastest setting that fits into a GPU, the smallest if none does; None where activations are not counted.

    ``slower``: how much longer a step takes. ``same``: whether the result is that of the usual setting.
    """
    if student is None or teacher is None:
        return None
    step = Step(task.length, _BATCH, BFLOAT16, "cuda", USUAL)
    asked = Asked(step.usual_rows, task.length, forward_share(student, teacher, task.length))

    def peak(use: MemoryUse, length: int) -> Mapping[str, int]:
        return _parts(student, teacher, task, use, length)

    use = remedy(asked, peak, FULL * device.memory)
    found = use or smallest(asked.any(), asked, peak)
    same = (found.optimizer, found.weights) == (USUAL.optimizer, USUAL.weights)
    facts = {"fits": use is not None, "flags": flags(found, asked), "peak_bytes": needed(peak, found, asked)}
    return facts | {"slower": asked.slowdown(found) / asked.slowdown(asked.use) - 1, "same": same}


def _cache(size: Size | None, tokens: float, outcomes: int | None) -> float | None:
    return None if size is None else size.cached_bytes(outcomes) * tokens

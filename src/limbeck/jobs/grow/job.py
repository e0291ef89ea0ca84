"""`limbeck grow`: a larger model with the weights of a small one, or of two, without training; or one of shared layers."""

from __future__ import annotations

import shlex
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from limbeck.config import GrowSettings
from limbeck.disk import claims, remove_beside, take
from limbeck.ending import Ending, show_ending
from limbeck.errors import BadModel, BadSetting
from limbeck.jobs.common.environment import Environment, environment_of, require_one_process, row_length
from limbeck.jobs.common.folder import require_empty
from limbeck.jobs.common.held_out import HeldOut
from limbeck.jobs.common.made import made_of
from limbeck.jobs.grow.expand import Expansion
from limbeck.jobs.probe.text import RunFolder, Texts, rewarded_run
from limbeck.models.configuration import load_config
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.models.save import holds, save
from limbeck.models.source import resolve
from limbeck.probes.fidelity import fidelity
from limbeck.probes.likelihood import likelihood
from limbeck.probes.measurements import measure
from limbeck.report.card import model_card
from limbeck.report.words import bounded
from limbeck.run.log import console
from limbeck.students.grow import MIXTURE, OPS, Growth, check_family, grow, grow_mixture, growth
from limbeck.students.mixture import ORTHOGONAL
from limbeck.students.shape import Shape
from limbeck.types import Reading

_ROWS = 32  # on which both are measured
_APART = 1e-4  # nats a token by which a model that computes the same may seem apart, by rounding


@claims()
def grow_model(settings: GrowSettings) -> dict[str, Any]:
    """Makes a larger model of a small one in ``settings.out``, or a model of another depth of shared layers.

    Returns ``{"out", "parameters", "grown_from", "shape", "readings"}``: nats a token before and after growth, and KL(small ||
    grown). Raises BadSetting for flags that do not go together or several processes, BadFolder for a folder that is not empty,
    BadModel for a model that cannot be grown, BadShape for a shape that it does not grow to, and Mismatch for two models that do
    not belong together.
    """
    how = _checked(settings)
    require_one_process("grow")
    environment = environment_of(settings)
    require_empty(settings.out)
    take(settings.out)
    require_empty(settings.out)  # another process may just have finished
    remove_beside(settings.out)
    device = environment.world.device
    small, grown = how.made(device) if isinstance(how, Expansion) else _grown(settings, how, device)
    run = how.run if isinstance(how, Expansion) else RunFolder.of(settings.model)
    with tempfile.TemporaryDirectory() as folder:
        measured = _measured(settings, run, small, grown, environment, Path(folder))
    if isinstance(how, Growth) and how.exact and not measured.kl.value <= _APART:
        raise BadModel(
            f"{small.name}: growth by {how.op} should change no logit, but KL(small || grown) is {measured.kl.value:.3g} "
            "nats a token: this model computes something that limbeck's table of its architecture does not describe; it cannot "
            "be grown exactly"
        )
    return _finish(settings, how, small, grown, measured)


def _grown(settings: GrowSettings, how: Growth | None, device: torch.device) -> tuple[LanguageModel, LanguageModel]:
    """(model, larger model) by an operator, or of two models side by side."""
    names = [settings.model, *([settings.second] if settings.second is not None else [])]
    sources = [load(name, device=device, dtype=torch.float32) for name in names]
    if how is None:
        mixture = grow_mixture(*sources, off_diagonal=settings.off_diagonal or ORTHOGONAL, seed=settings.seed)
        return sources[0], mixture
    return sources[0], grow(sources[0], how)


def _checked(settings: GrowSettings) -> Growth | Expansion | None:
    """How the model grows, None for a mixture. Raises BadSetting for flags that do not go together."""
    if expansion := Expansion.of(settings):
        return expansion
    for flag, given, ops in (
        ("--second", settings.second, (MIXTURE,)),
        ("--off-diagonal", settings.off_diagonal, (MIXTURE,)),
        ("--new-layers", settings.new_layers, ("stack", "interleave")),
        ("--shape", settings.shape, tuple(op for op in OPS if op != MIXTURE)),
    ):
        if given is not None and settings.op not in ops:
            raise BadSetting(
                f"{flag} is for --op {' or '.join(ops)}, got --op {settings.op}: leave it out, or give another --op"
            )
    if settings.op != MIXTURE:
        config = load_config(settings.model)
        return growth(config, settings.op, shape=settings.shape, new_layers=settings.new_layers, seed=settings.seed)
    if settings.second is None:
        raise BadSetting(
            "--op mixture puts two trained models side by side, and one is given: name another training of the same model with "
            "--second"
        )
    if resolve(settings.model).resolve() == resolve(settings.second).resolve():
        raise BadSetting(
            f"--second {settings.second} is the model itself: a mixture is of two trainings with two seeds; give another one"
        )
    check_family(load_config(settings.model))
    return None


@dataclass(frozen=True)
class _Measured:
    """Nats a token of the small and of the grown model, KL(small || grown), and on what; ``data``: the source of that text."""

    before: Reading
    after: Reading
    kl: Reading
    described: str
    data: str


def _measured(
    settings: GrowSettings,
    run: RunFolder | None,
    small: LanguageModel,
    grown: LanguageModel,
    environment: Environment,
    folder: Path,
) -> _Measured:
    text = Texts(settings, run, small, folder, prompts=rewarded_run(settings.model)).whole
    length = row_length(settings, small.context, environment.world.device, name=small.name)
    held_out = HeldOut(text.store, length=length, environment=environment, rows=_ROWS, without=text.without)
    grown.model.eval()
    runs = {
        "before": measure(small, None, held_out.batches(), documents=text.store.documents),
        "after": measure(grown, small, held_out.batches(), documents=text.store.documents),
    }
    before, after = (likelihood(name, [run])[0] for name, run in runs.items())
    kl = next(one for one in fidelity("after", [runs["after"]]) if one.name == "kl_teacher_student")
    data = settings.data if run is None or "data" in settings.model_fields_set else run.data
    return _Measured(before, after, kl, f"{text.description}{held_out.description}", data)


def _text_flags(settings: GrowSettings) -> list[str]:
    """How the text was read, for the next command, where that is not as usual."""
    columns = ",".join(f"{ours}={theirs}" for ours, theirs in settings.columns or ())
    given = {"--columns": columns, "--skip-bad": settings.skip_bad, "--seq-len": settings.length}
    return [word for flag, value in given.items() if value for word in (flag, str(value))]


def _finish(
    settings: GrowSettings,
    how: Growth | Expansion | None,
    small: LanguageModel,
    grown: LanguageModel,
    measured: _Measured,
) -> dict[str, Any]:
    """Saves the model with its card, and shows what it is. Gives the result."""
    out, names = settings.out, ("shared", "expanded") if isinstance(how, Expansion) else ("small", "grown")
    own = small.stored
    stored = own if own is not None and holds(grown, own) else torch.float32
    wanted = ["--teacher", settings.model, "--student", str(out), "--objective", "CrossEntropy", "--baselines", "none"]
    if isinstance(how, Expansion):
        wanted = ["--teacher", how.teacher, "--student", str(out)]
    more = ["--data", measured.data, *_text_flags(settings), "--out", str(out.with_name(f"{out.name}-trained"))]
    then = shlex.join(["limbeck", "distil", *wanted, *more])
    shape = Shape.of(grown.config)
    source = how.described if isinstance(how, Expansion) else settings.model
    facts = made_of(source, small, grown, shape=shape, stored=stored)
    save(grown, out.resolve(), card=model_card(facts, [], then=then), dtype=stored)
    show_ending(
        Ending(
            f"{small.parameters_count:,} -> {grown.parameters_count:,} parameters: {shape}. KL({names[0]} || {names[1]}) is "
            f"{measured.kl.value:.2g} nats a token on {measured.described}",
            _table(names, small, grown, measured),
            {"card": out / "README.md", "model": out},
            then=then,
        ),
        console,
    )
    return {
        "out": str(out),
        "parameters": grown.parameters_count,
        "grown_from": small.parameters_count,
        "shape": str(shape),
        "readings": {
            name: {"value": one.value, "low": one.low, "high": one.high, "unit": one.unit, "n": one.n}
            for name, one in (("before", measured.before), ("after", measured.after), ("kl", measured.kl))
        },
    }


def _table(names: tuple[str, str], small: LanguageModel, grown: LanguageModel, measured: _Measured) -> list[list[str]]:
    """A table of the sizes and losses of both, one row each."""
    before, after = (asdict(Shape.of(one.config)) for one in (small, grown))
    nats = [bounded(one.value, one.low, one.high) for one in (measured.before, measured.after)]
    return [
        ["", *names],
        ["parameters", f"{small.parameters_count:,}", f"{grown.parameters_count:,}"],
        *([axis.replace("_", " "), f"{before[axis]:,}", f"{after[axis]:,}"] for axis in before),
        ["nats per token", *nats],
    ]

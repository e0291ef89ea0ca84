"""Trains models of growing size on generated tasks and samples each until its answers pass.

The shapes and tokens of scale "small" are those of docs/results/pass-until: 20 tokens per parameter, with every text used once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.config import PretrainSettings, ProbeSettings
from limbeck.jobs.pretrain.job import pretrain
from limbeck.jobs.probe.pass_until import Result, pass_until, result_of
from limbeck.papers.lab.recipe import RecipeContext
from limbeck.probes.tasks import MAKERS, write_task_text

SUCCESSES = 4  # passes after which sampling of an instance ends
_LINE = 13  # lower bound of the tokens of a line of text
_HELD_OUT = (2000, 1_000_000)  # lines, and their seed


@dataclass(frozen=True)
class Rung:
    """A model: its ``size`` as a key of `limbeck pretrain`, and the number of its training tokens."""

    name: str
    size: dict[str, str]
    tokens: int


@dataclass(frozen=True)
class Ladder:
    """Rungs from the smallest model to the largest, which is predicted. ``lines`` is the limit of distinct lines of text."""

    rungs: tuple[Rung, ...]
    tasks: tuple[str, ...]
    batch_tokens: int
    max_samples: int
    lines: int = 2_000_000


def _shaped(name: str, axes: tuple[int, int, int, int, int], tokens: int) -> Rung:
    values = zip(("layers", "hidden", "heads", "kv_heads", "ffn"), axes, strict=True)
    return Rung(name, {"shape": ",".join(f"{axis}={value}" for axis, value in values)}, tokens)


_SMALL = (
    _shaped("20k", (2, 24, 2, 1, 64), 380_000),
    _shaped("28k", (2, 28, 2, 1, 96), 564_000),
    _shaped("40k", (3, 32, 2, 1, 80), 815_000),
    _shaped("57k", (3, 40, 2, 1, 88), 1_134_000),
    _shaped("80k", (3, 48, 4, 2, 112), 1_640_000),
    _shaped("160k", (4, 64, 4, 2, 128), 3_290_000),
)
_SMOKE = tuple(Rung(rung.name, rung.size, 20_000) for rung in _SMALL[:4])
_GPU = tuple(Rung(name, {"params": name}, tokens) for name, tokens in (
    ("0.3M", 6_000_000), ("0.6M", 12_000_000), ("1.2M", 24_000_000), ("2.5M", 50_000_000), ("5M", 100_000_000),
    ("10M", 200_000_000), ("20M", 400_000_000),
))  # fmt: skip
LADDERS = {
    "smoke": Ladder(_SMOKE, ("addition",), 1024, 100),
    "small": Ladder(_SMALL, ("addition",), 1024, 100_000),
    "gpu": Ladder(_GPU, tuple(MAKERS), 16_384, 100_000),
}


def climb(context: RecipeContext) -> dict[str, list[Result]]:
    """Trains all models and counts their passes, where that is not done; gives the results of each task by size.

    The largest model has the first seed only.
    """
    ladder, seeds = LADDERS[context.scale], range(context.seed, context.seed + context.seeds)
    models = [_train(context, ladder, rung, seed) for rung in ladder.rungs[:-1] for seed in seeds]
    models.append(_train(context, ladder, ladder.rungs[-1], context.seed))
    return {task: [_count(context, ladder, model, task) for model in models] for task in ladder.tasks}


def _train(context: RecipeContext, ladder: Ladder, rung: Rung, seed: int) -> Path:
    out = context.out / f"{rung.name}-{seed}"
    if not (out / "model" / "config.json").exists():
        data = _text(context.out, ladder, f"{rung.tokens}", min(rung.tokens // _LINE, ladder.lines), 0)
        held_out = _text(context.out, ladder, "held-out", *_HELD_OUT)
        given: dict[str, Any] = {
            "data": str(data),
            "eval_data": str(held_out),
            "vocab": 259,
            "length": 128,
            **rung.size,
        }
        given |= {"batch_tokens": ladder.batch_tokens, "threads": 1, "device": context.device}
        pretrain(PretrainSettings(tokens=rung.tokens, seed=seed, out=out, **given))
    return out / "model"


def _text(out: Path, ladder: Ladder, name: str, lines: int, seed: int) -> Path:
    folder = out / "text" / name
    for task in ladder.tasks:
        if not (folder / f"{task}.jsonl").exists():
            write_task_text(task, folder / f"{task}.jsonl", max(1, lines // len(ladder.tasks)), seed)
    return folder


def _count(context: RecipeContext, ladder: Ladder, model: Path, task: str) -> Result:
    points = context.out / "points"
    if result_of(str(model), task, points) is None:
        given: dict[str, Any] = {"probe": "pass-until", "task": task, "successes": SUCCESSES, "threads": 1}
        given |= {"max_samples": ladder.max_samples, "seed": context.seed, "device": context.device}
        pass_until(ProbeSettings(**given), model=str(model), teacher=None, out=points)
    found = result_of(str(model), task, points)
    assert found is not None
    return found

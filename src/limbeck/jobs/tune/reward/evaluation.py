"""Measures models on held-out prompts by the reward, and writes the report of a tuning by it.

The first rank measures, while the others wait. All models answer with the same random numbers. What was measured is kept in the
run's folder, one file for each model and seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from limbeck.disk import read_lines, write_json, write_lines, write_rows, write_text, writing
from limbeck.ending import Ending
from limbeck.generation.local import decoded_completion
from limbeck.jobs.common.adapters import ADAPTER
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.folder import update
from limbeck.jobs.common.seeds import by_model, each_and_all
from limbeck.jobs.tune.arms import Arm
from limbeck.jobs.tune.reward.plan import RewardPlan
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load, verified_folder
from limbeck.models.sidecar import stored_dtype
from limbeck.probes.rewarded import Rewarded, rewarded
from limbeck.report.folder import ANSWERS_FILE
from limbeck.report.page import write_report
from limbeck.report.rewarded import rewarded_rows, rewarded_verdict
from limbeck.report.tuned import next_of_tune, tuned_card
from limbeck.report.verdict import Verdict
from limbeck.report.words import share
from limbeck.run.log import console
from limbeck.run.questions import Question
from limbeck.run.rewards import reward_of
from limbeck.run.samples import Judged, Sampled, Sampling, sample
from limbeck.types import Reading

START = "cut"  # the name of the model before tuning in files, as of the start of a distillation
SAMPLES = 4  # answers to a held-out prompt
_STREAM = 0x68656C64  # apart from the random numbers of trainings
_AT_ONCE = 32  # prompts that are answered together
_SHOWN = 4  # prompts whose greedy answers the report shows
_GREEDY = 0.0


def reward_to_choose_by(
    plan: RewardPlan, environment: Environment, start: LanguageModel, model: LanguageModel
) -> float:
    """The mean reward of a model's sampled answers to the prompts that choose a rate, and judge nothing."""
    how = Sampling(SAMPLES, plan.settings.rollout_tokens, bf16=environment.bf16)
    found = _answered(model, start, plan.questions.choosing, plan.reward, how, temperature=1.0)
    return float(np.concatenate([np.asarray(part.reward, dtype=float).ravel() for part in found]).mean())


def _answered(
    model: LanguageModel,
    start: LanguageModel,
    questions: Sequence[Question],
    reward: str,
    how: Sampling,
    *,
    temperature: float,
) -> list[Sampled]:
    """Judged answers of a model to prompts, in blocks; those of all models with the same random numbers."""
    judge, found = reward_of(reward, model.tokenizer), []
    for begin in range(0, len(questions), _AT_ONCE):

        def random(place: int, number: int, begin: int = begin) -> np.random.Generator:
            return np.random.default_rng([_STREAM, begin + place, number])

        some = questions[begin : begin + _AT_ONCE]
        found.append(sample(model, start, some, judge, how, random, temperature=temperature))
    return found


class RewardEvaluation:
    """Collects what held-out prompts show of each model, and writes the files of the run."""

    def __init__(self, plan: RewardPlan, environment: Environment, start: LanguageModel) -> None:
        self._plan, self._environment, self._start = plan, environment, start
        self._out = plan.settings.out
        self._held: dict[str, Any] = {"device": environment.world.device, "dtype": environment.measured_in}
        self._runs: dict[str, dict[int, Rewarded]] = {}
        self._measure(START, plan.settings.seed, lambda: start)

    def after(self, arm: Arm) -> None:
        """Measures a trained model."""
        measured = self._measure(arm.name, arm.seed, lambda: load(verified_folder(arm.student), **self._held))
        console.print(
            f"{arm.label}: held out reward {measured.reward.sum() / measured.samples.sum():.3f}, "
            f"{share(float(measured.greedy_passed.mean()))} of greedy answers pass"
        )

    def write(self, run: dict[str, Any]) -> tuple[list[Reading], Verdict]:
        """Writes readings, verdict, card and report of what was measured so far; the tuned model is among it."""
        out, readings = self._out, self._readings()
        write_lines(out / "readings.jsonl", [reading.row() for reading in readings])
        arms = {name: [runs[seed] for seed in sorted(runs)] for name, runs in self._runs.items()}
        steps = read_lines(out / "metrics.jsonl")
        how = {"reward": self._plan.reward, "plan": run["plan"], "trials": run.get("trials", ())}
        found = rewarded_verdict(arms, steps, **how)
        write_json(out / "verdict.json", found.row())
        update(out, run, verdict=found.text)
        made = run["student"] | {"dtype": stored_dtype(out / "student")}
        write_text(out / "student" / "README.md", tuned_card(run | {"student": made}, readings, found.notes))
        write_report(out)
        return readings, found

    def conclude(self, run: dict[str, Any]) -> tuple[dict[str, Any], Ending]:
        """Writes all files and prints the notes; returns the result that ``--json`` prints, and the last screen."""
        out = self._out
        readings, found = self.write(run)
        console.print()
        for note in found.notes:
            console.print(f"- {note}")
        places = {"report": out / "report.html", "student": out / "student"}
        if (out / ADAPTER).exists():
            places[ADAPTER] = out / ADAPTER
        ending = Ending(found.text, rewarded_rows(readings), places, next_of_tune(run, out / "student"))
        result = {"out": str(out), "student": str(out / "student"), "verdict": found.text}
        return result | {"readings": by_model(readings)}, ending

    def _measure(self, name: str, seed: int, model: Callable[[], LanguageModel]) -> Rewarded:
        file = self._out / "measurements" / f"reward-{name}-seed{seed}.safetensors"
        if file.exists():
            measured = Rewarded.load(file)
        else:
            loaded = model()
            measured = self._measured(loaded, shown=name == "student" and seed == self._plan.settings.seed)
            with writing(file):
                file.parent.mkdir(exist_ok=True)
            measured.save(file)
        self._runs.setdefault(name, {})[seed] = measured
        return measured

    def _measured(self, model: LanguageModel, *, shown: bool) -> Rewarded:
        """What held-out prompts show of a model; of the first tuned one some answers are kept."""
        drawn, greedy = self._answers(model, SAMPLES, 1.0), self._answers(model, 1, _GREEDY)
        if shown:
            before = self._answers(self._start, 1, _GREEDY, most=_SHOWN)
            rows = [self._row(*pair) for pair in zip(greedy[0].judged, before[0].judged, strict=False)]
            write_rows(self._out / ANSWERS_FILE, rows)

        def total(of: Callable[[Sampled], Any]) -> np.ndarray:
            return np.concatenate([np.asarray(of(part), dtype=float) for part in drawn])

        return Rewarded(
            samples=total(lambda part: [len(some) for some in part.judged]),
            reward=total(lambda part: part.reward.sum(-1)),
            passed=total(lambda part: [sum(one.passed for one in some) for some in part.judged]),
            tokens=total(lambda part: [sum(len(one.rollout.sampled) for one in some) for some in part.judged]),
            unfinished=total(lambda part: [sum(one.cut for one in some) for some in part.judged]),
            entropy=total(lambda part: part.entropy.sum(-1)),
            kl=total(lambda part: part.kl.sum(-1)),
            greedy_reward=np.concatenate([np.asarray(part.reward.sum(-1), dtype=float) for part in greedy]),
            greedy_passed=np.array([float(some[0].passed) for part in greedy for some in part.judged]),
        )

    def _answers(
        self, model: LanguageModel, samples: int, temperature: float, *, most: int | None = None
    ) -> list[Sampled]:
        """Judged answers of a model to the held-out prompts, or to the first of them."""
        how = Sampling(samples, self._plan.settings.rollout_tokens, bf16=self._environment.bf16)
        questions = self._plan.questions.held_out[:most]
        return _answered(model, self._start, questions, self._plan.reward, how, temperature=temperature)

    def _row(self, after: Sequence[Judged], before: Sequence[Judged]) -> dict[str, Any]:
        """A prompt, and the greedy answers to it by the tuned model and the one before, with whether they pass."""
        tokenizer, prompt = self._start.tokenizer, after[0].rollout.prompt
        row: dict[str, Any] = {"prompt": tokenizer.decode(list(prompt), skip_special_tokens=True)}
        for name, (one, *_) in (("student", after), (START, before)):
            row |= {name: decoded_completion(tokenizer, prompt, one.rollout.sampled), f"{name}_passed": one.passed}
        return row

    def _readings(self) -> list[Reading]:
        """All readings: of each seed, and over all seeds where there are several."""
        return [
            reading
            for name, runs in self._runs.items()
            for seed, seeds in each_and_all(runs)
            for reading in rewarded(name, [runs[one] for one in seeds], seed=seed)
        ]

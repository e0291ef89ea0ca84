"""Standard tasks of all models of a run, item by item, with the scores in its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from limbeck.errors import LimbeckError
from limbeck.jobs.common.seeds import each_and_all
from limbeck.models.language_model import LanguageModel
from limbeck.probes.standard.compare import differences, levels
from limbeck.probes.standard.evaluate import evaluate, load_tasks
from limbeck.probes.standard.scores import TaskScores, load_scores, save_scores
from limbeck.report.words import TEACHER_OF
from limbeck.run.log import console
from limbeck.types import Reading

_Key = tuple[str, str, str]


class TaskEvaluation:
    """Scores of the models of a run on the same items of standard tasks."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        """``folder`` is the folder of measurements, ``names`` the tasks. Raises BadTask and BadSetting as `load_tasks` does."""
        self._folder, self._loaded = folder, load_tasks(names)
        self._scores: dict[str, dict[int, Mapping[_Key, TaskScores]]] = {}

    def measure(self, name: str, weights: Callable[[], LanguageModel], seed: int) -> None:
        """Measures a model, or reads its earlier scores if these are of all tasks. ``weights`` gives the model.

        A teacher whose weights are gone, only its captured logits being there, is left out with a note.
        """
        file = self._folder / f"tasks-{name}-seed{seed}.json"
        scores = load_scores(file) if file.exists() else []
        if not self._loaded.tasks.keys() <= {one.task for one in scores}:
            console.print(f"{name}: standard tasks {', '.join(self._loaded.names)}")
            try:
                model = weights()
            except LimbeckError as error:
                if name != "teacher":
                    raise
                console.print(f"note: standard tasks are not measured of the teacher: {error}")
                return
            scores = evaluate(model, self._loaded)
            save_scores(file, scores)
        wanted = {*self._loaded.tasks, *self._loaded.groups}
        self._scores.setdefault(name, {})[seed] = {one.key: one for one in scores if one.task in wanted}

    def readings(self) -> list[Reading]:
        """Levels of each model; differences to the teacher, and of the student to each baseline; of each seed and over them.

        Of several teachers it is the first, which has the name of its domain. Of the tasks of a group, only levels and the
        student's difference to the teacher.
        """
        found: list[Reading] = []
        first = next(filter(_teaches, self._scores), "teacher")
        teacher = next(iter(self._scores.get(first, {}).values()), None)
        for name, runs in self._scores.items():
            for seed, seeds in each_and_all(runs):
                for key in runs[seeds[0]]:
                    ours = [runs[one][key] for one in seeds]
                    found += levels(name, ours, seed=seed)
                    if teacher is not None and not _teaches(name) and (not key[0] or name == "student"):
                        found += differences(name, ours, first, [teacher[key]], seed=seed)
                    if name == "student" and not key[0]:
                        found += self._over_baselines(key, seed, seeds)
        return found

    def _over_baselines(self, key: _Key, seed: int | None, seeds: Sequence[int]) -> list[Reading]:
        found = []
        for other, theirs in self._scores.items():
            shared = [one for one in seeds if one in theirs]
            if other == "student" or _teaches(other) or not theirs or (len(theirs) > 1 and not shared):
                continue
            others = [theirs[one][key] for one in shared] or [run[key] for run in theirs.values()]
            ours = [self._scores["student"][one][key] for one in (shared if len(others) > 1 else seeds)]
            found += differences("student", ours, other, others, seed=seed)
        return found


def _teaches(name: str) -> bool:
    return name == "teacher" or name.startswith(TEACHER_OF)

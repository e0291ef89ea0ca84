"""Runs lm-eval on a model, and gives the scores of each item."""

from __future__ import annotations

import difflib
import logging
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from limbeck.disk import existing, shown
from limbeck.errors import BadSetting, BadTask, LimbeckError, first_line
from limbeck.models.language_model import LanguageModel
from limbeck.models.observing import evaluating
from limbeck.models.quiet import quiet_transformers
from limbeck.packages import require_packages
from limbeck.probes.standard.local import CHOICES, CONTINUATION, TEXT, config_of
from limbeck.probes.standard.scores import BYTES, MARGIN, NATS, TaskScores, pooled

_FEWSHOT_SEED = 1234  # lm-eval's own
_YAML = (".yaml", ".yml")
_FILES = (".jsonl", *_YAML)


@dataclass(frozen=True)
class Loaded:
    """Tasks of lm-eval, read and checked: by name, and of each group the names of its tasks."""

    tasks: Mapping[str, Any]
    groups: Mapping[str, tuple[str, ...]]

    @property
    def names(self) -> list[str]:
        """The groups, and the tasks that are in none."""
        inside = {name for members in self.groups.values() for name in members}
        return [*self.groups, *(name for name in self.tasks if name not in inside)]


def require_harness() -> None:
    """Raises BadSetting unless lm-eval is installed."""
    require_packages("tasks are run with", "lm_eval", extra="eval", error=BadSetting)


def load_tasks(names: Sequence[str]) -> Loaded:
    """The tasks of these names: tasks, groups and tags of lm-eval, or files (.jsonl, .yaml).

    Raises BadTask for an unknown name, a file or data set that cannot be read, and an item without a right answer; BadSetting
    without lm-eval.
    """
    require_harness()
    for name in names:
        if name.endswith(_FILES) and existing(name) is None:
            raise BadTask(
                f"{shown(name)}: expected a file of a task, got a path that does not exist: check the spelling"
            )
    with _own_world():
        from lm_eval.tasks import TaskManager  # a heavy import, and an extra

        manager = TaskManager(include_defaults=any(not name.endswith(_FILES) for name in names))
        found: dict[str, Any] = {}
        groups: dict[str, tuple[str, ...]] = {}
        for name in names:
            _known(name, manager)
            loaded = _load(name, manager)
            if again := found.keys() & loaded["tasks"].keys():
                raise BadTask(f"{shown(name)}: the task {min(again)} is given twice: leave one out, or rename a file")
            found |= loaded["tasks"]
            if name in loaded["groups"]:
                groups[name] = tuple(task.task_name for task in loaded["groups"][name].get_all_tasks())
        for name, task in found.items():
            _require_gold(name, task)
    return Loaded(found, groups)


def evaluate(model: LanguageModel, loaded: Loaded) -> list[TaskScores]:
    """The scores of a model on all tasks; each group once more as one task, before its own.

    Random states and log levels are as before afterwards. Raises Mismatch for texts beyond the model's context.
    """
    with _own_world():
        from lm_eval.evaluator import evaluate as run_tasks

        from limbeck.probes.standard.harness import HarnessLM

        with evaluating(model.model):
            results = run_tasks(HarnessLM(model), _fresh(loaded), bootstrap_iters=0, log_samples=True)
    assert results is not None, "this process is the only one"
    scores: dict[str, list[TaskScores]] = {}
    for name, task in loaded.tasks.items():
        group = next((group for group, members in loaded.groups.items() if name in members), "")
        scores[name] = _scores(name, group, task, results["samples"][name])
    whole = [
        pooled(group, parts)
        for group, members in loaded.groups.items()
        for parts in _by_filter([one for name in members for one in scores[name]])
    ]
    return whole + [one for parts in scores.values() for one in parts]


def _fresh(loaded: Loaded) -> dict[str, Any]:
    """The tasks as for the first model: with the same examples in their prompts, as lm-eval's ``simple_evaluate`` sets them."""
    for task in loaded.tasks.values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=_FEWSHOT_SEED)
    return {"tasks": dict(loaded.tasks), "groups": {}, "group_map": {}}


def _by_filter(scores: Sequence[TaskScores]) -> list[list[TaskScores]]:
    """Scores of the tasks of a group under each filter that all of them have."""
    found: dict[str, list[TaskScores]] = {}
    for one in scores:
        found.setdefault(one.filter, []).append(one)
    tasks = len({one.task for one in scores})
    return [parts for parts in found.values() if len(parts) == tasks]


def _known(name: str, manager: Any) -> None:
    if name.endswith(_FILES) or name in manager.all_tasks:
        return
    near = difflib.get_close_matches(name, manager.all_tasks, n=5, cutoff=0.5)
    meant = f"; did you mean {', '.join(map(repr, near))}?" if near else "."
    raise BadTask(
        f"unknown task {shown(name)!r}{meant} There are {len(manager.all_tasks):,} of lm-eval (lm-eval ls tasks), and files "
        "(.jsonl, .yaml)."
    )


def _load(name: str, manager: Any) -> Any:
    """lm-eval's tasks and groups of a name or file."""
    try:
        if name.endswith(".jsonl"):
            return manager.load([config_of(_path(name), _data_set)])
        return manager.load([_from_yaml(_path(name)) if name.endswith(_YAML) else name])
    except LimbeckError:
        raise
    except Exception as error:
        if isinstance(error, OSError | EOFError) and not name.endswith(_FILES):
            remedy = "its data set comes from the Hugging Face hub: check the network, or give a file of your own"
        else:
            remedy = "check its file, its data and its templates"
        raise BadTask(
            f"task {shown(name)}: lm-eval cannot load it ({type(error).__name__}: {first_line(error)}); {remedy}"
        ) from error


def _path(name: str) -> Path:
    found = existing(name)
    assert found is not None, "looked for in load_tasks"
    return found


def _data_set(rows: list[dict[str, Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(rows)


def _from_yaml(path: Path) -> dict[str, Any]:
    """The configuration in a YAML file, whose relative data files lie beside it."""
    from lm_eval.tasks._yaml_loader import load_yaml

    found: dict[str, Any] = load_yaml(path)
    if not isinstance(found, dict) or not ("task" in found or "group" in found):
        raise BadTask(f"{path}: expected a task of lm-eval with the key 'task', got none: add its name")
    given = found.get("dataset_kwargs") or {}
    if "data_files" in given:
        found["dataset_kwargs"] = {**given, "data_files": _absolute(given["data_files"], path.resolve().parent)}
    return found


def _absolute(files: Any, folder: Path) -> Any:
    """Paths of data files, relative ones from a folder; addresses stay."""
    if isinstance(files, Mapping):
        return {split: _absolute(named, folder) for split, named in files.items()}
    if isinstance(files, list):
        return [_absolute(named, folder) for named in files]
    return files if "://" in str(files) else str(folder / Path(str(files)).expanduser())


def _require_gold(name: str, task: Any) -> None:
    """Raises BadTask for an item whose right answer is missing, or none of its choices; lm-eval would count it as wrong."""
    if task.OUTPUT_TYPE not in (CHOICES, CONTINUATION):
        return
    for number, doc in enumerate(task.eval_docs):
        try:
            gold = _gold(task, doc) if task.OUTPUT_TYPE == CHOICES else task.doc_to_target(doc)
        except Exception as error:
            raise BadTask(
                f"task {name}, item {number}: its right answer cannot be read ({type(error).__name__}: {first_line(error)}): "
                "check doc_to_target and the data"
            ) from error
        if gold in (None, "", []):
            raise BadTask(
                f"task {name}, item {number}: expected a right answer, got none of its choices: nothing can be scored. "
                "Test splits of the hub often come without answers; use the validation split, or check doc_to_target"
            )


def _gold(task: Any, doc: Any) -> list[int]:
    """The numbers of the right choices; empty where one is none of the choices."""
    choices = task.doc_to_choice(doc)
    given = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    found = []
    for one in given if isinstance(given, list) else [given]:
        index = choices.index(one) if isinstance(one, str) and one in choices else one
        if isinstance(index, bool) or not isinstance(index, int | np.integer) or not 0 <= index < len(choices):
            return []
        found.append(int(index))
    return found


def _scores(name: str, group: str, task: Any, samples: Sequence[Mapping[str, Any]]) -> list[TaskScores]:
    """The scores of a task's logged samples, by filter."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for sample in samples:
        found.setdefault(str(sample["filter"]), []).append(sample)
    scores = []
    for which, rows in found.items():
        rows.sort(key=lambda row: int(row["doc_id"]))
        measured = [_measured(task, row) for row in rows]
        shared = [key for key in measured[0] if all(key in one for one in measured)]
        columns = {key: np.array([one[key] for one in measured]) for key in shared if key != "chance"}
        items = tuple((str(row["doc_id"]), str(row["doc_hash"]), str(row["prompt_hash"])) for row in rows)
        scores.append(TaskScores(name, which, group, items, np.array([one["chance"] for one in measured]), columns))
    return scores


def _measured(task: Any, row: Mapping[str, Any]) -> dict[str, float]:
    """What is known of one item: lm-eval's metrics that are means over items, and what follows from the log-likelihoods."""
    averaged = {key for key, function in task.aggregation().items() if getattr(function, "__name__", "") == "mean"}
    plain = {
        key: float(row[key])
        for key in row["metrics"]
        if key in averaged and isinstance(row[key], int | float | np.number)
    }
    if task.OUTPUT_TYPE == CHOICES:
        return plain | _of_choices(task, row)
    found = {"chance": 0.0} | plain
    if task.OUTPUT_TYPE == CONTINUATION:
        nats, greedy = row["resps"][0][0]
        text = row["arguments"][0][1]
        return found | {"acc": float(plain.get("acc", greedy)), NATS: -float(nats), BYTES: _size(text)}
    if task.OUTPUT_TYPE == TEXT:
        return found | {NATS: -float(row["resps"][0][0]), BYTES: _size(row["arguments"][0][0])}
    return found


def _of_choices(task: Any, row: Mapping[str, Any]) -> dict[str, float]:
    """Accuracies, margin, and nats and bytes of the right answer of an item with choices."""
    choices, gold = task.doc_to_choice(row["doc"]), _gold(task, row["doc"])
    nats = np.array([float(answers[0][0]) for answers in row["resps"]])[: len(choices)]
    sizes = np.array([_size(choice) for choice in choices])
    right = max(gold, key=lambda one: nats[one])
    wrong = np.delete(nats, gold)
    return {
        "acc": float(int(np.argmax(nats)) in gold),
        "acc_bytes": float(int(np.argmax(nats / sizes)) in gold),
        MARGIN: float(nats[right] - wrong.max()) if len(wrong) else 0.0,
        NATS: -float(nats[right]),
        BYTES: _size(row["arguments"][right][1]),
        "chance": len(set(gold)) / len(choices),
    }


def _size(text: str) -> float:
    return float(max(1, len(text.encode())))


@contextmanager
def _own_world() -> Iterator[None]:
    """lm-eval seeds Python's, NumPy's and torch's generators, logs much and shows bars: all are put back afterwards."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet_transformers(), _no_bars(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without tqdm's bars, which lm-eval and datasets show whatever they are told."""
    from tqdm import tqdm

    init = tqdm.__init__

    def disabled(bar: Any, *args: Any, **given: Any) -> None:
        init(bar, *args, **{**given, "disable": True})

    tqdm.__init__ = disabled
    try:
        yield
    finally:
        tqdm.__init__ = init

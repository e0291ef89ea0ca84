"""A job that is killed at any of its file operations ends, by the same command, with the bits of an undisturbed one."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.kills import Job, forked, jobs, result, stops, watch


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("kills")


@pytest.fixture(scope="module")
def job_of(here) -> Callable[[str], Job]:
    """Jobs by name. Each has run once in this process, so that its forks import nothing."""
    made, warm = jobs(here), set()

    def job(name: str) -> Job:
        if name not in warm:
            made[name](here / f"warm-{name}")
            warm.add(name)
        return made[name]

    return job


def continue_from_each(job: Job, out: Path, copies: Path, *, every: int) -> None:
    """Stops a job at every n-th of its states on disk, and continues it."""
    states = stops(job, out, copies)
    expected = result(out)
    assert len(states) > 20
    for state in states[every // 2 :: every]:
        shutil.rmtree(out)
        state.rename(out)
        assert forked(lambda: job(out)) == "", state.name
        assert result(out) == expected, state.name


@pytest.mark.long
@pytest.mark.parametrize(("name", "every"), [("written", 11), ("pretrain", 23)])
def test_a_job_goes_on_wherever_it_was_stopped(name, every, job_of, tmp_path):
    continue_from_each(job_of(name), tmp_path / "out", tmp_path / "stops", every=every)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "every"), [("written", 2), ("pairs", 3), ("pretrain", 2), ("distil", 16), ("trimmed", 16), ("capture", 12)]
)
def test_a_job_goes_on_from_each_of_its_file_operations(name, every, job_of, tmp_path):
    """All operations of all jobs with LIMBECK_EVERY_STOP set, which takes a quarter of an hour; else some of the longer ones."""
    every = 1 if os.environ.get("LIMBECK_EVERY_STOP") else every
    continue_from_each(job_of(name), tmp_path / "out", tmp_path / "stops", every=every)


@pytest.mark.long
def test_a_kill_leaves_what_the_copies_show(job_of, tmp_path):
    job, out = job_of("written"), tmp_path / "out"
    states = stops(job, out, tmp_path / "stops")
    expected = result(out)
    for state in (states[5], states[len(states) // 2]):
        shutil.rmtree(out)

        def kill(now: int, number: int = int(state.name)) -> None:
            if now == number:
                os.kill(os.getpid(), signal.SIGKILL)

        assert forked(lambda kill=kill: (watch(out, kill), job(out))) == f"status {-signal.SIGKILL}"
        assert result(out) == result(state)
        assert forked(lambda: job(out)) == ""
        assert result(out) == expected

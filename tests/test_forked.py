"""Processes that are forked from a server: they begin without the program's main module, and say how they ended."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from limbeck.forked import forked, how_it_ended

UNGUARDED = """
from limbeck.forked import forked
from tests.test_forked import says
process, pipe = forked(says, "hello", preload="limbeck.errors")
print(pipe.recv())
process.join()
"""


def says(pipe, text):
    pipe.send(text)


def ends(pipe, how):
    os.kill(os.getpid(), how) if how else os._exit(3)


@pytest.mark.long
@pytest.mark.parametrize("read", ["from a file", "from standard input"])
def test_a_script_without_a_guard_of_its_main_module_starts_processes(tmp_path, read):
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, script if read == "from a file" else "-"],
        input=UNGUARDED,
        cwd=root,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("hello\n", "")


@pytest.mark.parametrize(
    ("how", "said"),
    [(signal.SIGKILL, "by SIGKILL, as where memory runs out"), (signal.SIGTERM, "by SIGTERM"), (None, "with status 3")],
)
def test_how_a_process_ended_is_said(how, said):
    process, pipe = forked(ends, how, preload="limbeck.errors")
    with pytest.raises((EOFError, ConnectionError)):
        pipe.recv()
    assert how_it_ended(process) == said

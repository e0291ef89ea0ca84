"""A process that has imported what limbeck stands on, but not limbeck: each run of pytest is a fork of it.

    python warm.py    reads a line of JSON for each run: the folder of the package, pytest's arguments, a file for what it says

It answers with a line, pytest's exit status. The seconds of the imports are spent once.
"""

import importlib
import json
import os
import sys

import pytest

IMPORTED = (
    "torch",
    "torch._dynamo",
    "transformers.models.llama.modeling_llama",
    "hypothesis",
    "matplotlib.pyplot",
    "pydantic",
)


def run(package: str, arguments: list[str], said: str) -> int:
    """The exit status of pytest in a fork that imports limbeck from a folder."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.path.insert(0, package)
    status = pytest.main(arguments)
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        print(run(**json.loads(line)), flush=True)

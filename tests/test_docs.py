"""What README and tutorial show is run, with fewer tokens: every command and every snippet, in their order."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from limbeck import cli
from limbeck.config import DistilSettings
from limbeck.jobs.distil.keep_logits import worth_keeping
from limbeck.jobs.pilot.grid import SCALES
from tests.helpers.models import write_corpus, write_teacher
from tests.jobs.test_pilot import TINY

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def small(command: str) -> str:
    """The command on so few tokens that it takes seconds."""
    command = re.sub(r"--tokens \S+", "--tokens 3k", command)
    command = re.sub(r"--students \S+ --teachers \S+", "--scale smoke --students 1 --teachers 3 --seeds 1", command)
    command = command.replace("limbeck reproduce", "limbeck reproduce --scale smoke")
    return re.sub(r'\btokens="\S+?"', 'tokens="3k"', command)


def blocks(page: Path) -> list[tuple[str, str]]:
    return [(found[1], small(found[2])) for found in BLOCK.finditer(page.read_text(encoding="utf-8"))]


@pytest.fixture
def run(monkeypatch):
    """Runs a block in a folder: limbeck's commands in this process, which saves the imports, Python in one of its own."""

    def run(kind: str, text: str, folder: Path) -> None:
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(str(folder))
        if kind == "python":
            answer = subprocess.run([sys.executable, "-c", text], cwd=folder, capture_output=True, text=True)
            assert answer.returncode == 0, f"{text}\n{answer.stdout}\n{answer.stderr}"
            return
        for command in filter(None, text.replace("\\\n", " ").splitlines()):
            monkeypatch.setattr(sys, "argv", shlex.split(command))
            assert sys.argv[0] == "limbeck", command
            with pytest.raises(SystemExit) as stop:
                cli.main()
            assert stop.value.code == 0, command

    return run


@pytest.mark.docs
def test_the_tutorial_runs(tmp_path, run):
    write_corpus(tmp_path)
    for kind, text in blocks(ROOT / "docs" / "tutorial" / "first-student.md"):
        if "--out runs/hinge" in text:  # a second run need not tokenise the whole standard library again
            text = text.replace("--data python:stdlib", "--data text.jsonl --length 32")
        run(kind, text, tmp_path)


def readme_commands() -> list[str]:
    """The commands of the README's table."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `(limbeck [^`]+)`", text, re.MULTILINE)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with what the README's commands name: a teacher and a corpus."""
    folder = tmp_path_factory.mktemp("readme")
    write_teacher(folder)
    write_corpus(folder).rename(folder / "my.jsonl")
    return folder


@pytest.mark.docs
def test_every_command_of_the_readme_runs(place, run, monkeypatch):
    monkeypatch.setitem(SCALES, "smoke", TINY)
    commands = readme_commands()
    assert len(commands) >= 8
    for command in commands:
        # the teacher of this test is smaller than a user's
        command = re.sub(r"--params \S+,\S+", "--params 40k,30k", small(command))
        run("sh", re.sub(r"--params [^\s,]+(?=\s)", "--params 40k", command), place)


def test_the_readme_names_both_commands_that_set_everything_up():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make (\w+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert "make demo" in text
    assert "make test" in text


def test_the_demo_and_the_tutorial_show_where_a_teacher_pays():
    """Their trainings read a short text often enough for its logits to be kept, and for equal compute to be won."""
    demo = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "/limbeck distil" in line)
    tutorial = next(text for _, text in blocks_of_tutorial() if "distil" in text and "runs/first" in text)
    for command in (demo, tutorial):
        flags = {
            flag: re.search(rf"--{flag} (\S+)", command) for flag in ("tokens", "text-tokens", "seeds", "baselines")
        }
        given = {flag.replace("-", "_"): found[1] for flag, found in flags.items() if found}
        settings = DistilSettings(**given)
        assert settings.text_tokens is not None
        assert worth_keeping(settings, settings.text_tokens), command
        assert settings.tokens >= 5 * settings.text_tokens


def blocks_of_tutorial() -> list[tuple[str, str]]:
    text = (ROOT / "docs" / "tutorial" / "first-student.md").read_text(encoding="utf-8")
    return [(found[1], found[2]) for found in BLOCK.finditer(text)]


def test_the_readmes_tree_is_the_tree():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^[├└]── (\w+)/", text, re.MULTILINE))
    package = ROOT / "src" / "limbeck"
    there = {p.name for p in package.iterdir() if p.is_dir() and any(f.suffix == ".py" for f in p.iterdir())}
    assert there - {"__pycache__"} <= named | {"builtin"}
    assert named <= {p.name for p in package.iterdir()}

"""What README, tutorial and how-to pages show is run, with fewer tokens, in its order; pages have what they promise."""

import functools
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import limbeck
from limbeck import cli, commands
from limbeck.config import DistilSettings
from limbeck.dispatch import settings_of
from limbeck.jobs.distil.keep_logits import worth_keeping
from limbeck.jobs.pilot.grid import SCALES
from limbeck.models.load import load
from limbeck.models.save import save
from tests.helpers.models import llama, texts, tokenizer, write_corpus, write_teacher
from tests.helpers.served import serving
from tests.jobs.test_generated import CHAT
from tests.jobs.test_pilot import TINY

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def small(command: str) -> str:
    """The command on so few tokens that it takes seconds."""
    command = re.sub(r"--tokens \S+", "--tokens 3k", command)
    command = re.sub(r"--adapt-teacher \S+", "--adapt-teacher 1k", command)
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


def commands_of(page: str) -> list[str]:
    """The commands in a page's tables."""
    return re.findall(r"^\| `(limbeck [^`]+)`", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with what the commands name: teachers, a student of other width, a corpus and conversations."""
    folder = tmp_path_factory.mktemp("pages")
    write_teacher(folder)
    write_corpus(folder).rename(folder / "my.jsonl")
    rows = [json.loads(line) for line in (folder / "my.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [json.dumps(row | {"domain": ("math", "code")[n % 2]}) for n, row in enumerate(rows)]
    (folder / "all.jsonl").write_text("\n".join(lines), encoding="utf-8")
    lines = [json.dumps({"text": text}) for text in texts(40, seed=1)]
    (folder / "held_out.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for name in ("math", "code"):
        (folder / f"{name}.jsonl").symlink_to(folder / "my.jsonl")
    teacher = load(folder / "teacher")
    save(llama(hidden=16, tok=teacher.tokenizer, seed=5), folder / "small")
    chatting = tokenizer()
    chatting.chat_template = CHAT
    chats = llama(layers=3, hidden=48, tok=chatting)
    chats.model.config.max_position_embeddings = 512  # prompts with constraints are long
    chats.model.generation_config.eos_token_id = [chatting.eos_token_id, *range(40, 60)]  # or it would hardly ever end
    save(chats, folder / "chat-teacher")
    words = texts(180, seed=2)
    turns = [
        [{"role": "user", "content": question[:40]}, {"role": "assistant", "content": answer[:60]}]
        for question, answer in zip(words[::2], words[1::2], strict=True)
    ]
    lines = [json.dumps({"messages": messages}) for messages in turns]
    (folder / "chat.jsonl").write_text("\n".join(lines), encoding="utf-8")
    sides = [
        {"prompt": t[0]["content"][:9], "chosen": t[1]["content"][:9], "rejected": t[1]["content"][9:18]} for t in turns
    ]
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(side) for side in sides), encoding="utf-8")
    sums = [{"question": f"{n}+1?", "answer": str(n + 1), "solutions": [f"#### {n + 1}"]} for n in range(80)]
    for name, some in (("problems", sums[:60]), ("other-problems", sums[60:])):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(one) for one in some), encoding="utf-8")
    constraint = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    prompts = [json.dumps({"prompt": " ".join(text.split()[:4])} | constraint) for text in texts(30, seed=3)]
    (folder / "ifeval.jsonl").write_text("\n".join(prompts), encoding="utf-8")
    for name, some in (("tasks", turns[:20]), ("other-tasks", turns[20:40])):
        field = "task" if name == "tasks" else "strategy"
        rows = [{"messages": messages, field: ("fact", "sum")[n % 2]} for n, messages in enumerate(some)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    page = (ROOT / "docs" / "how-to" / "chat-data.md").read_text(encoding="utf-8")
    (strategies,) = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (folder / "strategies.toml").write_text(strategies, encoding="utf-8")
    worked = [{"prompt": text[:9], "completion": f"{text[9:30]}. #### {len(text)}"} for text in texts(9, seed=4)]
    (folder / "worked.jsonl").write_text("\n".join(json.dumps(row) for row in worked), encoding="utf-8")
    return folder


def for_tiny_teachers(command: str) -> str:
    """The command for the teachers of these tests, which are smaller than a user's."""
    command = re.sub(r"--seq-len \d+", "--seq-len 64", small(command))
    command = re.sub(r"--params \S+,\S+", "--params 40k,30k", command)
    command = re.sub(r"--depths \S+,\S+", "--depths 2,3", command)
    command = re.sub(r"--bytes [^\s:]+(?=[\s:]|$)", "--bytes 40kB", command)
    command = re.sub(r"--vocab \S+,\S+", "--vocab 280,270", command)
    command = command.replace("--latency 20ms", "--latency 60s")
    return re.sub(r"--params [^\s,]+(?=\s)", "--params 40k", command)


@pytest.mark.docs
@pytest.mark.parametrize("page", ["README.md", "docs/how-to/all-jobs.md"])
def test_every_command_of_a_table_runs(page, place, run, monkeypatch):
    monkeypatch.setitem(SCALES, "smoke", TINY)
    commands = commands_of(page)
    assert len(commands) >= 6
    for command in commands:
        run("sh", for_tiny_teachers(command), place)


@pytest.mark.docs
@pytest.mark.parametrize(
    "page",
    [
        "own-data",
        "chat-data",
        "constraints",
        "served-teacher",
        "two-machines",
        "leave-a-run-alone",
        "gguf",
        "export",
        "fit-a-file",
        "low-rank",
        "on-policy",
        "several-teachers",
        "tune",
        "adapters",
        "depths",
        "grow",
    ],
)
def test_a_how_to_page_runs(page, place, run, monkeypatch):
    """One folder a page, in which its commands follow one another."""
    folder = place / page
    folder.mkdir()
    names = (
        "teacher",
        "small",
        "chat-teacher",
        "my.jsonl",
        "all.jsonl",
        "math.jsonl",
        "code.jsonl",
        "held_out.jsonl",
        "chat.jsonl",
        "pairs.jsonl",
        "ifeval.jsonl",
        "problems.jsonl",
        "other-problems.jsonl",
        "worked.jsonl",
        "tasks.jsonl",
        "other-tasks.jsonl",
        "strategies.toml",
    )
    for name in names:
        (folder / name).symlink_to(place / name)
    teacher = load(place / "teacher")
    if page == "export":
        pytest.importorskip("gguf", reason="the package gguf is not installed")
    if page == "gguf":
        gguf = pytest.importorskip("tests.helpers.gguf", reason="the package gguf is not installed")
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        gguf.write_gguf(folder / "model.gguf", teacher.model, words=gguf.byte_level(tokenizer=teacher.tokenizer))
    teacher.model.model.norm.weight.data *= 0.2  # nearly uniform: an untrained one that is sure is no model of the text
    with serving(teacher) as server:
        for kind, text in blocks(ROOT / "docs" / "how-to" / f"{page}.md"):
            run(kind, for_tiny_teachers(text).replace("http://HOST:PORT/v1#MODEL", server.url), folder)


FENCED = re.compile(r"^```(?:sh|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)
OF_PACKAGES = {"add-a-probe.md"}  # its command names what the page's own package adds
PAGES = [
    page
    for part in ("how-to", "tutorial", "explain")
    for page in sorted((ROOT / "docs" / part).glob("*.md"))
    if page.name not in OF_PACKAGES and "\nlimbeck " in page.read_text(encoding="utf-8")
]


def written_commands(page: Path) -> list[str]:
    """The lines in a page's fences that begin with limbeck, those that go on in the next line as one."""
    text = "\n".join(FENCED.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.startswith("limbeck ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_one_that_limbeck_reads(page, tmp_path, monkeypatch):
    """Those too that need what a test does not have; nothing is run."""
    read = []
    monkeypatch.setattr(commands, "RUN", dict.fromkeys(commands.RUN, lambda *given: read.append(settings_of(*given))))
    monkeypatch.chdir(tmp_path)
    written = written_commands(page)
    for command in written:
        monkeypatch.setattr(sys, "argv", shlex.split(command, comments=True))
        for word in sys.argv:
            for made in re.findall(r"(?:^|=)(runs/[^,]+)", word):
                Path(made).mkdir(parents=True, exist_ok=True)  # what an earlier command left
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 0, command
    assert len(read) == len(written)


@pytest.mark.extras
def test_the_page_of_tasks_runs(place, run):
    """Its distillation, then its probes, with files in the place of the hub's tasks; its forms of items; its YAML."""
    pytest.importorskip("lm_eval", reason="the package lm_eval is not installed")
    folder = place / "tasks"
    folder.mkdir()
    (folder / "TEACHER").symlink_to(place / "teacher")
    (folder / "text.jsonl").symlink_to(place / "my.jsonl")
    page = ROOT / "docs" / "how-to" / "tasks.md"
    text = page.read_text(encoding="utf-8")
    forms = re.findall(r"^\| `(\{.*\})` \|", text, re.MULTILINE)
    assert len(forms) == 4
    for number, form in enumerate(forms):
        (folder / f"form{number}.jsonl").write_text(f"{form}\n" * 4, encoding="utf-8")
    (folder / "mine.jsonl").symlink_to(folder / "form0.jsonl")
    (yaml,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (folder / "last_word.yaml").write_text(yaml, encoding="utf-8")
    lines = [json.dumps({"text": one}) for one in texts(4, seed=3)]
    (folder / "lambada_test.jsonl").write_text("\n".join(lines), encoding="utf-8")
    written = [for_tiny_teachers(command) for command in written_commands(page)]
    distil, probes = written[-1], [command.replace("MODEL", "TEACHER") for command in written[:-1]]
    assert distil.startswith("limbeck distil")
    assert len(probes) == 2
    run("sh", f"{distil} --tokens 3k --seq-len 64", folder)
    run("sh", probes[0].replace("lambada_openai,piqa,blimp", ",".join(f"form{n}.jsonl" for n in range(4))), folder)
    run("sh", probes[1].replace("piqa,mine.jsonl", "last_word.yaml,mine.jsonl"), folder)


@pytest.mark.docs
def test_the_python_of_the_readme_runs(tmp_path, run):
    snippets = [text for kind, text in blocks(ROOT / "README.md") if kind == "python"]
    assert snippets
    for text in snippets:
        run("python", text, tmp_path)


def test_the_readme_names_both_commands_that_set_everything_up():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make (\w+)", text):
        assert re.search(rf"^(\w+ )*{target}( \w+)*:", makefile, re.MULTILINE), target
    assert "make demo" in text
    assert "make test" in text


def test_the_readme_fits_two_screens():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 100
    assert 6 <= len(commands_of("README.md")) <= 9
    assert sum(line.startswith("![") for line in lines) == 1


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


def test_the_layout_of_the_map_is_the_tree():
    text = (ROOT / "docs" / "explain" / "map.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^[├└]── (\w+)/", text, re.MULTILINE))
    package = ROOT / "src" / "limbeck"
    there = {p.name for p in package.iterdir() if p.is_dir() and any(f.suffix == ".py" for f in p.iterdir())}
    assert there - {"__pycache__"} <= named | {"builtin"}
    assert named <= {p.name for p in package.iterdir()}


def pages() -> list[Path]:
    """Every page that people read: those of the root, of docs, of examples and benchmarks."""
    found = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("examples/**/*.md"),
        *ROOT.glob("benchmarks/*.md"),
    ]
    return sorted(page for page in found if not {"runs", "build"} & set(page.relative_to(ROOT).parts))


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`]*`", "", text)
    for target, section in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)[^)]*\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        there = page.parent / target if target else page
        assert there.exists(), target
        if section and there.suffix == ".md":
            assert section in sections_of(there), f"{target}#{section}"


@functools.cache
def sections_of(page: Path) -> frozenset[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings)


DECISIONS = sorted(
    page for page in (ROOT / "docs" / "explain").glob("*.md") if page.stem not in ("map", "recall", "beside-others")
)


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_has_its_parts_and_the_tests_that_hold_it(page):
    text = page.read_text(encoding="utf-8")
    parts = re.findall(r"^\*\*(Context|Choice|Cost|Rejected|Held by)\.\*\*", text, re.MULTILINE)
    assert parts == ["Context", "Choice", "Cost", "Rejected", "Held by"]
    tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text.partition("**Held by.**")[2])
    assert tests
    for file, name in tests:
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{name}"


def test_every_decision_is_on_the_map_or_beside_it():
    """The map links to the six that carry the rest; the site's navigation has all."""
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert "explain/*" in index
    linked = re.findall(r"\]\(([\w-]+)\.md\)", (ROOT / "docs" / "explain" / "map.md").read_text(encoding="utf-8"))
    assert len(linked) >= 6
    assert set(linked) <= {page.stem for page in DECISIONS}


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == limbeck.__version__
    assert f"\nversion: {limbeck.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")

"""Imports point down: a layer knows those below it, and parts of one layer meet only above it.

Every import is looked at, also those inside functions: putting one off does not make it right.
"""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "limbeck"

LAYERS = (
    ("ending", "errors", "scrub", "terminal", "units"),
    ("forked", "garbage", "host", "packages", "plugins", "products"),
    ("types", "config", "results", "disk", "border"),
    ("divergence",),
    ("models",),
    ("corpora", "planning", "teachers", "students", "objectives"),
    ("generation",),
    ("probes",),
    ("run", "report", "exporters"),
    ("jobs", "selftest"),
    ("papers",),
    ("dispatch",),
    ("api", "commands"),
    ("cli",),
    ("__main__",),
)

BUILDS = ("based", "minichat")  # papers that stand on another

# The rooms of a part that has some, from below; those of one level do not meet. What is directly in the part is above all.
ROOMS = {
    "jobs": (
        ("common",),
        ("pair",),
        ("capture", "chat", "constraints", "importing", "plan", "pretrain", "probe", "push", "rank", "shrink", "tune"),
        ("distil", "export", "grow", "predict", "pilot"),
        ("doctor",),
    ),
    "papers": (
        ("lab",),
        tuple(
            folder.parent.name
            for folder in (PACKAGE / "papers").glob("*/recipe.py")
            if folder.parent.name not in (*BUILDS, "lab")
        ),
        tuple(BUILDS),
    ),
    "planning": (("cost",), ("checks",), ("laws",)),
}

LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}


def part_of(module: str) -> str:
    """The folder or file directly under the package that a module belongs to; "" for the package itself."""
    return module.split(".")[1] if "." in module else ""


def room_of(module: str) -> str:
    """The folder of a part that a module is in; "" for one directly in it."""
    return module.split(".")[2] if module.count(".") > 2 else ""


def imports(tree: ast.AST, modules: set[str]) -> Iterator[tuple[int, str]]:
    """(line, module) of everything imported from limbeck; a relative import is given as such."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names if name.name.split(".")[0] == "limbeck")
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, "." * node.level + (node.module or "")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "limbeck":
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                yield node.lineno, inner if inner in modules or node.module == "limbeck" else node.module


def fault(importer: str, imported: str) -> str:
    """Why one module may not import another; "" where it may."""
    if imported.startswith("."):
        return "a relative import hides where it points"
    above, below = part_of(importer), part_of(imported)
    if above in (below, "") or imported == "limbeck.__version__":
        return fault_of_rooms(above, room_of(importer), room_of(imported)) if above == below else ""
    if below == "":
        return "the package gives names of every layer: import from the module that has it"
    for part in (above, below):
        if part not in LEVEL:
            return f"{part} is in no layer: a new part needs one; a name is imported from the module that has it"
    if LEVEL[below] < LEVEL[above]:
        return ""
    where = "of the same layer" if LEVEL[above] == LEVEL[below] else "above it"
    return f"{above} may not import {below}: it is {where}"


def fault_of_rooms(part: str, above: str, below: str) -> str:
    """Why one room of a part may not import another; "" where it may, and for parts without rooms."""
    if part not in ROOMS or above in (below, "") or not below:
        return (
            "" if below or not above or part not in ROOMS else f"{part}/{above} may not import what is above its rooms"
        )
    level = {room: number for number, rooms in enumerate(ROOMS[part]) for room in rooms}
    for room in (above, below):
        if room not in level:
            return f"{part}/{room} is no room of {part}: give it a level"
    where = "on the same level" if level[above] == level[below] else "above it"
    return "" if level[below] < level[above] else f"{part}/{above} may not import {part}/{below}: it is {where}"


@cache
def sources() -> dict[str, Path]:
    """Every module of the package and its file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(("limbeck", *(parts[:-1] if parts[-1] == "__init__" else parts)))] = path
    return found


@pytest.fixture(scope="module")
def graph() -> dict[str, list[tuple[int, str]]]:
    found = sources()
    return {name: list(imports(ast.parse(path.read_text("utf-8")), set(found))) for name, path in found.items()}


def test_imports_point_down(graph):
    paths = sources()
    faults = [
        f"{paths[importer].relative_to(PACKAGE.parents[1])}:{line}: {reason}"
        for importer, found in graph.items()
        for line, imported in found
        if (reason := fault(importer, imported))
    ]
    assert not faults, "\n".join(faults)


def test_no_modules_import_each_other_in_a_circle(graph):
    # a folder's own __init__ only gathers what its files give
    files = {name: {to for _, to in found if to != name} for name, found in graph.items() if not is_folder(name)}
    try:
        TopologicalSorter(files).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def is_folder(module: str) -> bool:
    return sources()[module].name == "__init__.py"


@pytest.mark.parametrize("part", ROOMS)
def test_every_folder_of_a_part_with_rooms_is_one(part):
    folders = {path.parent.name for path in (PACKAGE / part).glob("*/__init__.py")}
    assert folders == {room for rooms in ROOMS[part] for room in rooms}


@pytest.mark.parametrize(
    ("importer", "line", "reason"),
    [
        ("limbeck.models.load", "from limbeck.run.step import train_step", "models may not import run: it is above it"),
        (
            "limbeck.planning.size",
            "from limbeck import corpora",
            "planning may not import corpora: it is of the same layer",
        ),
        ("limbeck.types", "def f():\n    import limbeck.cli", "types may not import cli: it is above it"),
        ("limbeck.run.run", "from ..models import load", "a relative import hides where it points"),
        (
            "limbeck.run.run",
            "import limbeck",
            "the package gives names of every layer: import from the module that has it",
        ),
        (
            "limbeck.run.run",
            "from limbeck import distil",
            "distil is in no layer: a new part needs one; a name is imported from the module that has it",
        ),
        ("limbeck.run.run", "from limbeck import __version__", ""),
        (
            "limbeck.attic.old",
            "from limbeck.types import Batch",
            "attic is in no layer: a new part needs one; a name is imported from the module that has it",
        ),
        ("limbeck.jobs.distil.job", "from limbeck.run.run import Run", ""),
        (
            "limbeck.jobs.capture.job",
            "import limbeck.jobs.distil.job",
            "jobs/capture may not import jobs/distil: it is above it",
        ),
        (
            "limbeck.jobs.plan.job",
            "import limbeck.jobs.probe.job",
            "jobs/plan may not import jobs/probe: it is on the same level",
        ),
        ("limbeck.jobs.distil.job", "import limbeck.jobs.common.folder", ""),
        ("limbeck.jobs.new.job", "import limbeck.jobs.common.folder", "jobs/new is no room of jobs: give it a level"),
        ("limbeck.probes.samples", "from limbeck.corpora.store import TokenStore", ""),
        ("limbeck.types", "import torch\nfrom limbecks import x", ""),
    ],
)
def test_the_rule_finds_what_it_should(importer, line, reason):
    found = imports(ast.parse(line), {"limbeck.corpora"})
    assert "".join(fault(importer, imported) for _, imported in found) == reason


def loaded_by(*modules: str) -> set[str]:
    """The modules of limbeck that importing some imports: what they name outside functions, and the packages that is in."""
    files = sources()
    found: set[str] = set()
    waiting = set(modules)
    while waiting:
        name = waiting.pop()
        found.add(name)
        body = ast.parse(files[name].read_text(encoding="utf-8")).body
        top = ast.Module([node for node in body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        named = {imported for _, imported in imports(top, set(files))} & files.keys()
        packages = {one.rpartition(".")[0] for one in named} - {""}
        waiting |= (named | packages) - found
    return found


def test_commands_that_draw_nothing_load_no_figures() -> None:
    loaded = loaded_by(
        *(f"limbeck.jobs.{command}.job" for command in ("doctor", "capture", "shrink", "export", "probe"))
    )
    assert "limbeck.report.words" in loaded
    assert "limbeck.report.figures" not in loaded

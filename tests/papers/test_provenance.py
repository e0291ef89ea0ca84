"""A criterion cannot change unseen: its digest hangs on what decides alone, the register has each, and pages say of changes."""

import ast
import json
import shutil
from dataclasses import replace
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from limbeck.config import ReproduceSettings
from limbeck.disk import read_json, write_json
from limbeck.papers import RECIPES, recipe, reproduce
from limbeck.papers.lab import criterion, provenance
from limbeck.papers.lab.criterion import Criterion, Entry, changed, criterion_of, digest_today, entry_of
from limbeck.papers.lab.recipe import ClaimResult, Outcome, Recipe

PACKAGE = criterion.PACKAGE
RESULTS = Path(__file__).parents[2] / "docs" / "results"


# The digest


@pytest.fixture
def digest_of(tmp_path, monkeypatch):
    """The digest of a definition, by default the last, of a module of this text."""
    monkeypatch.setattr(criterion, "PACKAGE", tmp_path / "limbeck")
    (tmp_path / "limbeck" / "probes").mkdir(parents=True)

    def digest(text: str, name: str = "", *, file: str = "made_up", **others: str) -> str:
        for module, its_text in {file: text, **others}.items():
            (tmp_path / "limbeck" / "probes" / f"{module}.py").write_text(its_text, encoding="utf-8")
        criterion._source.cache_clear()
        module = f"limbeck.probes.{file}"
        return criterion._Read().whole((module, name or list(criterion._source(module).defined)[-1]))

    yield digest
    criterion._source.cache_clear()


def test_comments_docstrings_and_format_do_not_count(digest_of):
    one = 'def f(x: int) -> str:\n    """What it does."""\n    return f"{x:,} of" " many"  # so\n'
    other = "def f( x : int )->str:\n    return (f'{x:,} '\n        'of many')\n"
    assert digest_of(one) == digest_of(other)


@pytest.mark.parametrize("other", ["LEAST = 0.06", "LEAST = -0.05", "LEAST: float = 0.05", "LEAST = 5e-3"])
def test_the_content_of_a_definition_counts(digest_of, other):
    assert digest_of("LEAST = 0.05") != digest_of(other)


JUDGED = """from limbeck.probes.bounds import LEAST, most
def judge(found):
    gap = found.value - LEAST
    return gap > most(found, gap)
"""
BOUNDS = "LEAST = 0.05\ndef most(a, b):\n    return a.value * LEAST + b\n"


def test_names_and_places_do_not_count(digest_of):
    first = digest_of(JUDGED, bounds=BOUNDS)
    local = JUDGED.replace("gap", "difference").replace("judge(", "judge_it(")
    assert digest_of(local, bounds=BOUNDS) == first
    renamed = BOUNDS.replace("LEAST", "MARGIN").replace("most", "largest")
    moved = JUDGED.replace("bounds import LEAST, most", "limits import MARGIN as LEAST, largest as most")
    assert digest_of(moved, file="elsewhere", limits=renamed) == first
    through_its_module = JUDGED.replace("probes.bounds import LEAST, most", "probes import bounds").replace(
        "LEAST", "bounds.LEAST"
    )
    assert digest_of(through_its_module.replace("most", "bounds.most"), bounds=BOUNDS) == first
    together = "LEAST = 0.05\n" + "\n".join(BOUNDS.splitlines()[1:]) + "\n" + "\n".join(JUDGED.splitlines()[1:])
    assert digest_of(together, "judge") == first


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("found.value", "found.low"),  # a field
        ("gap > most", "most > gap"),
        ("(found, gap)", "(gap, found)"),
        ("- LEAST", "- 0.05"),
        ("found.value - LEAST", "LEAST - found.value"),
        ("most(found", "max(found"),
    ],
)
def test_what_is_done_with_names_counts(digest_of, old, new):
    assert old in JUDGED
    assert digest_of(JUDGED.replace(old, new), bounds=BOUNDS) != digest_of(JUDGED, bounds=BOUNDS)


@pytest.mark.parametrize(
    ("old", "new"), [("0.05", "0.06"), ("a.value * LEAST + b", "b.value * LEAST + a"), ("* LEAST", "/ LEAST")]
)
def test_the_content_of_a_named_definition_counts(digest_of, old, new):
    assert old in BOUNDS
    assert digest_of(JUDGED, bounds=BOUNDS.replace(old, new)) != digest_of(JUDGED, bounds=BOUNDS)


def test_where_a_function_imports_from_counts_outside_of_limbeck_alone(digest_of):
    one = "def f(x):\n    from limbeck.planning.cost.size import Size\n    return Size(x)\n"
    assert digest_of(one) == digest_of(one.replace("plan.size", "planning.cost.size").replace("Size", "Extent"))
    other = "def f(x):\n    from math import sin\n    return sin(x)\n"
    assert digest_of(other) != digest_of(other.replace("import sin", "import cos as sin"))


def test_fields_and_methods_of_a_class_count_by_name(digest_of):
    one = "class Bounds:\n    low: float\n    def width(self):\n        return self.low\n"
    assert digest_of(one) == digest_of(one.replace("Bounds", "Limits"))
    assert digest_of(one) != digest_of(one.replace("    low:", "    least:"))
    assert digest_of(one) != digest_of(one.replace("width", "size"))


def test_definitions_that_name_each_other_have_a_digest(digest_of):
    one = "def a(n):\n    return n and b(n - 1)\ndef b(n):\n    return n and a(n - 2)\n"
    assert digest_of(one, "a") == digest_of(one.replace("a(", "c("), "c")
    assert digest_of(one, "a") != digest_of(one.replace("- 2", "- 3"), "a")


def test_the_digest_is_the_same_on_every_python(digest_of):
    text = 'def f(x, *, y=None):\n    return f"{x!r} {y:>{x}.0%}", [*x], not y and 1 < x <= 2.5\n'
    assert digest_of(text) == "fd7340bc"


def test_a_renamed_part_does_not_differ():
    before = {"a.LEAST": "1", "a.judge": "2", "a.most": "3"}
    assert changed(before, {"b.MARGIN": "1", "a.judge": "2", "a.most": "4"}) == ["a.most"]
    assert changed(before, {"a.LEAST": "2", "a.judge": "1", "a.most": "3"}) == ["a.LEAST", "a.judge"]
    assert changed(before, {"a.LEAST": "1", "a.most": "3"}) == ["a.judge"]


@pytest.fixture
def edited(tmp_path, monkeypatch):
    """Changes a file of a copy of the package, and gives the criterion of a recipe as it is with that."""
    shutil.copytree(PACKAGE, tmp_path / "limbeck", ignore=shutil.ignore_patterns("builtin", "__pycache__"))

    def edit(file: str, old: str, new: str, name: str = "arithmetic") -> Criterion:
        path = tmp_path / "limbeck" / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")
        monkeypatch.setattr(criterion, "PACKAGE", tmp_path / "limbeck")
        criterion._source.cache_clear()
        found = criterion_of(recipe(name), "small")
        path.write_text(text, encoding="utf-8")
        return found

    yield edit
    criterion._source.cache_clear()


@pytest.mark.parametrize(
    ("file", "old", "new", "part"),
    [
        ("papers/arithmetic/recipe.py", "APART = 2.0", "APART = 3.0", "papers.arithmetic.recipe.APART"),
        ("papers/arithmetic/recipe.py", "are further apart", "are not", "papers.arithmetic.recipe.judge_completion"),
        ("papers/arithmetic/recipe.py", "Jump(below, samples)", "Jump(samples, samples)", "papers.arithmetic.recipe._jump"),
        ("papers/arithmetic/completion.py", "== 2 and crossing", "== 3 and crossing", "papers.arithmetic.completion._grown"),
        ("papers/lab/rates.py", "TUNING = 10_000", "TUNING = 0", "papers.lab.rates.TUNING"),
        ("probes/interval.py", "FEWEST_SEEDS = 3", "FEWEST_SEEDS = 2", "probes.interval.FEWEST_SEEDS"),
        ("probes/interval.py", "spread**2 / 4", "spread**2 / 3", "probes.interval.wilson"),
    ],
)  # fmt: skip
def test_what_decides_is_part_of_the_criterion(edited, file, old, new, part):
    now, other = criterion_of(recipe("arithmetic"), "small"), edited(file, old, new)
    assert now.digest != other.digest
    assert changed(now.parts, other.parts) == [part]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("papers/arithmetic/recipe.py", "chance is below", "luck is below"),  # of `_ours`
        ("papers/arithmetic/recipe.py", "# accuracy on longer sums", "# on longer sums"),
        ("papers/arithmetic/sums.py", "_TEST = 0, 1", "_TEST = 0, 2"),  # trainings, though torch is imported below them
        ("papers/lab/lines.py", "SOLVED = 0.995", "SOLVED = 0.9"),  # how trainings end
        ("papers/lab/plots.py", "figure", "plot"),
        ("papers/reversal/recipe.py", "TRAINED = 0.9", "TRAINED = 0.8"),  # another recipe's
    ],
)
def test_what_only_shows_or_trains_is_not(edited, file, old, new):
    assert edited(file, old, new).digest == criterion_of(recipe("arithmetic"), "small").digest


def test_the_grid_of_a_scale_is_part_of_its_criterion_and_of_no_others():
    chosen = recipe("arithmetic")
    more = replace(chosen.scales["small"], fewer=(500, 700, 1000))
    other = replace(chosen, scales={**chosen.scales, "small": more})
    assert changed(criterion_of(chosen, "small").parts, criterion_of(other, "small").parts) == ["scale"]
    assert criterion_of(chosen, "gpu") == criterion_of(other, "gpu")


@pytest.mark.parametrize("name", RECIPES)
def test_a_criterion_reaches_its_judging_functions_and_the_intervals(name):
    chosen = recipe(name)
    parts, module = criterion_of(chosen, "small").parts, chosen.run.__module__.removeprefix("limbeck.")
    assert f"{module}.run" in parts
    package = module.rpartition(".")[0]
    judging = {
        f"{package}.{file.stem}.{node.name}"
        for file in (PACKAGE.parent / "limbeck" / package.replace(".", "/")).glob("*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("judge")
    }
    assert judging
    assert judging <= parts.keys()
    assert any(part.startswith(("probes.interval.", "planning.laws.estimate.")) for part in parts)


# The register


@pytest.mark.parametrize("name", RECIPES)
def test_no_criterion_changes_without_an_entry_with_a_reason(name):
    entries = json.loads(criterion.REGISTER.read_text(encoding="utf-8"))[name]
    digests = {scale: criterion_of(recipe(name), scale).digest for scale in ("small", "gpu")}
    assert entries[-1]["digests"] == digests, (
        f"What {name} judges by is not what the register has. If that is meant, enter it with a reason, python "
        'docs/results/criteria.py "why", and do not judge results that were seen by it: run the recipe on other seeds.'
    )
    assert all(len(entry["why"]) > 10 for entry in entries)
    assert [entry["since"] for entry in entries] == sorted(entry["since"] for entry in entries)


def test_no_criterion_of_a_study_changes_without_an_entry_with_a_reason(monkeypatch):
    """Studies of docs/results whose criterion is a file of its own."""
    monkeypatch.syspath_prepend(RESULTS)
    found = import_module("criteria")
    register = json.loads(found.STUDIES.read_text(encoding="utf-8"))
    assert {name: entries[-1]["digests"]["study"] for name, entries in register.items()} == found.digests(), (
        "What a study judges by is not what the register has. If that is meant, enter it with a reason, python "
        'docs/results/criteria.py "why", and do not judge results that were seen by it: run the study on other seeds.'
    )
    for name, entries in register.items():
        assert all(len(entry["why"]) > 10 for entry in entries)
        assert [entry["since"] for entry in entries] == sorted(entry["since"] for entry in entries)
        results = RESULTS / name / "results.json"
        if results.exists():
            judged = json.loads(results.read_text(encoding="utf-8"))
            (entry,) = [one for one in entries if one["digests"]["study"] == judged["criterion"]]
            assert not set(entry["seen"]) & set(judged["seeds"])


def test_a_changed_criterion_of_a_study_is_entered_once(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(RESULTS)
    enter, register = import_module("criteria").enter, tmp_path / "criteria.json"
    register.write_text("{}")
    for digest, why in (("a", "The first."), ("a", "Nothing."), ("b", "A mistake.")):
        enter(register, {"no such study": {"study": digest}}, why)
    entries = json.loads(register.read_text())["no such study"]
    assert [(one["digests"], one["why"], one["seen"]) for one in entries] == [
        ({"study": "a"}, "The first.", []),
        ({"study": "b"}, "A mistake.", []),
    ]


@pytest.mark.parametrize(
    ("part", "old", "new", "changes"),
    [
        ("limbeck.probes.interval:wilson", "_Z = 1.959964", "_Z = 1.96", True),  # which it names
        ("limbeck.probes.interval:wilson", "FEWEST_SEEDS = 3", "FEWEST_SEEDS = 2", False),
        ("limbeck.probes.interval", "FEWEST_SEEDS = 3", "FEWEST_SEEDS = 2", True),
        ("limbeck.probes.interval", "# fewer seeds show", "# few seeds show", False),
    ],
)
def test_how_a_study_measures_has_a_digest(tmp_path, monkeypatch, part, old, new, changes):
    before = criterion.definitions_digest([part])
    text = (PACKAGE / "probes" / "interval.py").read_text(encoding="utf-8")
    assert old in text
    shutil.copytree(PACKAGE, tmp_path / "limbeck", ignore=shutil.ignore_patterns("builtin", "__pycache__"))
    (tmp_path / "limbeck" / "probes" / "interval.py").write_text(text.replace(old, new), encoding="utf-8")
    monkeypatch.setattr(criterion, "PACKAGE", tmp_path / "limbeck")
    criterion._source.cache_clear()
    assert (criterion.definitions_digest([part]) != before) == changes
    criterion._source.cache_clear()


def test_an_entry_is_found_by_its_digest_and_scale():
    entries = json.loads(criterion.REGISTER.read_text(encoding="utf-8"))["zoology"]
    digests = entries[-1]["digests"]
    last = entries[-1]
    assert entry_of("zoology", "gpu", digests["gpu"]) == Entry(last["since"], last["why"], tuple(last["seen"]))
    assert {0, 100, 102} <= set(last["seen"])
    assert entry_of("zoology", "gpu", digests["small"]) is None
    assert entry_of("no such recipe", "gpu", digests["gpu"]) is None
    formerly = last["formerly"]["gpu"]
    assert entry_of("zoology", "gpu", formerly) == entry_of("zoology", "gpu", digests["gpu"])
    assert digest_today("zoology", "gpu", formerly) == digests["gpu"]
    assert digest_today("zoology", "gpu", "no digest") == "no digest"


# What a folder and its page keep


def outcome(verdict: str) -> Outcome:
    return Outcome("A training.", (ClaimResult("It is so.", "Confirmed: it is.", verdict, "n = 1"),), {}, {})


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """Judges a made-up recipe in a folder by a criterion of a digest, with a verdict; gives the JSON and the page."""
    first = Entry("2026-01-01T00:00:00+00:00", "The first.", seen=(3, 4, 5))
    entries = {"aaaa": first, "bbbb": Entry("2026-02-01", "A mistake.")}
    monkeypatch.setattr(provenance, "entry_of", lambda recipe, scale, digest: entries.get(digest))

    def judge(digest: str, verdict: str = "confirmed", *, fails: bool = False, parts=None, **keys):
        def run(ground):
            (ground.out / "trainings").mkdir(exist_ok=True)
            if fails:
                raise KeyboardInterrupt
            return outcome(verdict)

        made_up = Recipe("made-up", "A made-up claim", "no paper", "It is so.", ("None.",), run, {}, takes_points=True)
        monkeypatch.setattr(reproduce, "recipe", lambda name: made_up)
        monkeypatch.setattr(
            reproduce, "criterion_of", lambda recipe, scale: Criterion(digest, parts or {"x.LEAST": digest})
        )
        given = {"scale": "small", "device": "cpu", "out": tmp_path / "out"} | keys
        reproduce.reproduce(ReproduceSettings(recipe="made-up", **given))
        out = given["out"]
        return json.loads((out / "reproduction.json").read_text()), (out / "README.md").read_text()

    return judge


def test_a_result_has_the_criterion_and_code_that_judged_it(judge):
    result, page = judge("aaaa")
    assert result["criterion"] == {
        "digest": "aaaa",
        "stands_since": "2026-01-01T00:00:00+00:00",
        "code": provenance.code(),
        "continued": [],
        "earlier": [],
    }
    assert page.startswith("# A made-up claim\n\n1 claim is judged at scale small: 1 confirmed.\n\n| claim | verdict |")
    assert "**The claim** (no paper)" in page
    assert "judged by criterion aaaa" in page
    assert judge("aaaa") == (result, page)


def test_results_judged_again_by_another_criterion_say_so_first(judge):
    before, _ = judge("aaaa", "confirmed")
    result, page = judge("bbbb", "refuted", parts={"x.LEAST": "bbbb", "x.judge": "1"})
    day = before["date"][:10]
    assert page.startswith(
        "# A made-up claim\n\n1 claim is judged at scale small: 1 refuted.\n\n"
        f"**The criterion changed after these results were seen**: on {day} they were judged by another (aaaa), which said "
        "confirmed; now by bbbb. What differs: x.LEAST, x.judge. Why: A mistake.\n\n| claim |"
    )
    (earlier,) = result["criterion"]["earlier"]
    assert (earlier["digest"], earlier["verdicts"]) == ("aaaa", ["confirmed"])
    assert result["criterion"]["digest"] == "bbbb"
    again, _ = judge("aaaa", "confirmed")  # back again: that is kept too
    assert [one["digest"] for one in again["criterion"]["earlier"]] == ["aaaa", "bbbb"]


def test_a_criterion_that_changed_before_any_verdict_is_noted_as_such(judge):
    with pytest.raises(KeyboardInterrupt):
        judge("aaaa", fails=True)
    result, page = judge("bbbb")
    assert "**The criterion changed while this ran**, before anything was judged: it began with another (aaaa)" in page
    assert "after these results were seen" not in page
    assert "verdicts" not in result["criterion"]["earlier"][0]


def test_results_from_before_criteria_were_recorded_are_noted_as_such(judge, tmp_path):
    judge("aaaa", "inconclusive")
    record = tmp_path / "out" / "run.json"
    run = read_json(record)
    del run["criteria"]
    write_json(record, run)
    _, page = judge("bbbb")
    assert "they were judged by one that was not kept, which said inconclusive; now by bbbb. Why:" in page


def test_a_run_continued_with_other_versions_names_them(judge, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        judge("aaaa", fails=True)
    other = provenance.versions() | {"torch": "3.0", "machine": "another machine"}
    monkeypatch.setattr(provenance, "versions", lambda: other)
    result, page = judge("aaaa")
    assert ", continued on another machine (limbeck " in page
    assert "torch 3.0" in page
    (continued,) = result["criterion"]["continued"]
    assert continued["versions"] == other


def test_a_criterion_whose_digest_is_computed_in_another_way_is_the_same(judge, monkeypatch):
    judge("aaaa")
    monkeypatch.setattr(provenance, "digest_today", lambda recipe, scale, digest: {"aaaa": "bbbb"}.get(digest, digest))
    result, page = judge("bbbb")
    assert "criterion changed" not in page
    assert (result["criterion"]["digest"], result["criterion"]["earlier"]) == ("bbbb", [])


def test_a_criterion_without_an_entry_is_noted(judge):
    result, page = judge("cccc")
    assert "**No register has this criterion** (cccc)" in page
    assert result["criterion"]["stands_since"] is None


def test_a_criterion_entered_after_its_trainings_began_is_noted(judge, monkeypatch):
    late = Entry("2999-01-01T00:00:00+00:00", "Late.")
    monkeypatch.setattr(provenance, "entry_of", lambda recipe, scale, digest: late)
    assert (
        "**The criterion was entered in the register after these trainings began**: on 2999-01-01" in judge("aaaa")[1]
    )


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        ("2025-12-31T00:00:00+00:00", "were made by 2025-12-31"),
        (None, "do not say when"),
        ("2026-03-01T00:00:00+00:00", ""),
    ],
)
def test_points_older_than_the_criterion_are_noted(judge, tmp_path, monkeypatch, ended, said):
    monkeypatch.setattr(reproduce, "read_points", lambda points: None)
    points = tmp_path / "pilot" / "points.parquet"
    points.parent.mkdir()
    if ended:
        (points.parent / "run.json").write_text(json.dumps({"ended": ended}))
    page = judge("aaaa", points=points)[1]
    assert ("**The criterion may have been chosen after its points were seen**" in page) == bool(said)
    assert said in page


def test_seeds_seen_before_the_criterion_are_noted(judge):
    assert "**Seeds seen before this criterion stood**: 4, 5. It may" in judge("aaaa", seed=4, seeds=3)[1]


def test_a_scale_that_judges_nothing_has_no_notes(judge):
    assert judge("cccc", scale="smoke")[1].startswith("# A made-up claim\n\nThis run only checks")


def test_a_checkout_that_limbeck_is_only_installed_in_is_not_its_code(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    assert provenance.code() is None


# Committed results


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in RESULTS.glob("*/reproduction.json")))
def test_committed_results_were_judged_by_a_criterion_that_stood_before_or_say_so(folder):
    result = json.loads((RESULTS / folder / "reproduction.json").read_text(encoding="utf-8"))
    _, sentence, first, *_ = (RESULTS / folder / "README.md").read_text(encoding="utf-8").split("\n\n")
    assert sentence.count(".") == 1  # one sentence, and then whatever else has to be known before the verdicts are read
    judged = result.get("criterion")
    if judged is None or judged["earlier"] or judged["stands_since"] is None:
        assert first.startswith("**The criterion changed "), first[:100]
        return
    entry = entry_of(result["recipe"], result["scale"], judged["digest"])
    assert entry is not None
    assert not set(entry.seen) & set(range(result["seed"], result["seed"] + result["seeds"]))
    assert judged["stands_since"] == entry.since
    assert judged["code"]["changed"] is False


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in RESULTS.glob("*/reproduction.json")))
def test_committed_pages_are_what_limbeck_writes_of_their_results(folder):
    spec = spec_from_file_location("pages", RESULTS / "pages.py")
    pages = module_from_spec(spec)
    spec.loader.exec_module(pages)
    page = (RESULTS / folder / "README.md").read_text(encoding="utf-8")
    assert pages.written(RESULTS / folder) == page, "run: python docs/results/pages.py"
    table = page.partition("| claim |")[2].partition("\n\n")[0]
    assert all(len(cell) < 160 for cell in table.split("|")), "a cell is short"
    result = json.loads((RESULTS / folder / "reproduction.json").read_text(encoding="utf-8"))
    for one in result["judged"]:
        assert page.count(one["criterion"]) >= 1
        assert one["seen"] in page
        assert recipe(result["recipe"]).short_of(one["claim"]).claim in table

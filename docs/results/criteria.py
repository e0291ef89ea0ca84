"""Enters in the registers of criteria what recipes and studies judge by now, where it changed: criteria.py "why it did".

Recipes have theirs in limbeck.papers.lab; a study here with a file NAME_criterion.py has it in criteria.json. The entry is
committed with the change, and has the seeds that had been seen by then: those of the entry before and of the committed page.
Results that were seen before are not judged by it: they are made again with other seeds.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

from limbeck.disk import write_text
from limbeck.jobs.common.folder import now
from limbeck.papers import RECIPES, recipe
from limbeck.papers.lab.criterion import REGISTER, criterion_of

HERE = Path(__file__).parent
STUDIES = HERE / "criteria.json"


def digests():
    """The digest of each study that has a criterion in a file of its own, by the study's name."""
    files = sorted(HERE.glob("*_criterion.py"))
    return {file.stem.removesuffix("_criterion").replace("_", "-"): import_module(file.stem).digest() for file in files}


def seen(name, entries):
    """The seeds whose results were known."""
    found = set(entries[-1]["seen"]) if entries else set()
    file, study = (HERE / name / kind for kind in ("reproduction.json", "results.json"))
    if file.exists():
        page = json.loads(file.read_text(encoding="utf-8"))
        found |= set(range(page["seed"], page["seed"] + page["seeds"]))
    elif study.exists():
        found |= set(json.loads(study.read_text(encoding="utf-8"))["seeds"])
    return sorted(found)


def enter(register, current, why):
    """Adds an entry for each name whose digests are not those of its last one."""
    found = json.loads(register.read_text(encoding="utf-8"))
    for name, now_judged in current.items():
        entries = found.setdefault(name, [])
        if not entries or entries[-1]["digests"] != now_judged:
            entries.append({"since": now(), "why": why, "digests": now_judged, "seen": seen(name, entries)})
            print(name, now_judged)
    write_text(register, json.dumps(found, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    of_recipes = {
        name: {scale: criterion_of(recipe(name), scale).digest for scale in ("small", "gpu")} for name in RECIPES
    }
    enter(REGISTER, of_recipes, sys.argv[1])
    enter(STUDIES, {name: {"study": digest} for name, digest in digests().items()}, sys.argv[1])

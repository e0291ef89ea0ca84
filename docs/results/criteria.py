"""Enters in the register of criteria what recipes judge by now, where it changed: python docs/results/criteria.py "why it did".

The entry is committed with the change, and has the seeds that had been seen by then: those of the entry before and of the
committed page. Results that were seen before are not judged by it: their recipe is run on other seeds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from limbeck.disk import write_text
from limbeck.jobs.common.folder import now
from limbeck.papers import RECIPES, recipe
from limbeck.papers.lab.criterion import REGISTER, criterion_of


def seen(name, entries):
    """The seeds whose results were known."""
    found = set(entries[-1]["seen"]) if entries else set()
    file = Path(__file__).parent / name / "reproduction.json"
    if file.exists():
        page = json.loads(file.read_text(encoding="utf-8"))
        found |= set(range(page["seed"], page["seed"] + page["seeds"]))
    return sorted(found)


why = sys.argv[1]
register = json.loads(REGISTER.read_text(encoding="utf-8"))
for name in RECIPES:
    digests = {scale: criterion_of(recipe(name), scale).digest for scale in ("small", "gpu")}
    entries = register.setdefault(name, [])
    if not entries or entries[-1]["digests"] != digests:
        entries.append({"since": now(), "why": why, "digests": digests, "seen": seen(name, entries)})
        print(name, digests)
write_text(REGISTER, json.dumps(register, indent=2, ensure_ascii=False) + "\n")

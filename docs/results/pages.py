"""Writes the pages of committed reproductions again, from their reproduction.json: python docs/results/pages.py.

What stands between a page's first sentence and its table (that it was judged before, or that a criterion changed) is kept, and so
are its figures and their captions.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from limbeck.config import ReproduceSettings
from limbeck.disk import write_text
from limbeck.papers import recipe
from limbeck.papers.lab import provenance
from limbeck.papers.lab.recipe import ClaimResult, Outcome
from limbeck.papers.reproduce import page

HERE = Path(__file__).parent
KEPT = ("**Judged once before**", "**The criterion ", "**Seeds seen")


def written(folder: Path) -> str:
    """The page of a committed reproduction, as limbeck writes it today."""
    before = (folder / "README.md").read_text(encoding="utf-8")
    found = json.loads((folder / "reproduction.json").read_text(encoding="utf-8"))
    judged = tuple(ClaimResult(**one) for one in found["judged"])
    figures = {Path(file): said for said, file in re.findall(r"!\[(.*?)\]\((\S+?)\)", before)}
    kept = [part for part in before.split("\n\n") if part.startswith(KEPT)]
    last = {"digest": found["criterion"]["digest"]} if "criterion" in found else None
    run = {
        "command": found["command"],
        "versions": found["versions"],
        "ended": found["date"],
        "seconds": found["seconds"],
        "cpu_seconds": found["cpu_seconds"],
        provenance.KEY: [last] if last else [],
        provenance.CONTINUED: found.get("criterion", {}).get("continued", []),
    }
    settings = ReproduceSettings(recipe=found["recipe"], scale=found["scale"], seed=found["seed"], seeds=found["seeds"])
    outcome = Outcome(found["ours"], judged, found["numbers"], figures)
    return page(recipe(found["recipe"]), outcome, run, settings, notes=kept)


if __name__ == "__main__":
    for file in sorted(HERE.glob("*/reproduction.json")):
        write_text(file.parent / "README.md", written(file.parent))
        print(file.parent.name)

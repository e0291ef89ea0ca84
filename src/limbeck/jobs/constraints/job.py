"""`limbeck constraints write`: a file of random prompts with constraints that a program checks.

Records have IFEval's form, which ``limbeck probe --probe constraints``, ``capture --text`` and ``capture --pairs --judge checks``
read. Equal settings give an equal file.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console

from limbeck.config import ConstraintsSettings
from limbeck.corpora.tasks.constraints.families import FAMILIES
from limbeck.corpora.tasks.constraints.prompts import draw_prompts
from limbeck.disk import write_text
from limbeck.ending import Ending, show_ending
from limbeck.errors import BadFolder


def write(settings: ConstraintsSettings) -> dict[str, Any]:
    """Writes the file; gives ``{"out", "prompts", "constraints", "families"}``, the last with how many constraints each has.

    Raises BadTask for unknown families, or a difficulty that they do not reach, and BadFolder for a file of another content.
    """
    families = tuple(dict.fromkeys(settings.families)) or tuple(FAMILIES)
    drawn = list(islice(draw_prompts(families, _range(settings.difficulty), settings.seed), settings.n))
    text = "".join(json.dumps(one.record(key), ensure_ascii=False) + "\n" for key, one in enumerate(drawn, 1))
    out = settings.out
    if out.is_dir() or (out.exists() and out.read_bytes() != text.encode()):
        raise BadFolder(f"{out} is there already, with another content: give a new file with --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)
    counted = Counter(constraint.kind for one in drawn for constraint in one.constraints)
    return {
        "out": str(out),
        "prompts": len(drawn),
        "constraints": counted.total(),
        "families": {family: counted[family] for family in families},
    }


def _range(difficulty: str | None) -> tuple[int, int] | None:
    if difficulty is None:
        return None
    least, _, most = difficulty.partition("..")
    return int(least), int(most or least)


def show(result: dict[str, Any], console: Console) -> None:
    """Prints what the file has, and the command that measures a model on it."""
    families = ", ".join(f"{family} {number:,}" for family, number in result["families"].items())
    console.print(
        f"{result['prompts']:,} prompts with {result['constraints']:,} constraints: {families}", soft_wrap=True
    )
    then = f"limbeck probe MODEL --probe constraints --task {shlex.quote(result['out'])}"
    headline = "each has an answer that follows all of its constraints"
    show_ending(Ending(headline, places={"prompts": Path(result["out"])}, then=then), console)

"""README.md of a capture's folder: which teacher, how much text, what is kept, how far it is from the whole, how to use it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.report.card import plain
from limbeck.report.words import bounded, count, size
from limbeck.terminal import visible

CARD = "README.md"


def capture_card(
    run: Mapping[str, Any], found: Mapping[str, Any] | None, *, teacher: str, tokens: int, stored: int, then: str
) -> str:
    """A card in Markdown, from run.json and the bias and variance report of the kept outcomes (None for a part of a capture).

    ``tokens`` of text have logits here, in ``stored`` bytes; ``then`` is the command that uses them.
    """
    command = run.get("command") or []
    body = [f"# Captured logits of {plain(teacher)}", ""]
    body += [
        f"Log-probabilities of {count(tokens)} tokens of `{plain(str(run['signature']['data']))}`, in {size(stored)}."
    ]
    if found is not None:
        body += ["", f"Kept of each prediction: {plain(str(found['codec']))} outcomes in {found['bytes']} bytes."]
        body += _quality(found)
    body += ["", "## Use", "", "```sh", plain(then), "```", ""]
    body += [
        "The teacher is not run again for that; its weights are read only where a student is pruned from them. "
        "`limbeck cache verify` checks every checksum.",
        "",
    ]
    if command:
        body += ["## Made by", "", "```sh", plain(shlex.join(command)), "```", ""]
    return visible("\n".join(body))


def _quality(found: Mapping[str, Any]) -> list[str]:
    damage = found.get("damage")
    if not damage:
        return ["", f"Not measured: {plain(str(found.get('left_out', 'what the kept outcomes do to a gradient')))}."]
    mass = found["exact_mass"]
    return [
        "",
        f"They hold {100 * mass['value']:.1f} % ({100 * mass['low']:.1f} to {100 * mass['high']:.1f}) of the teacher's mass "
        f"exactly, measured on {found['positions']:,} positions. Errors of the gradient, as shares of its norm:",
        "",
        "| objective | bias | noise of a step of 16,384 tokens |",
        "|---|---|---|",
        *(f"| {name} | {_share(one['bias'])} | {_share(one['noise'])} |" for name, one in damage.items()),
        "",
        "Bias stays however much is trained; noise averages out. Values are with 95 % intervals.",
    ]


def _share(found: Mapping[str, Any]) -> str:
    if any(found[key] is None for key in ("value", "low", "high")):
        return "–"
    return bounded(found["value"], found["low"], found["high"])


def next_of_capture(out: Path, *, student: str | None) -> str:
    """The command that distils from captured logits; ``student``: its flag, for a student of a certain size or a given one."""
    chosen = shlex.split(student) if student else []
    return shlex.join(
        ["limbeck", "distil", "--teacher", str(out), *chosen, "--out", str(out.with_name(f"{out.name}-student"))]
    )

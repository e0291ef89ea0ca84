"""The criteria that judged a folder's results, in order, and what the page states if there are several.

run.json has a list ``criteria``: each has its digest, the date of its first use here and, after judging, its verdicts. A changed
criterion is not refused, but the first lines of the page name the change and the verdicts of the earlier criterion.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from limbeck.disk import read_json
from limbeck.errors import BadPoints
from limbeck.jobs.common.folder import now, update, versions
from limbeck.papers.lab.criterion import PACKAGE, Criterion, changed, digest_today, entry_of
from limbeck.papers.lab.recipe import ClaimResult

KEY = "criteria"
CONTINUED = "continued"


class _Verdict(TypedDict):
    """The verdict of a claim in reproduction.json."""

    verdict: str


class _Result(TypedDict):
    """The part of reproduction.json that is read."""

    judged: list[_Verdict]


def started(out: Path, run: dict[str, Any], criterion: Criterion, *, recipe: str, scale: str) -> None:
    """Records in run.json the criterion that judges this folder from now on, and the versions that continue it, if they differ.

    A folder from before criteria were recorded has an unknown one. A digest that was computed in an earlier way is renamed.
    """
    kept = run.get(KEY) or _unknown(out, run)
    if kept and kept[-1]["digest"] and digest_today(recipe, scale, kept[-1]["digest"]) == criterion.digest:
        kept = [*kept[:-1], kept[-1] | {"digest": criterion.digest, "parts": dict(criterion.parts)}]
    if not kept or kept[-1]["digest"] != criterion.digest:
        kept = [*kept, {"digest": criterion.digest, "since": now(), "code": code(), "parts": dict(criterion.parts)}]
    continued = run.get(CONTINUED, [])
    if "ended" not in run and versions() != (continued[-1]["versions"] if continued else run["versions"]):
        continued = [*continued, {"since": now(), "versions": versions(), "code": code()}]
    update(out, run, **{KEY: kept}, **({CONTINUED: continued} if continued else {}))


def judged(out: Path, run: dict[str, Any], verdicts: Sequence[ClaimResult]) -> None:
    """Records the verdicts of the last criterion."""
    *earlier, last = run[KEY]
    last = last | {"judged": last.get("judged", now()), "verdicts": [one.verdict for one in verdicts]}
    update(out, run, **{KEY: [*earlier, last]})


def record(run: Mapping[str, Any], recipe: str, scale: str) -> dict[str, Any]:
    """The record for reproduction.json: the criterion, its date in the register, the code, and earlier criteria."""
    *earlier, last = run[KEY]
    entry = entry_of(recipe, scale, last["digest"])
    return {
        "digest": last["digest"],
        "stands_since": entry.since if entry else None,
        "code": last["code"],
        CONTINUED: run.get(CONTINUED, []),
        "earlier": [{key: value for key, value in one.items() if key != "parts"} for one in earlier],
    }


def notes(run: Mapping[str, Any], recipe: str, scale: str, *, seeds: range, points: Path | None) -> list[str]:
    """The first lines of a page: earlier criteria, one without an entry, and results that are older than the criterion.

    ``seeds`` are those of the recipe's own trainings. ``points`` take their place if given.
    """
    *earlier, last = run[KEY]
    entry = entry_of(recipe, scale, last["digest"])
    why = f" Why: {entry.why}" if entry else ""
    found = [_note(one, last) + why for one in earlier]
    if entry is None:
        return [*found, f"**No register has this criterion** ({last['digest']}): since when it stands is not known."]
    if points is not None:
        made = _made(points)
        if made is None or made < entry.since:
            when = f"were made by {made[:10]}" if made else "do not say when they were made"
            found.append(
                f"**The criterion may have been chosen after its points were seen**: they {when}, it stands since "
                f"{entry.since[:10]}."
            )
        return found
    if again := sorted(set(seeds) & set(entry.seen)):
        found.append(
            f"**Seeds seen before this criterion stood**: {', '.join(map(str, again))}. It may have been chosen knowing what "
            "they show; another `--seed` gives a judgement on others."
        )
    if not earlier and run["started"] < entry.since:
        found.append(
            f"**The criterion was entered in the register after these trainings began**: on {entry.since[:10]}, and they on "
            f"{run['started'][:10]}."
        )
    return found


def code() -> dict[str, Any] | None:
    """The commit of limbeck's own files and whether they have changes; None outside a git checkout."""
    try:
        _git(
            "ls-files", "--error-unmatch", "papers/lab/recipe.py"
        )  # otherwise limbeck is only installed inside this checkout
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(_git("status", "--porcelain", "--", str(PACKAGE)))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*words: str) -> str:
    command = ["git", "-C", str(PACKAGE), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _unknown(out: Path, run: Mapping[str, Any]) -> list[dict[str, Any]]:
    held = {p.name for p in out.iterdir() if not p.name.startswith(".")} - {"run.json", "data"}
    if not held:
        return []
    one = {"digest": None, "since": run["started"], "code": None, "parts": {}}
    file = out / "reproduction.json"
    if "ended" in run and file.is_file():
        one |= {"judged": run["ended"], "verdicts": [found["verdict"] for found in read_json(file, _Result)["judged"]]}
    return [one]


def _note(before: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    other = f"another ({before['digest']})" if before["digest"] else "one that was not kept"
    what = changed(before["parts"], last["parts"]) if before["digest"] else []
    differ = f" What differs: {', '.join(what)}." if what else ""
    if "verdicts" in before:
        return (
            f"**The criterion changed after these results were seen**: on {before['judged'][:10]} they were judged by {other}, "
            f"which said {', '.join(before['verdicts'])}; now by {last['digest']}.{differ}"
        )
    return (
        f"**The criterion changed while this ran**, before anything was judged: it began with {other}, and is judged by "
        f"{last['digest']}.{differ}"
    )


def _made(points: Path) -> str | None:
    """The time when a pilot's points were measured, if the pilot has it."""
    record = (points if points.is_dir() else points.parent) / "run.json"
    if not record.is_file():
        return None
    ended: str | None = read_json(record, error=BadPoints).get("ended")
    return ended

"""The last screen of `limbeck export`: each format with its size, what it lost, and how fast it is."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from limbeck.ending import Ending
from limbeck.report.words import share, size

_HEAD = ("", "size", "KL", "same", "nats", "- model", "reads/s", "writes/s")


def ending(result: Mapping[str, Any]) -> Ending:
    """The last screen of a result."""
    rows = result["exports"]
    verified = [row for row in rows if row["compared"] is not None]
    n = f", compared on {verified[0]['compared']['tokens']:,} tokens" if verified else ""
    table: list[tuple[str, ...]] = [
        _HEAD,
        ("model", size(result["student"]["bytes"]), "", "", *_nats(verified), "", *_speed(result["student"])),
    ]
    table += [_cells(row) for row in rows]
    out = Path(result["out"])
    first = out if len(rows) == 1 else out / rows[0]["format"].replace(":", "-")
    return Ending(
        f"{result['model']} in {len(rows)} format{'' if len(rows) == 1 else 's'}{n}",
        table=table,
        places={"exports": out},
        then=shlex.join(["limbeck", "push", str(first), "--repo", "NAME", "--dry-run"]),
    )


def _nats(verified: list[Mapping[str, Any]]) -> tuple[str]:
    return (f"{verified[0]['compared']['nats']['value']:.3f}" if verified else "",)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    compared = row["compared"]
    start = (row["format"], size(row["bytes"]))
    if compared is None:
        return (*start, "not verified", "", "", "", "", "")
    return (
        *start,
        f"{compared['kl']['value']:.2g}",
        share(compared["same"]["value"], digits=1),
        f"{compared['written_nats']['value']:.3f}",
        _difference(compared["difference"]),
        *_speed(row),
    )


def _difference(row: Mapping[str, Any]) -> str:
    """A difference with half of its interval; the exact ends are in export.json."""
    if row["low"] is None:
        return f"{row['value']:.4f}"
    return f"{row['value']:.4f}±{(row['high'] - row['low']) / 2:.4f}"


def _speed(row: Mapping[str, Any]) -> tuple[str, str]:
    """By threads, the fewest first."""
    reads, writes = (" / ".join(f"{one[name]:,.0f}" for one in row["speeds"]) for name in ("prefill", "generation"))
    return reads, writes


def show(result: Mapping[str, Any], console: Console) -> None:
    """Prints what a user has to know of each export, before the last screen."""
    for row in result["exports"]:
        for note in row["notes"]:
            console.print(f"{row['format']}: {note}", soft_wrap=True)
        if row["compared"] is None:
            console.print(f"{row['format']}: not verified: {row['reason']}", soft_wrap=True)
    threads = " / ".join(str(one["threads"]) for one in result["student"]["speeds"])
    console.print(f"text: {result['measured_on']}", soft_wrap=True)
    console.print(
        "KL and nats are per token, same is the share of equal greedy tokens, ± half of a paired 95 % interval",
        soft_wrap=True,
    )
    console.print(f"tokens/s in {threads} threads of {result['machine']}", soft_wrap=True)

"""`limbeck cache inspect` and `verify`: what a folder of captured logits contains, and whether it is intact."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from limbeck.corpora import Rows
from limbeck.disk import check_folder, finite, read_json
from limbeck.errors import BadFolder, BadModel, BadSetting, LimbeckError, Mismatch
from limbeck.jobs.capture.certificate import OBJECTIVES, certify
from limbeck.jobs.capture.codecs import show
from limbeck.jobs.common.captured import CERTIFICATE, Captured
from limbeck.models.language_model import LanguageModel
from limbeck.report.words import count
from limbeck.teachers import LogitCache
from limbeck.teachers.ref import is_capture
from limbeck.types import Batch, Outputs

# Nats that a kept log-probability may be off on average: half a step of its code is 0.01, and another machine's bfloat16
# makes about as much again.
_OFF = 0.05


def opened(folder: Path) -> Captured:
    """The logits in a folder. Raises BadSetting if the folder has none."""
    if not is_capture(folder):
        raise BadSetting(f"{folder}: expected a folder that limbeck capture wrote")
    return Captured(folder)


def inspect(folder: Path) -> dict[str, Any]:
    """The origin, size and certificate of a folder of logits."""
    captured = opened(folder)
    logits = captured.logits
    return {
        "teacher": logits.name,
        "vocab": logits.vocab,
        "outcomes": str(logits.codec),
        "bytes_per_token": logits.codec.bytes,
        "rows": logits.rows,
        "length": logits.length,
        "tokens": logits.rows * logits.length,
        "unanswered": logits.missing,
        "held_out_rows": captured.held_out.cache.rows,
        "made_from": dict(logits.made_from),
        "certificate": read_json(folder / CERTIFICATE) if (folder / CERTIFICATE).exists() else None,
    }


def show_facts(facts: dict[str, Any], console: Console) -> None:
    """Prints the result of `inspect`, without the numbers of the certificate."""
    console.print(
        f"{facts['teacher']}: {count(facts['tokens'])} tokens in {facts['rows']:,} rows of {facts['length']}, "
        f"{facts['outcomes']} outcomes of {facts['vocab']:,} in {facts['bytes_per_token']} bytes; "
        f"{facts['held_out_rows']:,} held-out rows"
    )
    if facts["unanswered"]:
        console.print(f"{facts['unanswered']:,} positions have no answer, and count nothing")
    for key, value in facts["made_from"].items():
        console.print(f"  {key:<10} {value}")


def verify_files(folder: Path, console: Console) -> dict[str, Any]:
    """Compares every file of a folder of limbeck's with its checksum; gives ``{"ok", "files", "messages", "unknown"}``.

    ``messages`` name the damage. ``unknown`` are files without a checksum: of earlier versions, or rewritten by each run.
    """
    found = check_folder(folder)
    for message in found.damaged.values():
        console.print(f"damaged: {message}")
    console.print(
        f"checksums: {len(found.good):,} files are as they were written, {len(found.damaged):,} are not, "
        f"{len(found.unknown):,} have none",
    )
    if not found.good and not found.damaged:
        console.print("nothing here carries a checksum: limbeck did not write it, or an earlier version did")
    unknown = [str(path.relative_to(folder)) for path in found.unknown]
    return {
        "ok": not found.damaged,
        "files": len(found.good),
        "messages": list(found.damaged.values()),
        "unknown": unknown,
    }


def verify(folder: Path, *, rows: int, seed: int, console: Console) -> dict[str, Any]:
    """Reads every file, and computes logits of random rows again; gives ``{"ok", "messages", "damaged", "asked", ...}``.

    ``messages`` name damaged files, and ``damaged`` are rows of logits. Without the teacher's weights, only checksums are
    compared.
    """
    files = verify_files(folder, console) if folder.is_dir() else {"ok": True, "messages": []}
    if not files["ok"] and not is_capture(folder):
        return files | {"damaged": [], "asked": 0}
    try:
        captured = opened(folder)
        damaged = [row for cache in (captured.logits, captured.held_out.cache) for row in cache.damaged()]
    except (BadModel, BadFolder, Mismatch) as error:
        if files["ok"]:
            raise
        console.print(f"the logits cannot be read: {error}")
        return files | {"damaged": [], "asked": 0}
    console.print(
        f"checksums: {len(damaged):,} damaged rows of {captured.logits.rows + captured.held_out.cache.rows:,}"
    )
    result: dict[str, Any] = files | {"ok": files["ok"] and not damaged, "damaged": damaged, "asked": 0}
    if not result["ok"]:
        return result
    if captured.served:
        console.print("the teacher was not queried: it was on a server, and logits are compared with weights only")
        return result
    try:
        teacher = captured.weights(device=torch.device("cpu"), dtype=getattr(torch, captured.logits.made_from["dtype"]))
    except LimbeckError as error:
        console.print(f"the teacher was not queried: {error}")
        return result
    store, _ = captured.stores()
    text = Rows(store, length=captured.logits.length, most=captured.logits.rows)
    chosen = np.random.default_rng(seed).choice(text.n_rows, size=min(rows, text.n_rows), replace=False)
    off = _Off(captured.logits)
    again = certify(
        off.passing(_recomputed(teacher, text, chosen)),
        [captured.logits.codec],
        objectives=OBJECTIVES,
        seed=seed,
        stored=captured.logits,
    )[0]
    result |= {"asked": len(chosen), "nats_off": off.mean, "certificate": finite(again.row()), "ok": off.mean <= _OFF}
    console.print(
        f"the teacher's logits of {len(chosen):,} rows were computed again: kept log-probabilities are {off.mean:.4f} nats off "
        "on average " + ("(rounding)" if off.mean <= _OFF else f"(expected at most {_OFF}): these are not its logits")
    )
    show(again, console)
    return result


def _recomputed(teacher: LanguageModel, text: Rows, chosen: np.ndarray) -> Iterator[tuple[Batch, Outputs]]:
    for row in chosen:
        batch = text.rows_of(np.array([row]))
        yield batch, teacher(batch)


class _Off:
    """The mean difference of stored log-probabilities from the teacher's, without those below the codec's resolution."""

    def __init__(self, logits: LogitCache) -> None:
        self._logits, self._total, self._n = logits, 0.0, 0

    @property
    def mean(self) -> float:
        """The mean in nats."""
        return self._total / max(1, self._n)

    @torch.no_grad()
    def passing(self, queried: Iterable[tuple[Batch, Outputs]]) -> Iterator[tuple[Batch, Outputs]]:
        """Measures the teacher's logits and passes them on."""
        for batch, outputs in queried:
            kept = self._logits(batch)
            log_p = outputs.logits().float().log_softmax(-1).gather(-1, kept.ids)
            known = log_p > -20
            self._total += float((kept.log_p - log_p).abs()[known].double().sum())
            self._n += int(known.sum())
            yield batch, outputs

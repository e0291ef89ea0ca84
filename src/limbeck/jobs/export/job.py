"""`limbeck export`: a model in other formats, each run by its own program and compared with what it was made from."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from limbeck.config import ExportSettings
from limbeck.disk import whole_folder, write_digests, write_json
from limbeck.errors import BadFolder, BadSetting
from limbeck.exporters.named import EXPORTERS, CannotRun, Format
from limbeck.jobs.common.environment import environment_of
from limbeck.jobs.common.folder import command, versions
from limbeck.jobs.common.held_out import HeldOut
from limbeck.jobs.export.card import card_of, with_export, write_card
from limbeck.jobs.export.compare import compare, outputs_of
from limbeck.jobs.export.speed import NEW, PROMPT, speeds, threads_of
from limbeck.jobs.probe.text import RunFolder, Texts, rewarded_run
from limbeck.models.configuration import load_config
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.run.log import console
from limbeck.scrub import without_folders
from limbeck.types import Batch, CausalLM, Outputs

RECORD = "export.json"
_LENGTH = 256  # tokens of a row that is compared
_WORK = 2.5e11  # parameters times tokens that are compared, within so many rows
_ROWS = (8, 64)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def export(settings: ExportSettings) -> dict[str, Any]:
    """Writes a model in one or several formats; gives ``{"out", "model", "measured_on", "machine", "student", "exports", ...}``.

    ``student`` and each of ``exports`` have ``bytes`` and ``speeds``. An export has besides its ``format``, ``files``, ``notes``,
    and ``compared`` (`compare`), which is None with a ``reason`` where it was not run. Of the first,
    ``format``, ``bytes``, ``kl_nats``, ``largest_kl_nats`` and ``n`` stand by themselves too.

    Everything is written, or nothing. Raises BadSetting for a format that is not there, BadFolder where ``out`` holds something,
    and what the formats raise.
    """
    formats = _formats(settings.to)
    if settings.out.exists() and (not settings.out.is_dir() or any(settings.out.iterdir())):
        raise BadFolder(f"{settings.out} is not empty: give a new folder with --out")
    environment = environment_of(settings)
    load_config(settings.model)
    card, asked = card_of(settings.model), _DTYPES.get(settings.dtype)
    model = load(settings.model, device=environment.world.device, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        run, prompts = RunFolder.of(settings.model), rewarded_run(settings.model)
        text = Texts(settings, run, model, Path(folder), prompts=prompts).whole
        length = min(_LENGTH, model.context)
        number = int(min(max(_WORK / model.parameters_count / length, _ROWS[0]), _ROWS[1]))
        held_out = HeldOut(text.store, length=length, environment=environment, rows=number)
        description = without_folders(text.description + held_out.description)
        ours = _Ours(
            model, outputs_of(model, held_out.batches()), text.store.documents, asked, settings.threads, description
        )
        with whole_folder(settings.out.absolute()) as partial:
            places = [partial if len(formats) == 1 else partial / one.folder for one in formats]
            rows = [ours.export(one, place) for one, place in zip(formats, places, strict=True)]
            result = {**ours.about, "exports": rows}
            for row, place in zip(rows, places, strict=True):
                write_card(place, with_export(card, row, result))
                write_json(
                    place / RECORD, {**ours.about, "exports": [row], "command": without_folders(shlex.join(command()))}
                )
                write_digests(place)
    first, compared = rows[0], rows[0]["compared"]
    alone = {
        "format": first["format"],
        "bytes": first["bytes"],
        "kl_nats": compared and compared["kl"]["value"],
        "largest_kl_nats": compared and compared["largest_kl"],
        "n": compared and compared["tokens"],
    }
    return {"out": str(settings.out), **alone, **result}


def _formats(text: str) -> list[Format]:
    """The formats of --to. Raises BadSetting for one that is not there, or twice."""
    formats = [Format.of(part.strip()) for part in text.split(",") if part.strip()]
    if not formats:
        raise BadSetting(f"--to {text!r}: expected a format; there are {', '.join(EXPORTERS)}")
    twice = next((one for number, one in enumerate(formats) if one in formats[:number]), None)
    if twice is not None:
        raise BadSetting(f"--to {text}: {twice} is there twice; name each format once")
    return formats


@dataclass(frozen=True)
class _Ours:
    """The model that is exported, and the text on which its exports are compared with it."""

    model: LanguageModel
    known: Sequence[tuple[Batch, Outputs]]
    documents: int
    dtype: torch.dtype | None
    threads: int | None
    description: str

    @cached_property
    def about(self) -> dict[str, Any]:
        """What holds of all exports."""
        found = versions()
        weights = sum(p.numel() for p in self.model.model.parameters()) * (self.model.stored or torch.float32).itemsize
        return {
            "model": self.model.name,
            "measured_on": self.description,
            "machine": found.pop("machine"),
            "versions": found,
            "student": {"bytes": weights, "speeds": self._speeds(self.model)},
        }

    def export(self, one: Format, folder: Path) -> dict[str, Any]:
        """Writes the model to a new folder, and compares what was written."""
        folder.mkdir(exist_ok=True)
        console.print(f"{one}: writing")
        with EXPORTERS.blamed(one.name):
            exporter = one.exporter()
            notes = exporter.write(self.model, folder, dtype=self.dtype) or []
            files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
            row = {
                "format": str(one),
                "files": files,
                "bytes": sum((folder / file).stat().st_size for file in files),
                "notes": list(notes),
            }
            try:
                written = exporter.read(folder, self.model)
                if written is None:
                    raise CannotRun("limbeck cannot run this format")
                console.print(f"{one}: compared with the model on {self.description}")
                return row | self._measured(written)
            except CannotRun as reason:
                return row | {"compared": None, "reason": str(reason), "speeds": []}

    def _measured(self, written: CausalLM) -> dict[str, Any]:
        close = getattr(written, "close", lambda: None)
        try:
            compared = compare(self.known, written, vocab=self.model.vocab, documents=self.documents)
            return {"compared": compared, "reason": "", "speeds": self._speeds(written)}
        finally:
            close()

    def _speeds(self, model: CausalLM) -> list[dict[str, Any]]:
        batch, _ = self.known[0]
        most = min(PROMPT, max(1, self.model.context - NEW - 1))
        return speeds(model, batch.tokens[0, :most].tolist(), threads_of(self.threads))

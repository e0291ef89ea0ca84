"""`limbeck import`: an ordinary model folder from a GGUF file or a quantised model."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from typing import Any

from rich.console import Console

from limbeck.config import ImportSettings
from limbeck.errors import BadFolder
from limbeck.models.configuration import is_quantised, load_config
from limbeck.models.dequantise import dequantised, quantised_as
from limbeck.models.gguf.importer import Imported, import_gguf
from limbeck.models.save import save
from limbeck.models.sidecar import licence_of
from limbeck.models.source import gguf_named, resolve, stored_tensors, weights_digest


def import_model(settings: ImportSettings) -> dict[str, Any]:
    """Writes the folder; gives ``{"out", "file", "sha256", "architecture", "formats", "numbers", "dtype", "licence", "bytes"}``.

    ``formats`` counts the file's tensors by number format, ``dtype`` is that of the folder. Raises BadModel where there is no
    such model, it cannot be read or is an ordinary one, BadFolder where ``out`` holds something.
    """
    if settings.out.exists() and (not settings.out.is_dir() or any(settings.out.iterdir())):
        raise BadFolder(f"{settings.out} is there already, and no empty folder: give a new folder with --out")
    file = gguf_named(settings.model)
    facts = _dequantised(settings) if file is None else import_gguf(file, settings.out)
    size = sum(written.stat().st_size for written in settings.out.rglob("*") if written.is_file())
    return {"out": str(settings.out), **asdict(facts), "bytes": size}


def _dequantised(settings: ImportSettings) -> Imported:
    """Writes the de-quantised model of a folder or hub id."""
    source = resolve(settings.model)
    kind = quantised_as(config) if is_quantised(config := load_config(source)) else ""
    model = dequantised(settings.model)
    save(model, settings.out)
    if (source / "README.md").is_file():  # the licence
        shutil.copyfile(source / "README.md", settings.out / "README.md")
    return Imported(
        file=model.name,
        sha256=weights_digest(source),
        architecture=model.config.model_type,
        formats={kind: len(stored_tensors(source))},
        numbers=model.parameters_count,
        dtype=str(model.model.dtype).removeprefix("torch."),
        licence=licence_of(source).get("license"),
    )


def show(result: dict[str, Any], console: Console) -> None:
    """Prints what became of the file."""
    formats = ", ".join(f"{count} {name}" for name, count in result["formats"].items())
    console.print(
        f"{result['file']}: {result['architecture']}, {result['numbers']:,} numbers ({formats}), licence "
        f"{result['licence'] or 'not stated'}",
        soft_wrap=True,
    )
    console.print(f"model: {result['out']} ({result['bytes'] / 1e6:,.1f} MB, {result['dtype']})", soft_wrap=True)

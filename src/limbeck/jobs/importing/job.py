"""`limbeck import`: an ordinary model folder from a GGUF file, a quantised model, or adapters and their base."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from limbeck.config import ImportSettings
from limbeck.disk import existing
from limbeck.errors import BadFolder, BadModel, BadSetting
from limbeck.models.configuration import is_quantised, load_config
from limbeck.models.dequantise import dequantised, quantised_as
from limbeck.models.gguf.importer import Imported, import_gguf
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.models.sidecar import licence_of, stored_dtype
from limbeck.models.source import gguf_named, resolve, stored_tensors, weights_digest
from limbeck.students.adapter_files import CONFIG as ADAPTERS
from limbeck.students.adapter_files import merge_file, read_adapters


def import_model(settings: ImportSettings) -> dict[str, Any]:
    """Writes the folder; gives ``{"out", "file", "sha256", "architecture", "formats", "numbers", "dtype", "licence", "bytes"}``.

    ``formats`` counts the file's tensors by number format, ``dtype`` is that of the folder. Raises BadModel where there is no
    such model, it cannot be read or is an ordinary one, BadFolder where ``out`` holds something.
    """
    if settings.out.exists() and (not settings.out.is_dir() or any(settings.out.iterdir())):
        raise BadFolder(f"{settings.out} is there already, and no empty folder: give a new folder with --out")
    if (folder := existing(settings.model)) is not None and (folder / ADAPTERS).is_file():
        return {"out": str(settings.out), **asdict(_merged(settings, folder)), "bytes": _size(settings.out)}
    if settings.base is not None:
        raise BadSetting(
            f"--base {settings.base}: {settings.model} holds no adapters ({ADAPTERS}), which alone have a base: leave it out"
        )
    file = gguf_named(settings.model)
    facts = _dequantised(settings) if file is None else import_gguf(file, settings.out)
    return {"out": str(settings.out), **asdict(facts), "bytes": _size(settings.out)}


def _size(folder: Path) -> int:
    return sum(written.stat().st_size for written in folder.rglob("*") if written.is_file())


def _merged(settings: ImportSettings, folder: Path) -> Imported:
    """Writes the base of adapters with these merged into it, in the base's number format."""
    found = read_adapters(folder)
    base = settings.base or found.base
    if not base:
        raise BadModel(f"{folder / ADAPTERS}: it names no model that its adapters belong to: give it with --base")
    source = resolve(base)
    dtype = stored_dtype(source)
    model = load(base)
    merge_file(model, found, base_folder=source)
    save(model, settings.out, dtype=getattr(torch, dtype))
    _keep_card(source, settings.out)
    ranks = Counter(f"adapters of rank {a.shape[0]}" for a, _, _ in found.layers.values())
    return Imported(
        file=f"{folder.resolve().name} on {model.name}",
        sha256=weights_digest(folder),
        architecture=model.config.model_type,
        formats=dict(ranks),
        numbers=model.parameters_count,
        dtype=dtype,
        licence=licence_of(source).get("license"),
    )


def _keep_card(source: Path, out: Path) -> None:
    """Copies the card of a model, which names its licence."""
    if (source / "README.md").is_file():
        shutil.copyfile(source / "README.md", out / "README.md")


def _dequantised(settings: ImportSettings) -> Imported:
    """Writes the de-quantised model of a folder or hub id."""
    source = resolve(settings.model)
    kind = quantised_as(config) if is_quantised(config := load_config(source)) else ""
    model = dequantised(settings.model)
    save(model, settings.out)
    _keep_card(source, settings.out)
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

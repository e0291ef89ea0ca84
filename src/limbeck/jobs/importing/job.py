"""`limbeck import`: an ordinary model folder from a GGUF file, where one wants it. Other commands make theirs in the cache."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console

from limbeck.config import ImportSettings
from limbeck.errors import BadFolder, BadModel
from limbeck.models.gguf.importer import import_gguf
from limbeck.models.source import gguf_named


def import_model(settings: ImportSettings) -> dict[str, Any]:
    """Writes the folder; gives ``{"out", "file", "sha256", "architecture", "formats", "numbers", "dtype", "licence", "bytes"}``.

    ``formats`` counts the file's tensors by number format, ``dtype`` is that of the folder. Raises BadModel where there is no
    such file or it cannot be read, BadFolder where ``out`` holds something.
    """
    if settings.out.exists() and (not settings.out.is_dir() or any(settings.out.iterdir())):
        raise BadFolder(f"{settings.out} is there already, and no empty folder: give a new folder with --out")
    file = gguf_named(settings.model)
    if file is None:
        raise BadModel(
            f"{settings.model}: expected a .gguf file, a folder that holds one, or a built-in model that is one; other models "
            "are ordinary folders already"
        )
    facts = import_gguf(file, settings.out)
    size = sum(written.stat().st_size for written in settings.out.rglob("*") if written.is_file())
    return {"out": str(settings.out), **asdict(facts), "bytes": size}


def show(result: dict[str, Any], console: Console) -> None:
    """Prints what became of the file."""
    formats = ", ".join(f"{count} {name}" for name, count in result["formats"].items())
    console.print(
        f"{result['file']}: {result['architecture']}, {result['numbers']:,} numbers ({formats}), licence "
        f"{result['licence'] or 'not stated'}",
        soft_wrap=True,
    )
    console.print(f"model: {result['out']} ({result['bytes'] / 1e6:,.1f} MB, {result['dtype']})", soft_wrap=True)

"""Which files of a folder are published: those of a model, by name, and none that names a folder of this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from limbeck.errors import BadFolder

CARD = "README.md"
# Everything else stays: states of an optimiser, logs, checkpoints, checksums of limbeck's own.
_SENT = (
    *(
        "*.safetensors",
        "*.safetensors.index.json",
        "*.gguf",
        "*.onnx",
        "*.onnx.data",
        "Modelfile",
        CARD,
        "LICENSE*",
        "NOTICE*",
    ),
    *(
        "config.json",
        "generation_config.json",
        "genai_config.json",
        "tokenizer*.json",
        "special_tokens_map.json",
        "vocab.json",
    ),
    *("added_tokens.json", "merges.txt", "vocab.txt", "*.model", "*.jinja", "lineage.json", "export.json", "*.py"),
)
_KEPT = ("optimizer*", "state.*", "*_state.*", "scheduler*", "checkpoint*", "training_args*", ".*")
_WEIGHTS = ("*.safetensors", "*.gguf", "*.onnx")
_TEXT = (".json", ".md", ".txt", ".jinja", ".py")
_LONGEST = 64 * 2**20  # of a text that is read for paths
_PATH = re.compile(
    r"(?:(?<![\w:/.])|(?<=file://)|(?<=file://localhost)|(?<=:)(?!//))(?:/(?:home|root|Users|tmp|mnt|data|work|workspace|scratch|var|opt)/[^\s\"'`<>]+|[A-Z]:\\\\[^\s\"]+)"
)


def files_of(folder: Path) -> list[Path]:
    """The files that are published. Raises BadFolder where there is no model among them."""
    if not folder.is_dir():
        raise BadFolder(f"{folder}: no such folder; give that of a student or of an export")
    found = sorted(file for file in folder.iterdir() if file.is_file() and _is_sent(file.name))
    if not any(fnmatch(file.name, pattern) for file in found for pattern in _WEIGHTS):
        inner = sorted(file.name for file in folder.iterdir() if file.is_dir() and any(_weights(file)))
        instead = (
            f"give one of its folders: {', '.join(inner)}" if inner else "give the folder of a student or of an export"
        )
        raise BadFolder(f"{folder} holds no weights ({', '.join(_WEIGHTS)}); {instead}")
    return found


def _weights(folder: Path) -> Iterator[Path]:
    return (file for pattern in _WEIGHTS for file in folder.glob(pattern))


def _is_sent(name: str) -> bool:
    return any(fnmatch(name, one) for one in _SENT) and not any(fnmatch(name, one) for one in _KEPT)


def require_no_paths(name: str, text: str) -> None:
    """Raises BadFolder where a text names a folder of a machine: it would tell others who made it, and where."""
    found = _PATH.search(text)
    if found is not None:
        raise BadFolder(
            f"{name} names a folder of this machine ({found.group()[:80]}), which would be published: take it out of "
            f"the file, and "
            "run the same command again"
        )


def check_texts(files: list[Path]) -> None:
    """Raises BadFolder for a file of text, but for the card, that names a folder of a machine."""
    for file in files:
        if file.name != CARD and (file.suffix in _TEXT or file.name == "Modelfile") and file.stat().st_size < _LONGEST:
            if file.name.startswith(("tokenizer.json", "vocab", "merges")):
                continue  # tokens, among which anything may be
            require_no_paths(file.name, file.read_text(encoding="utf-8", errors="replace"))

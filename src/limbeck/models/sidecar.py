"""Files and settings of a model's folder that other programs need, and its licence.

Converters for other engines need the tokenizer's original file (``tokenizer.model``), which Transformers does not copy. The
licence is in the front matter of README.md.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.errors import BadModel
from limbeck.models.bounds import read_object
from limbeck.models.older import for_older_readers
from limbeck.models.source import stored_tensors

if TYPE_CHECKING:  # seconds to load, for names of types
    from transformers.configuration_utils import PreTrainedConfig
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

FLOATS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}  # the name in safetensors, and in torch
_TOKENIZER = [
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "added_tokens.json",
    "special_tokens_map.json",
]
_FRONT = re.compile(r"\A---\r?\n(.*?)\r?\n---\r?\n", re.DOTALL)
_LONGEST = 2**20  # characters of a README.md that are read
_CARD_KEYS = ("license", "license_name", "license_link", "base_model")


def stored_dtype(folder: Path) -> str:
    """The number format of most of a folder's weights: float32, bfloat16 or float16.

    For quantised weights it is bfloat16, for float64 float32. Without weights the config.json decides.
    """
    sizes: Counter[str] = Counter()
    try:
        for tensor in stored_tensors(folder).values():
            sizes[tensor.dtype] += tensor.bytes
    except BadModel:
        return _declared_dtype(folder / "config.json")
    most = max(sizes, key=lambda name: sizes[name], default="F32")
    return FLOATS.get(most, "float32" if most == "F64" else "bfloat16")


def _declared_dtype(file: Path) -> str:
    try:
        config = read_object(file)
    except BadModel:
        return "float32"
    declared = str(config.get("dtype") or config.get("torch_dtype"))
    return declared if declared in FLOATS.values() else "float32"


def complete(folder: Path, config: PreTrainedConfig, *, tokenizer_of: Path | None) -> None:
    """Adds to a folder that Transformers wrote what other programs need, and makes its files readable for everybody.

    ``tokenizer_of`` is the folder that the tokenizer was read from: tokenizer files that Transformers did not write are copied
    from it. Raises BadModel where config.json is damaged.
    """
    file = folder / "config.json"
    written = read_object(file)
    file.write_text(json.dumps(for_older_readers(written, config), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name in _TOKENIZER:
        if tokenizer_of is not None and (tokenizer_of / name).is_file() and not (folder / name).exists():
            shutil.copyfile(tokenizer_of / name, folder / name)
    for path in folder.iterdir():
        path.chmod(0o755 if path.is_dir() else 0o644)


def source_of(tokenizer: PreTrainedTokenizerBase) -> Path | None:
    """The folder that a tokenizer was read from, None where there is none."""
    folder = Path(str(tokenizer.name_or_path or "."))
    return folder if tokenizer.name_or_path and folder.is_dir() else None


def describe_source(source: Path, folder: Path) -> None:
    """Copies the number format and README.md of a model's ``source`` folder to a ``folder`` without weights.

    Raises BadModel where config.json is damaged.
    """
    file = folder / "config.json"
    written = read_object(file) | {"dtype": stored_dtype(source)}
    file.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if (source / "README.md").is_file() and not (folder / "README.md").exists():
        shutil.copyfile(source / "README.md", folder / "README.md")


def licence_of(folder: Path) -> dict[str, str]:
    """The licence and base model in the front matter of a folder's README.md, by key; empty where there are none."""
    import yaml  # type: ignore[import-untyped]

    try:
        with (folder / "README.md").open(encoding="utf-8") as file:
            front = _FRONT.match(file.read(_LONGEST))
        stated = yaml.safe_load(front[1]) if front else None
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    if not isinstance(stated, dict):
        return {}
    found = {}
    for key in _CARD_KEYS:
        value = stated.get(key)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, str) and value.strip():
            found[key] = value.strip()
    return found

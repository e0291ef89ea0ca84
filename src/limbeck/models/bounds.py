"""Checks the JSON files of a model's folder before a library uses them.

Libraries would allocate a count of 2**40, or build a million layers, and most end in a traceback. The bounds here are far
beyond any existing model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.errors import BadModel

_LARGEST = 2**27  # bytes of a JSON file of a model's folder, except an index
_DEEPEST = 100
_WIDEST = {  # the largest value of a count, by a part of its key
    "layer": 2**12,
    "n_embd": 2**20,
    "hidden_size": 2**20,
    "d_model": 2**20,
    "intermediate_size": 2**24,
    "n_inner": 2**24,
    "head": 2**14,
    "vocab_size": 2**26,
    "expert": 2**16,
    "n_positions": 2**32,
    "max_position_embeddings": 2**32,
}
_REQUIRED = (  # at least 1, where the key exists
    *("num_hidden_layers", "n_layer", "n_layers", "hidden_size", "n_embd", "d_model", "num_attention_heads", "n_head"),
    *("n_heads", "num_key_value_heads", "vocab_size", "head_dim", "max_position_embeddings", "n_positions"),
)
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def check_config(file: Path) -> dict[str, Any]:
    """The object in a config.json. Raises BadModel where it is not a JSON object, or a count is outside its bounds."""
    written = read_object(file)
    _check(written, file, "", 0)
    return written


def check_generation(folder: Path) -> None:
    """Raises BadModel where generation_config.json is not a JSON object, or its tokens are not ids. The file may be missing."""
    file = folder / "generation_config.json"
    if not file.is_file():
        return
    written = read_object(file)
    for key in _TOKENS:
        value = written.get(key)
        ids = value if isinstance(value, list) else [value]
        if value is not None and not all(_is_count(one) for one in ids):
            raise BadModel(
                f"{file}: {key}: expected the id of a token, or a list of them, got {_shown(value)}; copy the file again"
            )


def read_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file of a model's folder. Raises BadModel where the file is missing, too large, or not an object."""
    try:
        if file.stat().st_size > _LARGEST:
            raise BadModel(f"{file}: expected a small JSON file, got {file.stat().st_size:,} bytes; copy it again")
        written = json.loads(file.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise BadModel(f"{file}: expected JSON, got brackets nested too deeply; copy it again") from error
    except (OSError, ValueError) as error:
        raise BadModel(
            f"{file}: expected JSON, as Transformers writes it, got something else ({error}); copy it again"
        ) from error
    if not isinstance(written, dict):
        raise BadModel(f"{file}: expected a JSON object, got {_shown(written)}; copy it again")
    return written


def _check(written: Mapping[str, Any], file: Path, where: str, depth: int) -> None:
    """Checks the counts of an object, and of objects inside it (a text configuration, rotary settings)."""
    if depth > _DEEPEST:
        raise BadModel(f"{file}: objects are nested more than {_DEEPEST} deep; copy it again")
    for key, value in written.items():
        if isinstance(value, Mapping):
            _check(value, file, f"{where}{key}.", depth + 1)
        if key in _REQUIRED and value is not None and not (_is_count(value) or isinstance(value, list)):
            raise BadModel(
                f"{file}: {where}{key}: expected a number of 1 or more, got {_shown(value)}; correct the file"
            )
        if key in _REQUIRED and value == 0:
            raise BadModel(f"{file}: {where}{key}: expected a number of 1 or more, got 0; correct the file")
        most = next((bound for part, bound in _WIDEST.items() if part in key), None)
        if most is not None and isinstance(value, int) and value > most:
            raise BadModel(f"{file}: {where}{key}: expected at most {most:,}, got {_shown(value)}; correct the file")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _shown(value: Any) -> str:
    """A value as messages show it, shortened: a number may have hundreds of digits."""
    if isinstance(value, int) and abs(value) >= 10**18:
        return f"a number of more than 18 digits ({value.bit_length()} bits)"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"

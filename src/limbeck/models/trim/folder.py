"""A trimmed vocabulary on disk: a model's folder without weights, with the kept ids beside configuration and tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np
import torch
from msgspec import Meta
from transformers import GenerationConfig
from transformers.configuration_utils import PreTrainedConfig

from limbeck.disk import Count, read_json, whole_folder, write_digests, write_json
from limbeck.errors import BadModel
from limbeck.models.bounds import check_generation
from limbeck.models.configuration import load_config
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load, load_tokenizer, verified_folder
from limbeck.models.quiet import quiet_transformers
from limbeck.models.sidecar import describe_source
from limbeck.models.source import resolve_description
from limbeck.models.trim.choose import digest_of
from limbeck.models.trim.model import Vocabulary, config_with, ids_named, renumber, trim
from limbeck.models.trim.tokenizer import Kept, write_trimmed

VOCABULARY = "vocabulary.json"
_REMEDY = "remove the folder: the next run makes it again, or copy it again"


class _File(TypedDict):
    """What vocabulary.json holds of the ids; ``facts`` are of whoever chose them."""

    of: str
    whole: Count
    kept: list[Annotated[int, Meta(ge=0, lt=2**31)]]
    kept_sha256: str
    facts: dict[str, Any]


def described(name: str | Path) -> tuple[PreTrainedConfig, GenerationConfig | None]:
    """The configuration and the settings of generation of a model, without its weights; None where it has no such."""
    folder = resolve_description(name)
    config, generation = load_config(folder), None
    check_generation(folder)
    with quiet_transformers(), suppress(OSError):  # not every model has them
        generation = GenerationConfig.from_pretrained(folder)
    return config, generation


def needed_ids(name: str | Path) -> set[int]:
    """The ids of tokens that a model's configuration and settings of generation name."""
    return ids_named(*described(name))


def write_vocabulary(
    folder: Path, source: str | Path, kept: Kept, *, whole: int, name: str, facts: Mapping[str, Any]
) -> Vocabulary:
    """Writes what describes the model at ``source`` with the kept tokens alone; ``whole`` is how many it has, ``name`` its own.

    Raises BadModel where it cannot be trimmed so, BadFolder where the folder cannot be written.
    """
    origin = resolve_description(source)
    config, generation = described(source)
    with whole_folder(folder) as partial:
        tokenizer = write_trimmed(load_tokenizer(origin), kept, partial, name=name)
        vocabulary = Vocabulary(kept, tokenizer, whole, name)
        with quiet_transformers():
            config_with(config, vocabulary, name=name).save_pretrained(partial)
            if generation is not None:
                renumber(generation, vocabulary, name=name)
                generation.save_pretrained(partial)
        describe_source(origin, partial)
        ids = {"of": name, "whole": whole, "kept": kept.tolist(), "kept_sha256": vocabulary.digest}
        write_json(partial / VOCABULARY, ids | {"facts": dict(facts)})
        write_digests(partial)
    return open_vocabulary(folder)


def facts_of(folder: Path) -> dict[str, Any]:
    """What was said when the vocabulary in a folder was chosen. Raises BadModel where it is damaged."""
    facts: dict[str, Any] = _read(folder)["facts"]
    return facts


def open_vocabulary(folder: Path) -> Vocabulary:
    """The trimmed vocabulary that `write_vocabulary` wrote. Raises BadModel where a part of it is missing or damaged."""
    there = _read(verified_folder(folder))
    kept = np.array(there["kept"], dtype=np.int64)
    if digest_of(kept) != there["kept_sha256"] or (np.diff(kept) <= 0).any():
        raise BadModel(f"{folder / VOCABULARY}: its ids do not match their checksum: {_REMEDY}")
    return Vocabulary(kept, load_tokenizer(folder), int(there["whole"]), there["of"])


def load_trimmed(
    name: str | Path, vocabulary: Vocabulary, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> LanguageModel:
    """A frozen model with the kept rows alone. Raises as `load` and `trim` do."""
    return trim(load(name, device=device, dtype=dtype), vocabulary)


def _read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(folder / VOCABULARY, _File, error=BadModel, remedy=_REMEDY)
    return found

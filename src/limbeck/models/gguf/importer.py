"""Makes an ordinary model folder of a GGUF file: configuration, de-quantised safetensors, tokenizer, chat template, licence.

One tensor is in memory at a time. Files of whole numbers (F32, F16, BF16) keep their format, quantised ones become bfloat16.
"""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast
from transformers.configuration_utils import PreTrainedConfig

from limbeck.disk import sha256_of, whole_folder, write_digests
from limbeck.errors import BadModel, first_line
from limbeck.models.bounds import check_config
from limbeck.models.gguf.container import Gguf, opened
from limbeck.models.gguf.families import FAMILIES, ROTARY_TENSORS, Family, read_settings
from limbeck.models.gguf.others import others, read_other
from limbeck.models.gguf.tokenizer import PROBES, Vocabulary, encoded, lost, read_tokenizer, read_vocabulary
from limbeck.models.older import for_older_readers
from limbeck.models.quiet import quiet_transformers

_FORMATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class Imported:
    """What became of a file: its digest and family, tensors by number format, numbers in all, the format they are stored in."""

    file: str
    sha256: str
    architecture: str
    formats: Mapping[str, int]
    numbers: int
    dtype: str
    licence: str | None


def import_gguf(path: Path, folder: Path, *, digest: str | None = None) -> Imported:
    """Writes the model of a GGUF file to ``folder``, whole or not at all; an older folder is replaced.

    ``digest`` is the file's SHA-256 where it is known. Raises BadModel where the file is damaged, of a family or with a
    tokenizer that limbeck does not read, or something of it would be lost; BadFolder where the folder cannot be written.
    """
    file = opened(path)
    if file.architecture not in FAMILIES and file.architecture not in others():
        known = ", ".join(sorted({*FAMILIES, *others()}))
        raise BadModel(
            f"{path}: a GGUF file of family {file.architecture!r}, which limbeck does not read; it reads {known}. Give the "
            "original model's folder"
        )
    vocabulary = read_vocabulary(file)
    tokenizer = read_tokenizer(file, vocabulary)
    with whole_folder(folder.absolute()) as partial:
        config = _write_model(file, vocabulary, partial)
        tokenizer.model_max_length = int(getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length)
        tokenizer.save_pretrained(partial)
        _check_tokenizer(file, partial, tokenizer)
        facts = _facts(file, digest or sha256_of(path), config)
        (partial / "README.md").write_text(_card(file, facts), encoding="utf-8")
        for written in partial.iterdir():
            written.chmod(0o644)
        write_digests(partial)
    return facts


def _write_model(file: Gguf, vocabulary: Vocabulary, folder: Path) -> PreTrainedConfig:
    """Writes configuration and weights. Gives the configuration."""
    dtype = _stored_as(file)
    if file.architecture in FAMILIES:
        config, shapes, values = _of_family(file, FAMILIES[file.architecture], vocabulary, folder)
    else:
        config, tensors = read_other(file, dtype)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        values = tensors.__getitem__
    _write_config(config, vocabulary, dtype, folder)
    check_config(folder / "config.json")
    _write_weights(folder / "model.safetensors", shapes, dtype, values)
    return config


def _stored_as(file: Gguf) -> torch.dtype:
    """The number format of most of the file's numbers, bfloat16 where that is a quantised one."""
    sizes: Counter[str] = Counter()
    for tensor in file.tensors.values():
        sizes[tensor.tensor_type.name] += int(tensor.n_elements)
    return _FORMATS.get(sizes.most_common(1)[0][0], torch.bfloat16)


Values = Callable[[str], torch.Tensor]


def _of_family(
    file: Gguf, family: Family, vocabulary: Vocabulary, folder: Path
) -> tuple[PreTrainedConfig, dict[str, tuple[int, ...]], Values]:
    """Configuration, shapes of the tensors by name in Transformers, and what reads one."""
    settings = read_settings(file) | {"tie_word_embeddings": _is_tied(file)} | vocabulary.named_ids
    file_of_settings = folder / "config.json"
    file_of_settings.write_text(json.dumps(settings), encoding="utf-8")  # bounds are checked before anything is built
    check_config(file_of_settings)
    try:
        with quiet_transformers(), torch.device("meta"):
            config = AutoConfig.for_model(**settings)
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # sizes that do not divide, and the like: each class raises something else
        raise BadModel(
            f"{file.path}: no {family.architecture} model can be built from its keys ({first_line(error)}); give another file"
        ) from error
    config.architectures = [type(model).__name__]
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    names = family.names(shapes, layers=config.num_hidden_layers)
    _require_all(file, family, names, tied=config.tie_word_embeddings)

    def values(name: str) -> torch.Tensor:
        if names[name] not in file.tensors:
            return torch.zeros(shapes[name])
        found = family.read(name, file.values(names[name]), config)
        if found.shape != shapes[name]:
            raise BadModel(
                f"{file.path}: {names[name]} has the shape {found.shape}, expected {shapes[name]} by the file's keys; it is "
                "damaged: copy or download it again"
            )
        return torch.from_numpy(np.array(found))  # a copy, since a file's own memory is read-only

    return config, shapes, values


def _is_tied(file: Gguf) -> bool:
    """Whether the head is the embedding: the file has none of its own, or the same numbers again."""
    if "output.weight" not in file.tensors:
        return True
    head, embedding = file.tensors["output.weight"], file.tensors["token_embd.weight"]
    return head.tensor_type == embedding.tensor_type and np.array_equal(head.data, embedding.data)


def _require_all(file: Gguf, family: Family, names: Mapping[str, str], *, tied: bool) -> None:
    """Raises BadModel where the model lacks a tensor, or the file has one that the model has no place for."""
    missing = [
        there
        for ours, there in names.items()
        if there not in file.tensors and not ours.endswith(family.zeros or ("\0",))
    ]
    if missing:
        raise BadModel(
            f"{file.path}: lacks {len(missing)} tensors of a {file.architecture} model, {missing[0]} first; copy or download "
            "it again"
        )
    known = {*names.values(), *(ROTARY_TENSORS if family.rotary else ()), *(("output.weight",) if tied else ())}
    unknown = [name for name in file.tensors if name not in known]
    if unknown:
        raise BadModel(
            f"{file.path}: holds {len(unknown)} tensors that a {file.architecture} model of Transformers has no place for, "
            f"{unknown[0]} first; give the original model's folder"
        )


def _write_config(config: PreTrainedConfig, vocabulary: Vocabulary, dtype: torch.dtype, folder: Path) -> None:
    """Writes config.json and generation_config.json with the ids of special tokens."""
    ids, stops = vocabulary.named_ids, vocabulary.stops
    for key, identity in ids.items():
        setattr(config, key, identity)
    config.dtype = dtype
    config.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = json.dumps(for_older_readers(written, config), indent=2, sort_keys=True)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    end = stops[0] if len(stops) == 1 else stops or None
    GenerationConfig(**ids | {"eos_token_id": end}).save_pretrained(folder)


def _write_weights(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, values: Values) -> None:
    """Writes safetensors, one tensor at a time. Raises BadModel where a number is outside the format's range."""
    entries, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        entries[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name in shapes:
            tensor = values(name).to(dtype).contiguous()
            if not bool(torch.isfinite(tensor).all()):
                raise BadModel(
                    f"{name} holds NaN, infinity or numbers beyond {dtype}; the file is damaged: download it again"
                )
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _check_tokenizer(file: Gguf, folder: Path, made: PreTrainedTokenizerFast) -> None:
    """Raises BadModel where the saved tokenizer reads text in another way, or does not give real text back."""
    with quiet_transformers():
        saved = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    texts = [*PROBES, Path(textwrap.__file__).read_text(encoding="utf-8")]
    other = next((text for text in texts if encoded(saved, text) != encoded(made, text)), None)
    if other is not None:
        raise BadModel(f"{file.path}: Transformers reads its saved tokenizer in another way, such as {other[:60]!r}")
    text = lost(saved, texts)
    if text is not None:
        raise BadModel(f"{file.path}: its tokenizer does not give text back, such as {text[:60]!r}; give another file")


def _facts(file: Gguf, digest: str, config: PreTrainedConfig) -> Imported:
    formats = Counter(tensor.tensor_type.name for tensor in file.tensors.values())
    numbers = sum(int(tensor.n_elements) for tensor in file.tensors.values())
    licence = file.metadata.get("general.license")
    return Imported(
        file=file.path.name,
        sha256=digest,
        architecture=file.architecture,
        formats=dict(formats.most_common()),
        numbers=numbers,
        dtype=str(config.dtype).removeprefix("torch."),
        licence=licence if isinstance(licence, str) else None,
    )


def _card(file: Gguf, facts: Imported) -> str:
    """README.md with the licence that the file states, and where the weights are from."""
    front = [f"license: {json.dumps(facts.licence)}"] if facts.licence else []
    head = ["---", *front, "---", ""] if front else []
    name = file.metadata.get("general.name")
    formats = ", ".join(f"{count} {name}" for name, count in facts.formats.items())
    body = [
        f"# {name if isinstance(name, str) else file.path.stem}",
        "",
        f"Made by limbeck from `{facts.file}` (SHA-256 {facts.sha256}), a GGUF file of family {facts.architecture} with "
        f"{facts.numbers:,} numbers; tensors: {formats}. They are stored here in {facts.dtype}.",
        "",
    ]
    return "\n".join([*head, *body])

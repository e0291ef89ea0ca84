"""Finds the local folder of a model from a user's text, and checks that it contains a model in safetensors.

Only file names and headers are read, so a wrong folder is reported before gigabytes are read. Nothing is unpickled, and no
code of a model folder is run. The safetensors format is that of https://github.com/huggingface/safetensors ("Format": eight
bytes of header length, a JSON header, the data).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NoReturn

from limbeck.disk import bare, existing, shown
from limbeck.errors import BadModel, first_line
from limbeck.models.gguf.cache import gguf_in, model_of
from limbeck.models.gguf.shipped import SHIPPED
from limbeck.models.text_half import has_text_half, text_name

BUILTIN = "builtin:"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "tekken.json")
_DESCRIPTION = ["*.json", "*.model", "*.txt", "*.jinja"]  # files of a hub model besides its weights
_WEIGHTS = ["model.safetensors", "model-*.safetensors"]
_SIZES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_SIZES |= dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1)  # bytes of a number
_COMPUTED = re.compile(r"(^|\.)(rotary_emb\.(inv_freq|cos_cached|sin_cached)|position_ids)$")
_MASK = re.compile(r"(^|\.)(attn|attention|self_attn|self_attention)\.(masked_)?bias$")
_HUB_SECONDS = 10.0  # timeout for the first contact with the hub
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def resolve(name: str | Path) -> Path:
    """The local folder of a model from a folder, a GGUF file, `builtin:NAME`, or a hub id (downloaded, or found in its cache).

    A GGUF file, or a folder that holds one and no config.json, becomes an ordinary folder once (`models.gguf`).

    Raises BadModel where there is no such model.
    """
    return _local(name) or _hub(str(name))


def resolve_description(name: str | Path) -> Path:
    """The local folder of a model's configuration and tokenizer. The weights of a hub model are not downloaded.

    Raises BadModel where there is no such model.
    """
    return _local(name) or _hub(str(name), weights=False)


def config_file(name: str | Path) -> Path:
    """The config.json of a model. Nothing else of a hub model is downloaded. Raises BadModel where there is none."""
    folder = _local(name)
    if folder is None:
        return _hub_config(str(name))
    check_description(folder)
    return folder / "config.json"


def gguf_named(name: str | Path) -> Path | None:
    """The GGUF file that a text names: a file, a folder's only one, a built-in model's; None where it names none.

    A built-in one is fetched. Raises BadModel where that fails, or there is no such model.
    """
    text = str(name)
    if text.startswith(BUILTIN) and text.removeprefix(BUILTIN) in SHIPPED:
        return SHIPPED[text.removeprefix(BUILTIN)].file()
    path = _local(name, make=False)
    return None if path is None else gguf_in(path)


def _local(name: str | Path, *, make: bool = True) -> Path | None:
    """The folder of a model on this machine, None for a text that can only be a hub id.

    Without ``make`` a GGUF file, or its folder, is given as it is, and a built-in model is not fetched.
    """
    text = str(name)
    if text.startswith(BUILTIN):
        return _builtin(text.removeprefix(BUILTIN), make=make)
    folder = existing(text)
    if folder is not None:
        gguf = gguf_in(folder)
        if gguf is None and not folder.is_dir():
            raise BadModel(
                f"{text}: expected the folder of a model or a .gguf file, got another file; give the folder that holds its "
                "config.json"
            )
        return folder if gguf is None or not make else model_of(gguf)
    looks_local = text.startswith(("/", ".", "~")) or text.count("/") > 1 or not text or "\\" in text
    if looks_local:
        where = "" if Path(text).is_absolute() else f" ({shown(Path(text).absolute())})"
        raise BadModel(f"{shown(text)!r}: no such folder{where}{_nearest(Path(text))}")
    return None


def require(*names: str | Path | None) -> None:
    """Raises BadModel for a name that can only be a local model and does not exist. No file and no server is read.

    Hub ids and addresses of servers pass.
    """
    for name in names:
        if name is not None and "://" not in str(name):
            _local(name, make=False)


def check_description(folder: Path) -> None:
    """Raises BadModel unless the folder has a config.json."""
    if (folder / "config.json").is_file():
        return
    inside = ", ".join(sorted(entry.name for entry in folder.iterdir())[:6]) or "nothing"
    raise BadModel(
        f"{folder}: expected a Hugging Face model folder, found no config.json in it (it holds {inside}); "
        + _instead(folder)
    )


def _instead(folder: Path) -> str:
    """The folder to give instead: that of the run's model, where the folder is a run; of adapters how to merge them."""
    if (folder / "adapter_config.json").is_file():
        return "it holds adapters: merge them into their base with limbeck import FOLDER --out MODEL, and give that"
    made = next((folder / name for name in ("student", "model") if (folder / name / "config.json").is_file()), None)
    return f"give the model of this run, {made}" if made else "give the folder that model.save_pretrained(...) wrote"


def _nearest(path: Path) -> str:
    """The most similar existing folder, for a message about one that does not exist."""
    folder = existing(path.parent)
    if folder is None or not folder.is_dir():
        return f": there is no folder {shown(path.parent)} either; give a model folder, a hub id or builtin:NAME"
    names = [entry.name for entry in folder.iterdir() if entry.is_dir()]
    near = difflib.get_close_matches(path.name, names, n=1)
    return f": is it {shown(folder / near[0])}?" if near else "; give a model folder, a hub id or builtin:NAME"


def check_tokenizer(folder: Path) -> None:
    """Raises BadModel unless the folder has a tokenizer file. Without one, some classes silently make an empty tokenizer."""
    if any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return
    raise BadModel(
        f"{folder}: expected a tokenizer beside the model, found none of {', '.join(_TOKENIZER_FILES)}; "
        "save the model's tokenizer into the folder with tokenizer.save_pretrained(...)"
    )


def check_weights(folder: Path) -> None:
    """Raises BadModel unless every safetensors file of the folder exists and has the length that its header declares."""
    for file in _weight_files(folder):
        _read_header(file)


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file. Its ``bytes`` begin at ``start``; ``dtype`` is the format's name (F32, BF16)."""

    file: Path
    start: int
    bytes: int
    dtype: str
    shape: tuple[int, ...]


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """The place of each tensor of a folder's weights, by name; of a multimodal model those of its text half.

    Raises BadModel as `check_weights` does.
    """
    found = {name: tensor for file in _weight_files(folder) for name, tensor in _read_header(file).items()}
    if not has_text_half(folder):
        return found
    named = ((text_name(name), tensor) for name, tensor in found.items())
    return {name: tensor for name, tensor in named if name is not None}


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model's weights. Raises BadModel where one is missing."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if not index.is_file():
        _refuse_without_safetensors(folder)
    for shard in _shards(index):
        if not (folder / shard).is_file():
            raise BadModel(f"{folder}: {index.name} names the file {shard}, which is missing; copy it again")
    return [folder / shard for shard in _shards(index)]


def is_old_buffer(name: str, shape: Sequence[int]) -> bool:
    """Whether a stored tensor is a buffer that older models saved: a causal mask, its fill value, or rotary frequencies.

    Transformers computes them now and ignores them in files. A bias of weights has one axis; masks and fill values do not.
    """
    return _COMPUTED.search(name) is not None or (_MASK.search(name) is not None and len(shape) != 1)


def weights_digest(folder: Path) -> str:
    """SHA-256 of a folder's safetensors files, in order of name. It distinguishes two models of the same shape."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _refuse_without_safetensors(folder: Path) -> NoReturn:
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise BadModel(
            f"{folder}: expected safetensors, found pickled weights only ({pickles[0]}); unpickling can run any code, "
            "so limbeck does not. If you trust the file, convert it once: "
            "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
        )
    raise BadModel(
        f"{folder}: expected weights (model.safetensors, or model.safetensors.index.json with its shards), found none; "
        "copy them into the folder, or give another"
    )


def _shards(index: Path) -> list[str]:
    try:
        names = {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise BadModel(
            f"{index}: expected JSON with a weight_map of tensor to file ({error}); copy it again"
        ) from error
    if not names:
        raise BadModel(f"{index}: expected a weight_map of tensor to file, got an empty one; copy it again")
    for name in names:
        try:
            bare(name)
        except ValueError as error:
            raise BadModel(
                f"{index}: expected names of files in its own folder, got {name!r}; the index is not to be trusted"
            ) from error
    return sorted(names)


def _read_header(path: Path) -> dict[str, Stored]:
    """The tensors of a file by name. Raises BadModel where its length is not that which its header declares."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if 8 + length <= size else b""
    try:
        entries = {name: entry for name, entry in json.loads(text).items() if name != "__metadata__"}
        ends = [int(entry["data_offsets"][1]) for entry in entries.values()]
        tensors = {
            name: Stored(
                file=path,
                start=8 + length + int(entry["data_offsets"][0]),
                bytes=int(entry["data_offsets"][1]) - int(entry["data_offsets"][0]),
                dtype=str(entry["dtype"]),
                shape=tuple(int(axis) for axis in entry["shape"]),
            )
            for name, entry in entries.items()
        }
        if not all(map(_sound, tensors.values())):
            raise ValueError("offsets, shape and number format of a tensor do not belong together")
    except (ValueError, AttributeError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise BadModel(
            f"{path}: expected safetensors, its header is cut off or damaged ({size} bytes); copy or download it again"
        ) from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise BadModel(
            f"{path}: expected {expected} bytes by its header, the file has {size}: it is truncated or damaged; copy or "
            "download it again"
        )
    return tensors


def _sound(tensor: Stored) -> bool:
    """Whether a tensor's number of bytes agrees with its shape and number format."""
    if min(tensor.shape, default=0) < 0 or tensor.bytes < 0:
        return False
    size = _SIZES.get(tensor.dtype)
    return size is None or math.prod(tensor.shape) * size == tensor.bytes


def _builtin(name: str, *, make: bool) -> Path:
    if name in SHIPPED:
        return model_of(SHIPPED[name].file()) if make else Path()
    root = Path(str(files("limbeck"))) / "builtin"
    folder = root / name
    if name and Path(name).name == name and folder.is_dir():
        return folder
    inside = [entry.name for entry in root.iterdir() if (entry / "config.json").is_file()] if root.is_dir() else []
    known = sorted([*inside, *SHIPPED])
    raise BadModel(f"{BUILTIN}{name}: no such built-in model; there are {', '.join(known)}")


def _hub(name: str, *, weights: bool = True) -> Path:
    # Imported here, because a local model does not need it.
    from huggingface_hub import snapshot_download

    patterns = _DESCRIPTION + (_WEIGHTS if weights else [])
    with _hub_errors(name):
        return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=bool(_unreachable())))


def _hub_config(name: str) -> Path:
    from huggingface_hub import hf_hub_download

    with _hub_errors(name):
        return Path(hf_hub_download(name, "config.json", local_files_only=bool(_unreachable())))


@cache
def _unreachable() -> str:
    """Why the hub cannot be reached; "" where it can. One attempt is made; the hub's client would make six, for over a minute."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=_HUB_SECONDS)
    except Exception as error:  # of whichever HTTP library this version of the client is built on
        return f"{constants.ENDPOINT}: {error or type(error).__name__}"
    return ""


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    """Raises BadModel with the reason in place of an exception of the hub's client."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RemoteEntryNotFoundError,
    )

    try:
        yield
    except HFValidationError as error:
        raise BadModel(
            f"{shown(name)!r}: neither a local folder nor a hub id ({shown(str(error))}); give one of them"
        ) from error
    except RemoteEntryNotFoundError as error:
        raise BadModel(
            f"{shown(name)!r}: expected a Hugging Face model, found no config.json in that repository of the hub; "
            "give the id of a repository that model.push_to_hub(...) wrote"
        ) from error
    except LocalEntryNotFoundError as error:
        raise BadModel(
            f"{shown(name)!r}: not a local folder ({shown(Path(name).absolute())}), and not in the hub's cache on this machine; "
            f"the hub cannot be reached ({shown(_unreachable() or str(error))}). Check the spelling and the network, or give the "
            "folder of a local model"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise BadModel(
            f"{shown(name)!r}: not a local folder ({shown(Path(name).absolute())}), and the hub did not return it "
            f"({type(error).__name__}: {shown(first_line(error))}); check the spelling, or download the model and give its folder"
        ) from error

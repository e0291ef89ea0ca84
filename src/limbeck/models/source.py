"""From what a user typed to a local folder that holds a model in safetensors, or the reason why it does not.

Everything here reads file names and headers only, so a wrong folder is told before gigabytes are read. Nothing is
unpickled and no code of a model folder is run. The safetensors layout is that of https://github.com/huggingface/safetensors
("Format": eight bytes of header length, a JSON header, the data).
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
from limbeck.errors import BadModel

BUILTIN = "builtin:"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "tekken.json")
_DESCRIPTION = ["*.json", "*.model", "*.txt", "*.jinja"]  # what a hub model is besides its weights
_WEIGHTS = ["model.safetensors", "model-*.safetensors"]
_SIZES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_SIZES |= dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1)  # bytes of a number
_COMPUTED = re.compile(r"(^|\.)(rotary_emb\.(inv_freq|cos_cached|sin_cached)|position_ids)$")
_MASK = re.compile(r"(^|\.)(attn|attention|self_attn|self_attention)\.(masked_)?bias$")
_HUB_SECONDS = 10.0  # that the hub has to answer at all
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def resolve(name: str | Path) -> Path:
    """The local folder of a model: a folder, `builtin:NAME`, or a hub id (downloaded, or found in the hub's cache)."""
    return _local(name) or _hub(str(name))


def resolve_description(name: str | Path) -> Path:
    """The local folder of what a model is besides its weights; of a hub model nothing else is fetched."""
    return _local(name) or _hub(str(name), weights=False)


def config_file(name: str | Path) -> Path:
    """The config.json of a model; of a hub model nothing else is fetched. Raises BadModel where there is none."""
    folder = _local(name)
    if folder is None:
        return _hub_config(str(name))
    check_description(folder)
    return folder / "config.json"


def _local(name: str | Path) -> Path | None:
    """The folder of a model that is on this machine; None for what can only be a hub id."""
    text = str(name)
    if text.startswith(BUILTIN):
        return _builtin(text.removeprefix(BUILTIN))
    folder = existing(text)
    if folder is not None and folder.is_dir():
        return folder
    if folder is not None:
        raise BadModel(
            f"{text}: expected the folder of a model, got a file; give the folder that holds its config.json"
        )
    looks_local = text.startswith(("/", ".", "~")) or text.count("/") > 1 or not text or "\\" in text
    if looks_local:
        where = "" if Path(text).is_absolute() else f" ({shown(Path(text).absolute())})"
        raise BadModel(f"{shown(text)!r}: no such folder{where}{_nearest(Path(text))}")
    return None


def require(*names: str | Path | None) -> None:
    """Raises BadModel for what can only be a model on this machine and is not there; reads nothing, and asks nobody.

    Hub ids and servers pass.
    """
    for name in names:
        if name is not None and "://" not in str(name):
            _local(name)


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
    """Which folder to give: of a run the model that it has made."""
    made = next((folder / name for name in ("student", "model") if (folder / name / "config.json").is_file()), None)
    return f"give the model of this run, {made}" if made else "give the folder that model.save_pretrained(...) wrote"


def _nearest(path: Path) -> str:
    """What is there instead, for a message about a folder that is not."""
    folder = existing(path.parent)
    if folder is None or not folder.is_dir():
        return f": there is no folder {shown(path.parent)} either; give a model folder, a hub id or builtin:NAME"
    names = [entry.name for entry in folder.iterdir() if entry.is_dir()]
    near = difflib.get_close_matches(path.name, names, n=1)
    return f": is it {shown(folder / near[0])}?" if near else "; give a model folder, a hub id or builtin:NAME"


def check_tokenizer(folder: Path) -> None:
    """Raises BadModel unless the folder has a tokenizer's file: without one some classes silently make an empty one."""
    if any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return
    raise BadModel(
        f"{folder}: expected a tokenizer beside the model, found none of {', '.join(_TOKENIZER_FILES)}; "
        "save the model's tokenizer into the folder with tokenizer.save_pretrained(...)"
    )


def check_weights(folder: Path) -> None:
    """Raises BadModel unless every safetensors file the folder needs is there and as long as its header says."""
    for file in _weight_files(folder):
        _read_header(file)


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file: its ``bytes`` begin at ``start``. ``dtype`` is as the format names it (F32, BF16)."""

    file: Path
    start: int
    bytes: int
    dtype: str
    shape: tuple[int, ...]


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Where each tensor of a folder's weights is. Raises BadModel as `check_weights` does."""
    return {name: tensor for file in _weight_files(folder) for name, tensor in _read_header(file).items()}


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files that a model's weights are in, all there."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if not index.is_file():
        _refuse_without_safetensors(folder)
    for shard in _shards(index):
        if not (folder / shard).is_file():
            raise BadModel(f"{folder}: {index.name} names the weights {shard}, which are not there; copy them again")
    return [folder / shard for shard in _shards(index)]


def is_old_buffer(name: str, shape: Sequence[int]) -> bool:
    """Whether a stored tensor is a buffer that older models kept in their files: a causal mask, its filler, rotary frequencies.

    Transformers computes them now and passes over them in files. A bias of weights has one axis, a mask or its filler never.
    """
    return _COMPUTED.search(name) is not None or (_MASK.search(name) is not None and len(shape) != 1)


def weights_digest(folder: Path) -> str:
    """SHA-256 of a folder's safetensors, by name: what tells two models of one shape apart."""
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
    """The tensors of a file, which is as long as its header says.

    A safetensors file is 8 bytes of header length, the header, and the data that the header describes.
    """
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
    """Whether a tensor's bytes are as many as its shape and number format say."""
    if min(tensor.shape, default=0) < 0 or tensor.bytes < 0:
        return False
    size = _SIZES.get(tensor.dtype)
    return size is None or math.prod(tensor.shape) * size == tensor.bytes


def _builtin(name: str) -> Path:
    root = Path(str(files("limbeck"))) / "builtin"
    folder = root / name
    if name and Path(name).name == name and folder.is_dir():
        return folder
    known = sorted(entry.name for entry in root.iterdir() if (entry / "config.json").is_file()) if root.is_dir() else []
    raise BadModel(
        f"{BUILTIN}{name}: no such built-in model; there is {', '.join(known) or 'none in this installation'}"
    )


def _hub(name: str, *, weights: bool = True) -> Path:
    # Imported here: a local model needs nothing of it.
    from huggingface_hub import snapshot_download

    patterns = _DESCRIPTION + (_WEIGHTS if weights else [])
    with _told(name):
        return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=bool(_unreachable())))


def _hub_config(name: str) -> Path:
    from huggingface_hub import hf_hub_download

    with _told(name):
        return Path(hf_hub_download(name, "config.json", local_files_only=bool(_unreachable())))


@cache
def _unreachable() -> str:
    """Why the hub cannot be reached, tried once; "" where it can. Its own client would try six times, for a minute or more."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=_HUB_SECONDS)
    except Exception as error:  # of whichever HTTP library this version of the client is built on
        return f"{constants.ENDPOINT}: {error or type(error).__name__}"
    return ""


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Turns what the hub raises into a BadModel with the reason."""
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
            "give the id of one that model.push_to_hub(...) wrote"
        ) from error
    except LocalEntryNotFoundError as error:
        raise BadModel(
            f"{shown(name)!r}: not a local folder ({shown(Path(name).absolute())}), and not in the hub's cache on this machine; "
            f"the hub cannot be reached ({shown(_unreachable() or str(error))}). Check the spelling and the network, or give the "
            "folder of a model that is here"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadModel(
            f"{shown(name)!r}: not a local folder ({shown(Path(name).absolute())}), and the hub did not give it "
            f"({type(error).__name__}: {shown(reason)}); check the spelling, or download the model and give its folder"
        ) from error

"""A tokenizer with some of its tokens: its tokenizer.json rewritten, every id of it, and nothing of how it splits text."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from limbeck.errors import BadModel
from limbeck.models.load import load_tokenizer
from limbeck.models.trim.closure import pair_of

_STATE, _CONFIG = "tokenizer.json", "tokenizer_config.json"
# Other spellings of the whole vocabulary, which some programs would read first.
_OLDER = (
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "added_tokens.json",
    "tokenizer.model",
    "spiece.model",
    "tekken.json",
)
_PLAIN = "PreTrainedTokenizerFast"  # the class that takes tokenizer.json as it is

Kept = Int64[np.ndarray, " V"]  # ids of a whole vocabulary that stay, ascending: the new id of each is its place


def state_of(tokenizer: PreTrainedTokenizerBase, *, name: str) -> dict[str, Any]:
    """The content of a fast tokenizer's tokenizer.json. Raises BadModel, with ``name``, for one that is not fast."""
    if not tokenizer.is_fast:
        raise BadModel(
            f"{name}: expected a fast tokenizer (one with a tokenizer.json) to trim its vocabulary, got a "
            f"{type(tokenizer).__name__}; convert it, or leave --vocab out"
        )
    state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return state | {"truncation": None, "padding": None}  # set by the last caller


def trimmed_tokenizer(tokenizer: PreTrainedTokenizerBase, kept: Kept, *, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of the kept tokens. Raises BadModel, with ``name``, where there can be no such."""
    with tempfile.TemporaryDirectory() as folder:
        return write_trimmed(tokenizer, kept, Path(folder), name=name)


def write_trimmed(
    tokenizer: PreTrainedTokenizerBase, kept: Kept, folder: Path, *, name: str
) -> PreTrainedTokenizerBase:
    """Writes the tokenizer of the kept tokens into a folder and gives it as it is read from there.

    Raises BadModel, with ``name``, where a token that it needs is not kept, or the class of the tokenizer reads it differently.
    """
    state = trimmed_state(state_of(tokenizer, name=name), kept, name=name)
    tokenizer.save_pretrained(folder)
    for older in _OLDER:
        (folder / older).unlink(missing_ok=True)
    (folder / _STATE).write_text(json.dumps(state, ensure_ascii=False), encoding="utf-8")
    new = new_ids(kept)
    config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    if "added_tokens_decoder" in config:  # of release 4 of Transformers
        decoder = config["added_tokens_decoder"]
        config["added_tokens_decoder"] = {str(new[int(i)]): token for i, token in decoder.items() if int(i) in new}
    for chosen in (config, config | {"tokenizer_class": _PLAIN}):
        (folder / _CONFIG).write_text(json.dumps(chosen, indent=2, ensure_ascii=False), encoding="utf-8")
        found = load_tokenizer(folder)
        if found.is_fast and state_of(found, name=name) == state:
            return found
    raise BadModel(
        f"{name}: its tokenizer reads a trimmed vocabulary in another way than it is written (class "
        f"{type(tokenizer).__name__}); leave --vocab out"
    )


def new_ids(kept: Kept) -> dict[int, int]:
    """Id in the whole vocabulary → id in the trimmed one."""
    return {old: new for new, old in enumerate(kept.tolist())}


def trimmed_state(state: Mapping[str, Any], kept: Kept, *, name: str) -> dict[str, Any]:
    """The content of tokenizer.json with the kept tokens alone, numbered anew in their order.

    Raises BadModel, with ``name``, where normaliser, template or model name a token that is not kept.
    """
    new = _Renumbered(new_ids(kept), name)
    found: dict[str, Any] = copy.deepcopy({key: value for key, value in state.items() if key != "model"})
    found["added_tokens"] = [token for token in found["added_tokens"] if token["id"] in new.new]
    for token in found["added_tokens"]:
        token["id"] = new[token["id"]]
    if found["post_processor"] is not None:
        _renumber(found["post_processor"], new)
    return found | {"model": _trimmed_model(state["model"], new)}


class _Renumbered:
    """Old ids to new ones, of tokens that have to be there."""

    def __init__(self, new: Mapping[int, int], name: str) -> None:
        self.new, self._name = new, name

    def __getitem__(self, old: int) -> int:
        if old not in self.new:
            raise BadModel(
                f"{self._name}: its tokenizer or configuration needs the token of id {old}, which is not kept; leave --vocab "
                "out, or repair the files"
            )
        return self.new[old]


def _trimmed_model(model: Mapping[str, Any], new: _Renumbered) -> dict[str, Any]:
    """The model of a tokenizer: its vocabulary, and for byte pair encoding the merges whose three symbols are kept."""
    found = dict(model)
    if isinstance(model["vocab"], list):  # Unigram: pieces with their scores, by place
        found["vocab"] = [piece for i, piece in enumerate(model["vocab"]) if i in new.new]
        if model.get("unk_id") is not None:
            found["unk_id"] = new[model["unk_id"]]
        return found
    vocab = {token: new.new[i] for token, i in model["vocab"].items() if i in new.new}
    if model.get("unk_token") is not None and model["unk_token"] in model["vocab"]:
        _ = new[model["vocab"][model["unk_token"]]]
    found["vocab"] = vocab
    if "merges" in model:
        prefix = model.get("continuing_subword_prefix") or ""
        found["merges"] = [
            merge
            for merge in model["merges"]
            if (pair := pair_of(merge))[0] in vocab
            and pair[1] in vocab
            and pair[0] + pair[1].removeprefix(prefix) in vocab
        ]
    return found


def _renumber(step: Any, new: _Renumbered) -> None:
    """Renumbers in place the ids of a post-processor: templates, and the pairs of BERT and RoBERTa."""
    for special in step.get("special_tokens", {}).values():
        special["ids"] = [new[i] for i in special["ids"]]
    for key in ("sep", "cls"):
        if key in step:
            step[key] = [step[key][0], new[step[key][1]]]
    for inner in step.get("processors", ()):
        _renumber(inner, new)

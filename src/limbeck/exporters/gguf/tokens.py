"""The keys of a GGUF file that hold a tokenizer: byte-level BPE (``gpt2``) and SentencePiece's BPE (``llama``).

llama.cpp takes the vocabulary size from the list of tokens, so there is one for each row of the embedding. It splits text by a
name (``pre``), has no normalizers, and merges SentencePiece's tokens by scores: what cannot be said in these is refused, or
noted. Source: llama.cpp, src/llama-vocab.cpp, conversion/base.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from limbeck.errors import BadModel
from limbeck.generation.local import stop_tokens
from limbeck.models.gguf.pre import name_of
from limbeck.models.gguf.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from limbeck.models.language_model import LanguageModel

MARK = "\u2581"  # of a blank, in SentencePiece's tokens
_REMEDY = "export another format, such as folder or onnx"


@dataclass(frozen=True)
class Tokens:
    """The keys of a tokenizer, named as in a file, its ``kind``, and ``notes``: what llama.cpp does otherwise, in sentences."""

    keys: Mapping[str, Any]
    kind: str
    notes: Sequence[str] = field(default_factory=tuple)


def tokens_of(model: LanguageModel, rows: int) -> Tokens:
    """The tokenizer of a model whose embedding has ``rows`` rows. Raises BadModel for one that llama.cpp cannot imitate."""
    if not model.tokenizer.is_fast:
        raise BadModel(
            f"{model.name}: expected a tokenizer with a tokenizer.json, got one without; save it as a fast one"
        )
    state = json.loads(model.tokenizer.backend_tokenizer.to_str())
    if state["model"]["type"] != "BPE":
        raise BadModel(
            f"{model.name}: a tokenizer of kind {state['model']['type']} has no place in a GGUF file that limbeck "
            f"writes, only BPE "
            f"has; {_REMEDY}"
        )
    byte_level = "ByteLevel" in json.dumps(state["pre_tokenizer"])
    own, notes = _byte_level(model.name, state) if byte_level else _sentencepiece(model.name, state)
    tokens, types = _listed(model, state, rows, byte_level=byte_level)
    if "scores" in own:
        own["scores"] = [own["scores"].get(token, 0.0) for token in tokens]
    named = {"model": "gpt2" if byte_level else "llama", "tokens": tokens, "token_type": types}
    keys = {**named, **own, **_special(model, rows), **_frame(model)}
    template = model.tokenizer.chat_template
    found = {f"tokenizer.ggml.{name}": value for name, value in keys.items()}
    if isinstance(template, str):
        found["tokenizer.chat_template"] = template
    elif template:
        notes = [*notes, "the chat templates are several, of which a GGUF file has room for one: none is in it"]
    return Tokens(found, str(named["model"]), tuple(notes))


def _byte_level(name: str, state: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Merges and the name of the split."""
    normalizer = state["normalizer"]
    kind = None if normalizer is None else normalizer["type"]
    if kind not in (None, "NFC"):
        raise BadModel(f"{name}: llama.cpp has no normalizer {kind} before byte-level BPE; {_REMEDY}")
    notes = [] if kind is None else ["llama.cpp does not normalise text (NFC): give it text that is normalised"]
    pre = name_of({"model": state["model"], "pre_tokenizer": _plain(state["pre_tokenizer"])})
    if pre is None:
        raise BadModel(
            f"{name}: its tokenizer splits text in a way that has no name in GGUF files "
            f"({_in_short(state['pre_tokenizer'])}), so "
            f"llama.cpp would make other tokens; {_REMEDY}"
        )
    return {"pre": pre, "merges": [" ".join(_pair(merge)) for merge in state["model"]["merges"]]}, notes


def _plain(state: Any) -> Any:
    """A pre-tokenizer without settings that change offsets and no tokens."""
    if isinstance(state, dict):
        return {key: True if key == "trim_offsets" else _plain(value) for key, value in state.items()}
    return [_plain(item) for item in state] if isinstance(state, list) else state


def _in_short(state: Any) -> str:
    text = json.dumps(state, ensure_ascii=False)
    return text if len(text) < 200 else f"{text[:200]}…"


def _pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _sentencepiece(name: str, state: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Scores by token, and whether a blank is put before a text."""
    prefix, notes = _prefix(name, state)
    model = state["model"]
    scores = _scores(name, [_pair(merge) for merge in model["merges"]])
    if not model.get("byte_fallback"):
        notes = [*notes, "llama.cpp writes characters without a token as bytes, of which this vocabulary has none"]
    # The converter writes "default", which llama.cpp ignores for this kind.
    return {"pre": "default", "scores": scores, "add_space_prefix": prefix}, notes


def _scores(name: str, merges: Sequence[tuple[str, str]]) -> dict[str, float]:
    """-(the first merge that makes it) of each token: llama.cpp merges the neighbours of the highest score first.

    The merges of a token follow one another where the list came from scores; elsewhere no scores do the same, which raises
    BadModel.
    """
    found: dict[str, float] = {}
    last = None
    for rank, (left, right) in enumerate(merges):
        made = left + right
        if made in found and made != last:
            raise BadModel(
                f"{name}: the merges that make {made!r} are apart in its tokenizer, so scores cannot stand for them; {_REMEDY}"
            )
        found.setdefault(made, -float(rank))
        last = made
    return found


def _prefix(name: str, state: Mapping[str, Any]) -> tuple[bool, list[str]]:
    """Whether a blank comes first; with notes on normalizers that llama.cpp does not have."""
    normalizer, splits = state["normalizer"], state["pre_tokenizer"]
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    prefix, replaced, others = False, False, []
    for step in steps:
        if step["type"] == "Prepend" and step["prepend"] == MARK:
            prefix = True
        elif step["type"] == "Replace" and step["pattern"] == {"String": " "} and step["content"] == MARK:
            replaced = True
        else:
            others.append(step["type"])
    if (
        splits is not None
        and splits["type"] == "Metaspace"
        and splits["replacement"] == MARK
        and not splits.get("split")
    ):
        prefix, replaced, splits = splits["prepend_scheme"] != "never", True, None
    if splits is not None and splits["type"] == "Split" and splits["pattern"].get("String") == " ":
        splits = None  # after the replacement no blank is left to split at (ggml-org/llama.cpp#29211)
    if splits is not None or not replaced:
        raise BadModel(
            f"{name}: its tokenizer is neither byte-level BPE nor SentencePiece's BPE "
            f"({_in_short(state['pre_tokenizer'])}); {_REMEDY}"
        )
    said = f"llama.cpp does not normalise text ({', '.join(others)}): text that this changes has other tokens there"
    return prefix, [said] if others else []


def _listed(
    model: LanguageModel, state: Mapping[str, Any], rows: int, *, byte_level: bool
) -> tuple[list[str], list[int]]:
    """A token and its type for each row. Rows without one get ``[PADi]``, as llama.cpp's converter names them."""
    unknown = state["model"].get("unk_token")
    tokens = [f"[PAD{row}]" for row in range(rows)]
    types = [UNUSED] * rows
    for token, identity in state["model"]["vocab"].items():
        if identity < rows:
            tokens[identity], types[identity] = token, NORMAL
            if not byte_level and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
                types[identity] = BYTE
    for added in state["added_tokens"]:
        if added["id"] < rows:
            tokens[added["id"]] = added["content"]
            types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    if not byte_level and unknown in state["model"]["vocab"]:
        types[state["model"]["vocab"][unknown]] = UNKNOWN
    twice = len(tokens) - len(set(tokens))
    if twice:
        raise BadModel(f"{model.name}: {twice} tokens have the name of another, which llama.cpp refuses; {_REMEDY}")
    return tokens, types


def _special(model: LanguageModel, rows: int) -> dict[str, int]:
    """The ids of special tokens. llama.cpp takes numbers of its own where some are missing, so begin and end are always there."""
    tokenizer, stops = model.tokenizer, stop_tokens(model)
    end = model.end if model.end is not None else min(stops, default=None)
    if end is None:
        raise BadModel(
            f"{model.name}: expected a token that ends a text, found none; llama.cpp would take the eleventh token for it: set "
            "eos_token of the tokenizer"
        )
    begin = tokenizer.bos_token_id
    known = {
        "bos": end if begin is None else begin,
        "eos": end,
        "unknown": tokenizer.unk_token_id,
        "padding": tokenizer.pad_token_id,
        **dict(zip(("eot", "eom"), sorted(stops - {end}), strict=False)),
    }
    return {
        f"{name}_token_id": identity for name, identity in known.items() if identity is not None and identity < rows
    }


def _frame(model: LanguageModel) -> dict[str, bool]:
    """Whether a text begins with bos and ends with eos, from what the tokenizer does."""
    tokenizer = model.tokenizer
    bare, framed = (tokenizer.encode("a", add_special_tokens=special) for special in (False, True))
    before, after = framed[: -len(bare) or None], framed
    begins = len(framed) > len(bare) and before[:1] == [tokenizer.bos_token_id]
    ends = len(framed) > len(bare) and after[-1:] == [tokenizer.eos_token_id] and bare[-1:] != [tokenizer.eos_token_id]
    return {"add_bos_token": begins, "add_eos_token": ends}

"""The text of tunings on instructions: conversations as tokens, one a document, and sums over those about one module."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from transformers import PreTrainedTokenizerFast

from limbeck.corpora import TokenStore, build_stores
from limbeck.papers.lab.instructions import TEMPLATE, write_instructions


def write_conversations(folder: Path, tokenizer: PreTrainedTokenizerFast, *, modules: int | None) -> None:
    """Writes the instructions of ``modules`` modules (None: all) into a folder, as text and as tokens, if they are not there."""
    learn, held_out = write_instructions(folder / "text", modules=modules)
    build_stores(str(learn), tokenizer, folder / "data", eval_source=str(held_out))


def chat_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in a folder, with the template of the conversations."""
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def store_of(folder: Path, side: str) -> TokenStore:
    """The conversations of a side ("train" or "held_out") as tokens."""
    return TokenStore.open(folder / "data" / side)


def held_out_conversations(folder: Path) -> list[dict[str, Any]]:
    """The held-out conversations, in the order of their file."""
    lines = (folder / "text" / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def lines_of(store: TokenStore) -> list[int]:
    """The number of each document's line in the file of conversations."""
    return [int(store.name_of(i).rpartition(":")[2]) - 1 for i in range(store.documents)]


def sums_by_module(
    modules: Sequence[str], lines: Sequence[int], sums: Float[np.ndarray, "lines n"]
) -> Float[np.ndarray, "modules n"]:
    """Sums by module, in the order of their names. ``lines`` are the conversations summed, and ``modules`` those of all."""
    number = {name: i for i, name in enumerate(sorted(set(modules)))}
    found = np.zeros((len(number), sums.shape[1]))
    np.add.at(found, np.array([number[modules[line]] for line in lines], dtype=int), sums)
    return found

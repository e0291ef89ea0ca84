"""Tiny models and token stores that tests share. Nothing here is trained."""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, PreTrainedTokenizerFast

from limbeck.corpora import TokenStore, build_stores, train_tokenizer
from limbeck.models.build import new_model
from limbeck.models.language_model import LanguageModel
from limbeck.models.save import save
from limbeck.types import Batch

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "while",
    "one",
    "dog",
    "ran",
    "past",
    "two",
    "red",
    "birds",
    "that",
    "sang",
    "of",
    "rain",
    "and",
    "sun",
]


def texts(count: int = 120, *, seed: int = 0) -> list[str]:
    """Documents of random words, of 5 to 60 words."""
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, size=generator.integers(5, 60))) for _ in range(count)]


def tokenizer(vocab: int = 300) -> PreTrainedTokenizerFast:
    return train_tokenizer(texts(), vocab=vocab)


def llama(
    *, layers: int = 2, hidden: int = 32, seed: int = 0, tok: PreTrainedTokenizerFast | None = None, pad: int = 0
) -> LanguageModel:
    """A random Llama; ``pad`` more rows in its head than the tokenizer has tokens."""
    tok = tok or tokenizer()
    config = LlamaConfig(
        vocab_size=len(tok) + pad,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.2,  # far from uniform, so that models differ visibly
        bos_token_id=tok.bos_token_id,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
    )
    return new_model(config, tok, seed, name=f"llama{layers}x{hidden}")


def frozen(model: LanguageModel) -> LanguageModel:
    model.model.eval().requires_grad_(False)
    return model


def write_teacher(folder: Path, *, seed: int = 0) -> Path:
    """A model folder ``teacher``: a random Llama of three layers."""
    save(llama(layers=3, hidden=48, seed=seed, tok=tokenizer()), folder / "teacher")
    return folder / "teacher"


def write_corpus(folder: Path, count: int = 120) -> Path:
    """A JSON-lines file of documents, written once: stores are rebuilt when their source changes."""
    file = folder / "text.jsonl"
    if file.exists():
        return file
    file.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts(count)), encoding="utf-8")
    return file


def write_asked(folder: Path) -> Path:
    """A JSON-lines file of prompts with completions."""
    rows = [{"prompt": text[:20], "completion": text[20:60]} for text in texts(150, seed=5)]
    file = folder / "asked.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def stores(folder: Path, tok: PreTrainedTokenizerFast) -> tuple[TokenStore, TokenStore]:
    return build_stores(str(write_corpus(folder)), tok, folder / "data", fraction=0.2)


def batch(rows: int = 3, length: int = 16, *, vocab: int = 300, seed: int = 0) -> Batch:
    """Random tokens with document boundaries and some weights at 0."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(vocab, (rows, length + 1), generator=generator)
    cut = torch.randint(1, length, (rows, 1), generator=generator)
    t = torch.arange(length)[None]
    return Batch(
        tokens=tokens[:, :-1],
        targets=tokens[:, 1:],
        weight=(torch.rand(rows, length, generator=generator) > 0.3).float(),
        position=torch.where(t < cut, t, t - cut),
        document=(torch.arange(rows)[:, None] * 2 + (t >= cut)).long(),
        row=torch.arange(rows),
    )

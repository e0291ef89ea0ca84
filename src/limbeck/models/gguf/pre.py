"""How text is split before byte pair encoding: the names that GGUF files have for it, and the same in `tokenizers`.

A vocabulary is right only with the split that it was learned with. Many of these differ on few strings (blanks or line breaks
before digits, contractions in capitals, marks), so a wrong one is not noticed. Source: llama.cpp, src/llama-vocab.cpp.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from tokenizers.pre_tokenizers import PreTokenizer


@dataclass(frozen=True)
class Split:
    """One way to split. ``whole_first``: a piece that is a token is taken whole, whatever the merges make of it.

    ``begins``: a text begins with bos where a file does not say. ``single_digits``: no piece has two digits.
    ``composed``: accents are joined to their letters first (NFC), as the models' own tokenizers do; llama.cpp leaves that out.
    """

    make: Callable[[], PreTokenizer]
    whole_first: bool = False
    begins: bool = False
    single_digits: bool = False
    composed: bool = False

    def state(self) -> Any:
        """The pre-tokenizer as tokenizer.json holds it."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = self.make()
        return json.loads(tokenizer.to_str())["pre_tokenizer"]


def _words() -> PreTokenizer:
    """GPT-2's own."""
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _digits_and_words() -> PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _words()])


def _by(pattern: str) -> Callable[[], PreTokenizer]:
    return lambda: pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def _cl100k(*, digits: str, letters: str = r"\p{L}") -> str:
    """The pattern of tiktoken's cl100k, with ``digits`` and ``letters`` as the model at hand has them."""
    inside = letters.strip("[]")
    marks = f"[^\\s{inside}\\p{{N}}]"
    return rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?{letters}+|{digits}| ?{marks}+[\r\n]*|{_BLANKS}"


def _cased(*, digits: str, after: str) -> str:
    """The pattern of tiktoken's o200k: words split where small letters are followed by capitals."""
    large, small = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    start = r"[^\r\n\p{L}\p{N}]?"
    return (
        rf"{start}{large}*{small}+{after}|{start}{large}+{small}*{after}|{digits}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_BLANKS}"
    )


_GPT2 = Split(_words)
_STARCODER = Split(_digits_and_words, single_digits=True)
_LLAMA3_PATTERN = _cl100k(digits=r"\p{N}{1,3}")
_LLAMA3 = Split(_by(_LLAMA3_PATTERN), whole_first=True, begins=True)
_DBRX = Split(_by(_LLAMA3_PATTERN))
_QWEN2 = Split(_by(_cl100k(digits=r"\p{N}")), single_digits=True, composed=True)
_QWEN35 = Split(_by(_cl100k(digits=r"\p{N}", letters=r"[\p{L}\p{M}]")), single_digits=True, composed=True)
_GPT4O = Split(_by(_cased(digits=r"\p{N}{1,3}", after=f"{_SHORT}?")))
_TEKKEN = Split(_by(_cased(digits=r"\p{N}", after="")), whole_first=True, begins=True, single_digits=True)

SPLITS: Mapping[str, Split] = {
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "gigachat"), _GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _STARCODER),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"), _LLAMA3
    ),
    **dict.fromkeys(("dbrx", "smaug-bpe"), _DBRX),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "kormo"), _QWEN2),
    "qwen35": _QWEN35,
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2"), _GPT4O),
    "tekken": _TEKKEN,
}


def name_of(state: Mapping[str, Any]) -> str | None:
    """The name for the split of a tokenizer.json, None where a GGUF file has none for it.

    A split has several names, which mean the same; this gives the first.
    """
    whole_first = bool(state["model"].get("ignore_merges"))
    return next(
        (
            name
            for name, split in SPLITS.items()
            if split.whole_first == whole_first and split.state() == state["pre_tokenizer"]
        ),
        None,
    )

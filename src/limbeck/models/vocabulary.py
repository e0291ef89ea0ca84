"""How many tokens a tokenizer and a model have in common: one count, for everything that is as wide as a vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from limbeck.errors import Mismatch


def ids_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The highest id of a tokenizer, plus 1. More than its tokens where their ids have gaps, which some leave for later ones."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def without_row(tokenizer: PreTrainedTokenizerBase, rows: int) -> dict[int, str]:
    """The tokens for which a model with so many rows has none, by id; Gemma's ``<image_soft_token>`` is one of a text model."""
    return {i: token for token, i in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]) if i >= rows}


def any_text_reaches(tokenizer: PreTrainedTokenizerBase, tokens: dict[int, str]) -> bool:
    """Whether some of these can come of any text, or around every text, rather than only where a text spells one out."""
    added = tokenizer.added_tokens_decoder
    return any(i not in added or i in (tokenizer.bos_token_id, tokenizer.eos_token_id) for i in tokens)


def require_rows_of(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], vocab: int, *, where: str) -> None:
    """Raises Mismatch where a text holds a token for which a model has no row; ``where`` names the text."""
    beyond = next((token for token in tokens if token >= vocab), None)
    if beyond is not None:
        raise Mismatch(
            f"{where}: holds the token {tokenizer.convert_ids_to_tokens(beyond)!r} (id {beyond}), and the model has rows for "
            f"{vocab} alone: take it out of the text"
        )

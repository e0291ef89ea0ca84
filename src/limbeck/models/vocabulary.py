"""The vocabulary size that a tokenizer and a model share, and tokens for which a model has no row."""

from __future__ import annotations

from collections.abc import Sequence

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from limbeck.errors import Mismatch


def ids_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The highest id of a tokenizer plus 1. This exceeds the number of tokens where ids have gaps."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def without_row(tokenizer: PreTrainedTokenizerBase, rows: int) -> dict[int, str]:
    """Id → token, for tokens without a row in a head of ``rows`` rows. Gemma's ``<image_soft_token>`` in a text model is one."""
    return {i: token for token, i in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]) if i >= rows}


def any_text_reaches(tokenizer: PreTrainedTokenizerBase, tokens: dict[int, str]) -> bool:
    """Whether ordinary text can contain one of these ``tokens``, or every text begins or ends with one.

    False where they occur only in a text that spells them out.
    """
    added = tokenizer.added_tokens_decoder
    return any(i not in added or i in (tokenizer.bos_token_id, tokenizer.eos_token_id) for i in tokens)


def require_rows_of(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], vocab: int, *, where: str) -> None:
    """Raises Mismatch where a text contains a token for which the model has no row. ``where`` names the text."""
    beyond = next((token for token in tokens if token >= vocab), None)
    if beyond is not None:
        raise Mismatch(
            f"{where}: contains the token {tokenizer.convert_ids_to_tokens(beyond)!r} (id {beyond}), but the model has rows only "
            f"for {vocab} tokens; remove it from the text"
        )

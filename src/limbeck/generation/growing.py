"""The text of a completion while it grows, without decoding all of it at each token."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_INCOMPLETE = "\ufffd"  # what stands for the bytes of a character that is not there whole
_MOST = 16  # tokens that wait for the rest of a character; one of four bytes takes four at most


class GrowingText:
    """The text that generated tokens add to that of a prompt.

    A token alone does not say its text: a character may take several, and SentencePiece leaves out the space at the beginning.
    So the last tokens are decoded together with those that came before them, and what is added is the difference. A token is
    decoded twice at most, unless it is a part of a character.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt)
        self._from, self._read = 0, len(prompt)  # tokens that are decoded, of which the text before `_read` is known
        self._before = self._decoded(0)
        self._done = ""

    def add(self, token: int) -> str:
        """The text with one more token. The bytes of an incomplete character at its end are left out."""
        self._ids.append(token)
        found = self._decoded(self._from)
        if not found.startswith(self._before):
            if found.endswith(_INCOMPLETE) and len(self._ids) - self._read < _MOST:
                return self._done  # as the bytes of one run, in which a character is not there whole
            self._from, self._before = self._read, ""
            found = self._decoded(self._from)
        more = found[len(self._before) :]
        if more.endswith(_INCOMPLETE) and len(self._ids) - self._read < _MOST:
            return self._done + more.rstrip(_INCOMPLETE)
        self._done += more
        start, self._read, self._before = self._read, len(self._ids), found
        if before := self._decoded(start):  # a special token has no text, and would leave out the space after it
            self._from, self._before = start, before
        return self._done.rstrip(_INCOMPLETE)

    def _decoded(self, start: int) -> str:
        ids = self._ids[start:]
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

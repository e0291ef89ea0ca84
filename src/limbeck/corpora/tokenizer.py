"""Text to tokens: training a tokenizer, and what opens and closes a document.

Surprising: many models were never trained on their own end token. The small TinyStories models see the end of a story
as the next ``<s>``, so a student that is to stop like its teacher must learn that one. `frame` holds the rule.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from limbeck.corpora.encode import Ids, encoded
from limbeck.errors import BadSetting

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
BYTES = 256

# How texts become tokens: another number where the same text becomes other tokens than it did, so that stores are made again.
# 2: nothing is put around a text that has it already; a turn ends at the token that ends it, whatever it is called; fields of
# records and nulls of tables are read as `records` says.
READING = 2


@dataclass(frozen=True)
class Frame:
    """The token that opens a document, never predicted, and the one that closes it, learned; None: there is none."""

    begin: int | None
    end: int | None

    def lacks(self, tokens: Ids) -> tuple[bool, bool]:
        """Whether the opening and the closing token are still to be put around some tokens.

        A text that a chat template wrote has them already, spelled out; a second one would be a sign no model was trained on.
        """
        some = len(tokens) > 0
        begin = self.begin is not None and not (some and tokens[0] == self.begin)
        return begin, self.end is not None and not (some and tokens[-1] == self.end)

    def around(self, tokens: Ids) -> Ids:
        """The tokens with what is still to be put around them."""
        begin, end = self.lacks(tokens)
        before, after = [self.begin] if begin else [], [self.end] if end else []
        return np.concatenate([np.array(before, np.uint32), tokens, np.array(after, np.uint32)])


def frame(tokenizer: PreTrainedTokenizerBase, *, end: int | None = None) -> Frame:
    """What stands around every text: the tokenizer's bos and its eos, each where there is one.

    ``end`` closes documents instead of eos. Give it where the model stops at another token: at bos, if the
    ``eos_token_id`` of its generation_config.json is a list that holds bos, as for models that were trained on texts
    separated by bos alone. Conversations have no frame: their template writes it.
    """
    return Frame(tokenizer.bos_token_id, tokenizer.eos_token_id if end is None else end)


def document_tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str], *, frame: Frame) -> list[list[int]]:
    """The framed tokens of each text. Special tokens spelled out in a text are read as such, as everywhere.

    One that begins with what opens it, or ends with what closes it, is not given that again.
    """
    found: list[list[int]] = [frame.around(tokens).tolist() for tokens in encoded(tokenizer, texts)]
    return found


def train_tokenizer(texts: Iterable[str], *, vocab: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most ``vocab`` tokens that gives every text back exactly.

    Byte pair encoding after Sennrich et al. (arXiv 1508.07909) over bytes, cut into words as GPT-2 does: a line break
    and the indentation after it are one piece and can become one token, which is half of Python source. ``vocab`` holds
    the 256 bytes and ``<|bos|> <|eos|> <|pad|>``; a small corpus may fill less of it.
    """
    least = BYTES + 3
    if vocab < least:
        raise BadSetting(
            f"expected a vocabulary of at least {least} tokens (256 bytes and 3 special ones), got {vocab}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts if vocab > least else (), trainer)  # of bytes alone there is nothing to learn
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    )


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of all that decides which tokens a text or conversation becomes."""
    if tokenizer.is_fast:
        state: Any = json.loads(tokenizer.backend_tokenizer.to_str())
        state.update(truncation=None, padding=None)  # set by whoever called it last, and no part of the mapping
    else:
        state = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    content = json.dumps([state, tokenizer.chat_template], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()

"""Trains tokenizers, converts texts to tokens, and adds the tokens that open and close a document.

Many models were never trained on their own end token. The small TinyStories models see the end of a story as the next ``<s>``,
so a student must learn that token to stop like its teacher. `frame` contains the rule.
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

# The version of the conversion from texts to tokens. It changes where the same text gives other tokens, so that stores are
# rebuilt. 2: opening and closing tokens that a text already has are not added again; a turn ends at its end token, whatever that
# is called; fields of records and nulls of tables are read as in `records`.
READING = 2


@dataclass(frozen=True)
class Frame:
    """The token that opens a document and is never predicted, and the one that closes it and is learned; None where absent."""

    begin: int | None
    end: int | None

    def lacks(self, tokens: Ids) -> tuple[bool, bool]:
        """Whether some tokens lack the opening token, and whether they lack the closing one.

        A text from a chat template already has them. No model was trained on doubled ones.
        """
        some = len(tokens) > 0
        begin = self.begin is not None and not (some and tokens[0] == self.begin)
        return begin, self.end is not None and not (some and tokens[-1] == self.end)

    def around(self, tokens: Ids) -> Ids:
        """The tokens with the opening and closing tokens that they lack."""
        begin, end = self.lacks(tokens)
        before, after = [self.begin] if begin else [], [self.end] if end else []
        return np.concatenate([np.array(before, np.uint32), tokens, np.array(after, np.uint32)])


def frame(tokenizer: PreTrainedTokenizerBase, *, end: int | None = None) -> Frame:
    """The tokens around every text: the tokenizer's bos and eos, where they exist.

    ``end`` closes documents instead of eos. Give it where the model stops at another token. That is bos where the
    ``eos_token_id`` in generation_config.json is a list with bos, as for models trained on texts separated by bos alone.
    Conversations have no frame, because their chat template writes one.
    """
    return Frame(tokenizer.bos_token_id, tokenizer.eos_token_id if end is None else end)


def document_tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str], *, frame: Frame) -> list[list[int]]:
    """The tokens of each text with its frame. Special tokens spelled out in a text are read as special tokens.

    Opening and closing tokens that a text already has are not added again.
    """
    found: list[list[int]] = [frame.around(tokens).tolist() for tokens in encoded(tokenizer, texts)]
    return found


def train_tokenizer(texts: Iterable[str], *, vocab: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most ``vocab`` tokens that decodes every text exactly.

    Byte pair encoding (Sennrich et al., arXiv 1508.07909) over bytes, split into words as in GPT-2. A line break and the
    indentation after it are one piece and can become one token, which helps with Python source. The vocabulary includes the
    256 bytes and ``<|bos|> <|eos|> <|pad|>``; a small corpus may fill less of it. Raises BadSetting where ``vocab`` < 259.
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
    tokenizer.train_from_iterator(
        texts if vocab > least else (), trainer
    )  # a vocabulary of bytes alone needs no training
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    )


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of a tokenizer's state and chat template, which decide the tokens of a text or conversation."""
    if tokenizer.is_fast:
        state: Any = json.loads(tokenizer.backend_tokenizer.to_str())
        state.update(truncation=None, padding=None)  # set by the last caller, and not part of the mapping
    else:
        state = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    content = json.dumps([state, tokenizer.chat_template], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()

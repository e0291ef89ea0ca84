"""The doctor's checks of the tokenizers: vocabulary, special tokens, chat template, coverage of the data.

Two models of one family may have heads with different numbers of rows (Qwen 2.5: 151,936 and 152,064) and still share a
vocabulary. Rows beyond the tokenizer's tokens are padding and never used; the tokens must agree.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from limbeck.models.language_model import LanguageModel
from limbeck.models.vocabulary import without_row
from limbeck.planning.checks.finding import Finding
from limbeck.planning.cost.size import Size

_LOOKED_AT = 2**16  # characters of each text
_LARGE, _MANY = 1 / 3, 4096  # share of a student's parameters, and tokens, from which on trimming is suggested
_LOST = 0.02  # share of characters lost by encoding and decoding, above which there is a warning


def tokens_of_pair(teacher: LanguageModel, student: LanguageModel) -> Iterator[Finding]:
    """Whether both tokenizers have the same ids, and split text in the same way."""
    theirs, ours = teacher.tokenizer.get_vocab(), student.tokenizer.get_vocab()
    different = [token for token in {**theirs, **ours} if theirs.get(token) != ours.get(token)]
    if different:
        common = len(theirs.keys() | ours.keys()) - len(different)
        yield Finding(
            "vocabulary",
            "error",
            f"the teacher's tokenizer ({teacher.name}) has {len(theirs):,} tokens and the student's ({student.name}) "
            f"{len(ours):,}, of which {common:,} {'is' if common == 1 else 'are'} the same with the same id; the first that "
            f"differ: {_first(different, theirs, ours)}",
            "use a student with the teacher's tokenizer, or prune one from the teacher (--params, --shrink), or align the two "
            "by bytes: distil --tokenizer-align bytes --objective 'CrossEntropy + ALM'; or by tokens that both have: distil "
            "--tokenizer-align tokens",
        )
        return
    yield Finding("vocabulary", "ok", f"{len(theirs)} tokens, the same ids in both")
    if _splitting(teacher.tokenizer) != _splitting(student.tokenizer):
        yield Finding(
            "vocabulary",
            "warning",
            f"student {student.name} has the teacher's tokens, but splits text in another way (merges, normaliser or "
            "pre-tokeniser differ)",
            "the data are encoded with the teacher's tokenizer: save it into the student's folder",
        )


def embeddings(size: Size) -> Iterator[Finding]:
    """Whether embedding and head are more than a third of a student, of so many tokens that trimming them could help."""
    matrices = size.rows * size.hidden * (1 if size.head == 0 else 2)
    if size.rows >= _MANY and matrices > _LARGE * size.parameters:
        yield Finding(
            "embeddings",
            "warning",
            f"{matrices / size.parameters:.0%} of the student's {size.parameters:,} parameters are embeddings, of {size.rows:,} "
            "tokens",
            "--vocab auto keeps the tokens that the text uses and trims the others off teacher and student; limbeck doctor with "
            "--vocab auto says how many stay",
        )


def _first(different: list[str], theirs: dict[str, int], ours: dict[str, int]) -> str:
    """The first three tokens, by id, that are not the same in both."""
    by_id = sorted(different, key=lambda token: min(theirs.get(token, 2**63), ours.get(token, 2**63)))
    return ", ".join(f"{token!r} ({_id(theirs, token)}, {_id(ours, token)})" for token in by_id[:3])


def _id(vocabulary: dict[str, int], token: str) -> str:
    return f"id {vocabulary[token]}" if token in vocabulary else "absent"


def _splitting(tokenizer: PreTrainedTokenizerBase) -> Any:
    """The normaliser, pre-tokeniser and merges of a tokenizer; None if it is not a fast one."""
    if not tokenizer.is_fast:
        return None
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return state["normalizer"], state["pre_tokenizer"], state["model"].get("merges")


def rows(teacher: LanguageModel, student: LanguageModel | None) -> Iterator[Finding]:
    """How many rows of each head are padding, and which tokens have no row."""
    for model in filter(None, (teacher, student)):
        height = model.head.weight.shape[0]
        if beyond := without_row(model.tokenizer, height):
            yield Finding(
                "head",
                "warning",
                f"{model.name}: {height} rows, none for {len(beyond)} of the tokens of its tokenizer "
                f"({', '.join(list(beyond.values())[:3])})",
                "fine as long as no text contains these tokens; a text that does is refused",
            )
        if height > model.vocab:
            yield Finding(
                "head",
                "ok",
                f"{model.name}: {height} rows for {model.vocab} tokens; the {height - model.vocab} rows of padding are "
                "excluded on both sides",
            )


def special_tokens(teacher: LanguageModel, student: LanguageModel | None) -> Iterator[Finding]:
    """Whether each model has tokens for the beginning and end of a document, and both models the same."""
    for model in filter(None, (teacher, student)):
        yield from _ending(model)
    if student is None:
        return
    for kind in ("bos", "eos"):
        theirs, ours = (getattr(model.tokenizer, f"{kind}_token") for model in (teacher, student))
        if theirs != ours:
            yield Finding(
                kind.upper(),
                "warning",
                f"teacher {teacher.name} has {theirs!r}, student {student.name} {ours!r}, as is usual between an "
                "instructed model and a base one; documents begin and end with the teacher's tokens, so the student will "
                "not stop where it is trained to",
                f"set tokenizer.{kind}_token and generation_config.{kind}_token_id of the student to the teacher's "
                "and save it again",
            )
    stops = [_stops(model) for model in (teacher, student)]
    if stops[0] != stops[1]:
        yield Finding(
            "EOS",
            "warning",
            f"generation stops at {stops[0]} for teacher {teacher.name}, at {stops[1]} for student {student.name}",
            "copy the teacher's generation_config.json into the student's folder",
        )


def _ending(model: LanguageModel) -> Iterator[Finding]:
    tokenizer = model.tokenizer
    pad = (
        "no pad token: packed rows need none" if tokenizer.pad_token is None else f"pad {tokenizer.pad_token!r} unused"
    )
    if model.end is None:
        yield Finding(
            "EOS",
            "warning",
            f"{model.name}: its tokenizer has no end-of-document token, so no student learns to stop ({pad})",
            "fine for text without an end; else add an eos_token to the tokenizer and train the teacher on it",
        )
        return
    stops = _stops(model)
    if model.end not in stops:
        yield Finding(
            "EOS",
            "warning",
            f"{model.name}: documents end with {_token(tokenizer, model.end)}, generation stops at {stops or 'none'}",
            f"set generation_config.eos_token_id to include {model.end} and save the model again",
        )
        return
    opening = "none" if tokenizer.bos_token is None else _token(tokenizer, tokenizer.bos_token_id)
    yield Finding(
        "special tokens",
        "ok",
        f"{model.name}: documents begin with {opening}, end with {_token(tokenizer, model.end)}; {pad}",
    )


def _token(tokenizer: PreTrainedTokenizerBase, identity: int) -> str:
    return f"{tokenizer.convert_ids_to_tokens(identity)!r} (id {identity})"


def _stops(model: LanguageModel) -> list[int]:
    """Ids at which generation stops, sorted."""
    generation = model.model.generation_config
    stops = None if generation is None else generation.eos_token_id
    if stops is None:
        return []
    return sorted(stops) if isinstance(stops, list) else [stops]


def chat_template(teacher: LanguageModel, student: LanguageModel | None) -> Iterator[Finding]:
    """Whether the teacher has a chat template, and the student the same one."""
    theirs = teacher.tokenizer.chat_template
    if theirs is None:
        yield Finding(
            "chat template",
            "error",
            f"the data are conversations, and the tokenizer of teacher {teacher.name} has no chat template for them",
            "use an instructed teacher, or give the data as plain 'text'",
        )
        return
    ours = theirs if student is None else student.tokenizer.chat_template
    if ours != theirs:
        assert student is not None
        came = "none" if ours is None else f"another, {_hash(ours)}"
        yield Finding(
            "chat template",
            "warning",
            f"teacher {teacher.name} writes conversations by template {_hash(theirs)}; student {student.name}: {came}",
            "training uses the teacher's; save the teacher's tokenizer with the student, or its completions will be worse",
        )
        return
    yield Finding(
        "chat template", "ok", f"{_hash(theirs)}, the teacher's" + ("" if student is None else " and student's")
    )


def one_template(first: LanguageModel, other: LanguageModel) -> Iterator[Finding]:
    """A warning where another teacher of the same student has another chat template than the first, which writes the text."""
    ours, theirs = first.tokenizer.chat_template, other.tokenizer.chat_template
    if ours != theirs:
        came = "has none" if theirs is None else f"has {_hash(theirs)}"
        yield Finding(
            "chat template",
            "warning",
            f"conversations are written by the template of teacher {first.name}, {_hash(ours)}, and {other.name} {came}",
            "its distributions are those of text that it was not trained on: take teachers of one template, or name first the "
            "one whose template the student should have",
        )


def _hash(template: Any) -> str:
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:12]


def coverage(teacher: LanguageModel, texts: Sequence[str]) -> Iterator[Finding]:
    """The share of characters that encoding and decoding lose. Blanks are left out, since some tokenizers join them."""
    if not texts:
        return
    texts = [text[:_LOOKED_AT] for text in texts]
    named = sorted({*teacher.tokenizer.all_special_tokens, *teacher.tokenizer.get_added_vocab()}, key=len, reverse=True)
    if named:  # special tokens in a text are encoded as such, and are not lost characters
        texts = [re.sub("|".join(map(re.escape, named)), "", text) for text in texts]
    tokens = teacher.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    read = Counter("".join("".join(texts).split()))
    back = Counter("".join("".join(teacher.tokenizer.batch_decode(tokens, skip_special_tokens=True)).split()))
    lost = read - back
    share = lost.total() / max(1, read.total())
    size = len("".join(texts).encode()) / max(1, sum(map(len, tokens)))
    if share > _LOST:
        most = ", ".join(repr(character) for character, _ in lost.most_common(5))
        yield Finding(
            "data",
            "error" if share > 0.5 else "warning",
            f"teacher {teacher.name} has no tokens for {share:.0%} of the characters of the data ({most})",
            "take a teacher trained on such text, or clean the data",
        )
        return
    yield Finding(
        "data", "ok", f"{size:.2f} bytes a token in {len(texts)} documents; {share:.1%} of the characters lost"
    )

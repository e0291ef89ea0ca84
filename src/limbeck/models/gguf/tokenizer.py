"""The tokenizer of a GGUF file, for Transformers: byte-level BPE (``gpt2``) and SentencePiece's BPE (``llama``).

Merges of SentencePiece are not in a file. Any two neighbours that make a token may merge, the highest score first; a list of
all such pairs in order of the scores does the same. Source: llama.cpp, src/llama-vocab.cpp; google/sentencepiece, bpe_model.cc.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from limbeck.errors import BadModel, first_line
from limbeck.models.gguf.container import Gguf
from limbeck.models.gguf.pre import SPLITS, Split

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_SPACE = "\u2581"
# What ends a turn and a message, by text, where a file names none: as llama.cpp finds it (src/llama-vocab.cpp).
_ENDS = {
    "eot": ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<EOT>", "_<EOT>", "<end_of_utterance>"),
    "eom": ("<|eom_id|>",),
}
_OF_MESSAGES = "<|return|>"  # where a turn ends so, <|end|> ends a message of several
_LLAMA_IDS = {"bos": 1, "eos": 2, "unknown": 0}  # of a SentencePiece vocabulary that does not say


@dataclass(frozen=True)
class Vocabulary:
    """Tokens of a file with their types, and the ids of special ones by kind (bos, eos, eot, eom, unknown, padding)."""

    tokens: Sequence[str]
    types: Sequence[int]
    ids: dict[str, int]
    kind: str

    @property
    def named_ids(self) -> dict[str, int | None]:
        """The ids of a configuration by key; None where the file has none."""
        names = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
        return {key: self.ids.get(name) for key, name in names.items()}

    @property
    def stops(self) -> list[int]:
        """Ids at which generation stops, ascending: the ends of a text, a turn and a message."""
        return sorted({self.ids[name] for name in ("eos", "eot", "eom") if name in self.ids})


def read_vocabulary(file: Gguf) -> Vocabulary:
    """The tokens of a file. Raises BadModel where there are none, some are twice, or their number is not the embedding's."""
    get = file.metadata.get
    tokens, kind = get("tokenizer.ggml.tokens"), get("tokenizer.ggml.model")
    if not isinstance(tokens, list) or not tokens:
        raise BadModel(
            f"{file.path}: expected a tokenizer, found no tokenizer.ggml.tokens; give a file that holds its own"
        )
    if len(tokens) != file.rows:
        raise BadModel(
            f"{file.path}: the tokenizer has {len(tokens):,} tokens, the embedding token_embd.weight {file.rows:,} rows: they do "
            "not belong together; give another file"
        )
    twice = [token for token, count in Counter(tokens).items() if count > 1]
    if twice:
        raise BadModel(
            f"{file.path}: {len(twice)} tokens are twice in the vocabulary, {twice[0]!r} first; give another file"
        )
    types = get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise BadModel(f"{file.path}: {len(tokens):,} tokens and {len(types):,} types of tokens; copy the file again")
    ids = dict(_LLAMA_IDS) if kind == "llama" else {}
    for name in ("bos", "eos", "eot", "eom", "unknown", "padding"):
        identity = get(f"tokenizer.ggml.{name}_token_id")
        if identity is not None:
            ids[name] = int(identity)
    for name, identity in ids.items():
        if not 0 <= identity < len(tokens):
            raise BadModel(
                f"{file.path}: tokenizer.ggml.{name}_token_id is {identity}, of {len(tokens):,} tokens; give another file"
            )
    ends = _ends(tokens, ids)
    types = [CONTROL if identity in ends.values() else one for identity, one in enumerate(types)]
    return Vocabulary(tokens, types, ids | ends, str(kind))


def _ends(tokens: Sequence[str], ids: Mapping[str, int]) -> dict[str, int]:
    """The ends of a turn and of a message that a file does not name, by their texts."""
    found, places = {}, {token: identity for identity, token in enumerate(tokens)}
    for name, texts in _ENDS.items():
        there = [text for text in texts if text in places and not (text == "<|end|>" and _OF_MESSAGES in places)]
        if name not in ids and there:
            found[name] = places[there[0]]
    return found


def read_tokenizer(file: Gguf, vocabulary: Vocabulary) -> PreTrainedTokenizerFast:
    """The tokenizer with chat template and special tokens. Raises BadModel for a kind or a split that limbeck does not have."""
    makers = {"gpt2": _byte_level, "llama": _sentencepiece}
    if vocabulary.kind not in makers:
        raise BadModel(
            f"{file.path}: the tokenizer is of kind {vocabulary.kind!r}, limbeck reads {' and '.join(makers)}; give the original "
            "model's folder"
        )
    try:
        tokenizer, begins = makers[vocabulary.kind](file, vocabulary)
    except BadModel:
        raise
    except Exception as error:  # the Rust side raises bare Exception, such as for a merge of tokens that are not there
        raise BadModel(
            f"{file.path}: its tokenizer cannot be built ({first_line(error)}); give another file"
        ) from error
    named = _named(vocabulary)
    _frame(tokenizer, vocabulary, begins=begins, ends=bool(file.metadata.get("tokenizer.ggml.add_eos_token", False)))
    template = file.metadata.get("tokenizer.chat_template")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        clean_up_tokenization_spaces=False,
        chat_template=template if isinstance(template, str) else None,
        **named,
    )


def _named(vocabulary: Vocabulary) -> dict[str, str]:
    """bos_token and the like. An unknown token of byte-level BPE is none where it is an ordinary one."""
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    kept = {name: identity for name, identity in vocabulary.ids.items() if name in names}
    special = (UNKNOWN, CONTROL)
    if vocabulary.kind == "gpt2" and vocabulary.types[kept.get("unknown", 0)] not in special:
        kept.pop("unknown", None)
    return {names[name]: vocabulary.tokens[identity] for name, identity in kept.items()}


def split_of(file: Gguf) -> Split:
    """How the file's text is split. Raises BadModel for a name that limbeck does not know, or none."""
    name = file.metadata.get("tokenizer.ggml.pre", "gpt-2" if file.architecture == "gpt2" else "default")
    if name not in SPLITS:
        raise BadModel(
            f"{file.path}: its text is split in a way called {name!r} (tokenizer.ggml.pre), limbeck knows {', '.join(SPLITS)}; "
            "give the original model's folder, since another split would make other tokens"
        )
    return SPLITS[name]


def _byte_level(file: Gguf, vocabulary: Vocabulary) -> tuple[Tokenizer, bool]:
    split = split_of(file)
    merges = [tuple(merge.split(" ", 1)) for merge in file.metadata.get("tokenizer.ggml.merges") or ()]
    ids = {token: identity for identity, token in enumerate(_without_padding(vocabulary))}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, ignore_merges=split.whole_first))
    tokenizer.pre_tokenizer = split.make()
    if split.composed:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    _add(tokenizer, vocabulary, ids)
    return tokenizer, bool(file.metadata.get("tokenizer.ggml.add_bos_token", split.begins))


def _sentencepiece(file: Gguf, vocabulary: Vocabulary) -> tuple[Tokenizer, bool]:
    tokens = [_spelled(token) for token in _without_padding(vocabulary)]
    ids = {token: identity for identity, token in enumerate(tokens)}
    gemma = file.architecture.startswith("gemma")  # its merges are in order of ids, not of scores
    scores: Sequence[float] = file.metadata.get("tokenizer.ggml.scores") or ()
    if not gemma and len(scores) < len(tokens):
        raise BadModel(f"{file.path}: expected a score for each token, found {len(scores)}; give another file")
    ranks = [-float(identity) for identity in range(len(tokens))] if gemma else scores
    merges = _merges(tokens, vocabulary.types, ranks)
    unknown = tokens[vocabulary.ids["unknown"]]
    bytes_too = sum(kind == BYTE for kind in vocabulary.types) == 256
    tokenizer = Tokenizer(
        models.BPE(vocab=ids, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=bytes_too)
    )
    prefix = bool(file.metadata.get("tokenizer.ggml.add_space_prefix", not gemma))
    first = [normalizers.Prepend(_SPACE)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*first, normalizers.Replace(" ", _SPACE)])
    last = [decoders.Strip(content=" ", left=1, right=0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *last]
    )
    _add(tokenizer, vocabulary, ids)
    return tokenizer, bool(file.metadata.get("tokenizer.ggml.add_bos_token", True))


def _spelled(token: str) -> str:
    """A token of blanks as the vocabulary has it; some files hold the blanks themselves."""
    return _SPACE * len(token) if len(token) > 1 and not token.strip(" ") else token


def _without_padding(vocabulary: Vocabulary) -> Sequence[str]:
    """The tokens without unused ones at the end, by which a converter fills up the rows of the embedding."""
    last = len(vocabulary.tokens)
    while last and vocabulary.types[last - 1] == UNUSED:
        last -= 1
    return vocabulary.tokens[:last]


def _merges(tokens: Sequence[str], types: Sequence[int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """All pairs of tokens that make a token, the best scores first; of one token the pair with the longest left part first."""
    known = {token for token, kind in zip(tokens, types, strict=False) if kind in (NORMAL, USER_DEFINED, UNUSED)}
    found = [
        (-score, -cut, token)
        for token, kind, score in zip(tokens, types, scores, strict=False)
        if kind in (NORMAL, USER_DEFINED)
        for cut in range(1, len(token))
        if token[:cut] in known and token[cut:] in known
    ]
    found.sort(key=lambda item: item[:2])
    return [(token[:-cut], token[-cut:]) for _, cut, token in found]


def _add(tokenizer: Tokenizer, vocabulary: Vocabulary, ids: Mapping[str, int]) -> None:
    """Marks the tokens that are found whole in a text, before all else: control tokens, and those that the makers added."""
    there = [pair for pair in zip(vocabulary.tokens, vocabulary.types, strict=True) if pair[0] in ids]
    control = [AddedToken(token, special=True, normalized=False) for token, kind in there if kind in (CONTROL, UNKNOWN)]
    others = [AddedToken(token, special=False, normalized=False) for token, kind in there if kind == USER_DEFINED]
    tokenizer.add_special_tokens(control)
    tokenizer.add_tokens(others)


def _frame(tokenizer: Tokenizer, vocabulary: Vocabulary, *, begins: bool, ends: bool) -> None:
    """Puts bos before and eos after a text, where the file says so."""
    wanted = {
        name: vocabulary.ids[name] for name, on in (("bos", begins), ("eos", ends)) if on and name in vocabulary.ids
    }
    if wanted:
        before, after = ([vocabulary.tokens[wanted[name]]] if name in wanted else [] for name in ("bos", "eos"))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*before, "$A", *after],
            pair=[*before, "$A", *before, "$B:1", *after],
            special_tokens=[(vocabulary.tokens[identity], identity) for identity in wanted.values()],
        )


PROBES = (
    "x  12\n\n3 and 4567 of 1,234.56",
    "I'LL don't WE'VE it's\tTabs\t\tand  blanks   before 42\r\n\r\nnext",
    "naïve café, Grüße, señor, e\u0301; 東京で会いました。 мир 🙂 ½ ² ٣",
    "def f(x):\n    return x ** 2  # 10% \u00a0 of it\n\n\n",
    'https://example.org/a_b?c=1&d=%20 <b>CamelCaseWords</b> \\n {"k": [1, 2, 3]}',
)


def lost(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> str | None:
    """The first text that does not come back from its tokens, or whose tokens do not come back from the text; else None.

    Texts with characters that the vocabulary has no bytes for are passed over. Where accents are joined first, the text that
    comes back has them joined.
    """
    composed = isinstance(tokenizer.backend_tokenizer.normalizer, normalizers.NFC)
    for text in texts:
        text = unicodedata.normalize("NFC", text) if composed else text
        ids = encoded(tokenizer, text)
        if not _covered(tokenizer, text, ids):
            continue
        back = tokenizer.decode(ids, skip_special_tokens=False)
        if back != text or encoded(tokenizer, back) != ids:
            return text
    return None


def encoded(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """The tokens of a text without bos and eos."""
    found: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return found


def _covered(tokenizer: PreTrainedTokenizerFast, text: str, ids: Sequence[int]) -> bool:
    vocabulary = tokenizer.get_vocab()
    if _SPACE in vocabulary or f"{_SPACE}a" in vocabulary:  # SentencePiece marks what it does not know
        return tokenizer.unk_token_id not in ids
    symbols = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return all(symbol in vocabulary for piece, _ in symbols for symbol in piece)

"""How three kinds of server are asked for the likeliest outcomes after each token of a prompt, and how they answer.

vLLM (`prompt_logprobs` of /v1/completions), SGLang (its own /generate) and OpenAI's old completions (`echo` with `logprobs`).
All speak of the token at place i given those before it, and say nothing of the first, so whoever wants to know what follows the
last token gives one more. Each answer also names the prompt's own tokens: one that was moved by a place, or is another
question's, is found by them.

Sources: docs.vllm.ai, "OpenAI-Compatible Server" and vllm.logprobs; docs.sglang.io, "Sampling Parameters", "Native APIs";
platform.openai.com, "Create completion".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import msgspec
import numpy as np
from jaxtyping import Bool, Float64, Int64
from transformers import PreTrainedTokenizerBase

from limbeck.models.vocabulary import ids_of
from limbeck.teachers.remote.http import QueryFailed

_ROUNDING = 1e-3  # that probabilities may add up to more than 1: they come in bfloat16 from some servers
_NO_ID = int(np.iinfo(np.int64).min)
_CERTAIN = -(2.0**-24)  # log of the most that is believed of outcomes together, since most send float32


@dataclass(frozen=True)
class ReturnedLogprobs:
    """Outcomes that were told of n places, those of one after those of the other: how many of each, ids, log-probabilities.

    An id is `_NO_ID` where a text does not tell it from others. They are in arrays since an answer has some thousands of them.
    ``own`` are the log-probabilities of the prompt's own tokens, NaN where a server does not give one.
    """

    counts: Int64[np.ndarray, " n"]
    ids: Int64[np.ndarray, " all"]
    log_p: Float64[np.ndarray, " all"]
    own: Float64[np.ndarray, " n"]

    @classmethod
    def of(
        cls, places: Sequence[Any], ids: Iterable[int], log_p: Sequence[float], own: Sequence[float | None]
    ) -> ReturnedLogprobs:
        """Those of places that each have a length. Raises what a wrong form leads to."""
        counts = np.fromiter(map(len, places), np.int64, len(places))
        total = counts.sum()
        return cls(
            counts,
            np.fromiter(ids, np.int64, total),
            np.array(log_p, np.float64).reshape(total),
            np.array(own, np.float64).reshape(len(places)),
        )


class ServerProtocol(Protocol):
    """A kind of server."""

    name: str
    form: Any  # of its answers' JSON, as far as it is read
    with_texts: Mapping[str, Any]  # what to ask besides, so that it also writes the tokens

    def path(self, api: str, root: str) -> str:
        """Where it is asked, from the path of its API and that without the version."""

    def body(self, model: str, prompt: Sequence[int], k: int) -> dict[str, Any]:
        """What it is asked."""

    def outcomes(self, answer: Any, prompt: Sequence[int]) -> ReturnedLogprobs:
        """Outcomes at each place of a prompt but the first. Raises Failed, or whatever a wrong form leads to."""

    def texts(self, answer: Any, prompt: Sequence[int]) -> list[str | None]:
        """How it writes each of the prompt's tokens but the first, None where it does not say."""


class _OfToken(msgspec.Struct, gc=False):
    logprob: float
    decoded_token: str | None = None


class _OfPrompt(msgspec.Struct, gc=False):
    prompt_logprobs: list[dict[int, _OfToken] | None]


class _FromVLLM(msgspec.Struct, gc=False):
    choices: list[_OfPrompt]
    model: str | None = None


class VLLM:
    """vLLM: for each place a mapping from token ids, written as strings, to log-probabilities; the prompt's is among them."""

    name = "vLLM (prompt_logprobs)"
    form = _FromVLLM
    with_texts: Mapping[str, Any] = {}

    def path(self, api: str, root: str) -> str:
        """As `ServerProtocol.path`."""
        return f"{api}/completions"

    def body(self, model: str, prompt: Sequence[int], k: int) -> dict[str, Any]:
        """As `ServerProtocol.body`."""
        return {"model": model, "prompt": list(prompt), "max_tokens": 1, "temperature": 0, "prompt_logprobs": k}

    def outcomes(self, answer: Any, prompt: Sequence[int]) -> ReturnedLogprobs:
        """As `ServerProtocol.outcomes`."""
        places = self._places(answer, prompt)
        _require_own(all(token in place for place, token in zip(places, prompt[1:], strict=True)))
        own = [place[token].logprob for place, token in zip(places, prompt[1:], strict=True)]
        log_p = [one.logprob for place in places for one in place.values()]
        return ReturnedLogprobs.of(places, chain.from_iterable(places), log_p, own)

    def texts(self, answer: Any, prompt: Sequence[int]) -> list[str | None]:
        """As `ServerProtocol.texts`."""
        return [
            place[token].decoded_token for place, token in zip(self._places(answer, prompt), prompt[1:], strict=True)
        ]

    def _places(self, answer: Any, prompt: Sequence[int]) -> list[Mapping[int, _OfToken]]:
        places: list[Mapping[int, _OfToken]] = answer.choices[0].prompt_logprobs
        _require(len(places) == len(prompt), f"it has {len(places)} places of {len(prompt)}")
        return places[1:]


_Triple = tuple[float | None, int, str | None]


class _MetaInfo(msgspec.Struct, gc=False):
    input_token_logprobs: list[_Triple]
    input_top_logprobs: list[list[_Triple] | None]


class _FromSGLang(msgspec.Struct, gc=False):
    meta_info: _MetaInfo
    model: str | None = None


class SGLang:
    """SGLang: for each place a list of [log-probability, token id, text], and one such triple of the prompt's own token."""

    name = "SGLang (/generate)"
    form = _FromSGLang
    with_texts: Mapping[str, Any] = {"return_text_in_logprobs": True}

    def path(self, api: str, root: str) -> str:
        """As `ServerProtocol.path`."""
        return f"{root}/generate"

    def body(self, model: str, prompt: Sequence[int], k: int) -> dict[str, Any]:
        """As `ServerProtocol.body`. The server has one model, so none is named."""
        return {
            "input_ids": list(prompt),
            "sampling_params": {"max_new_tokens": 1, "temperature": 0},
            "return_logprob": True,
            "logprob_start_len": 0,
            "top_logprobs_num": k,
        }

    def outcomes(self, answer: Any, prompt: Sequence[int]) -> ReturnedLogprobs:
        """As `ServerProtocol.outcomes`."""
        own, top = answer.meta_info.input_token_logprobs, answer.meta_info.input_top_logprobs
        _require(len(own) == len(top) == len(prompt), f"it has {len(top)} places of {len(prompt)}")
        _require_own([told[1] for told in own[1:]] == list(prompt[1:]))
        told = list(chain.from_iterable(top[1:]))
        return ReturnedLogprobs.of(
            top[1:], (one[1] for one in told), [one[0] for one in told], [one[0] for one in own[1:]]
        )

    def texts(self, answer: Any, prompt: Sequence[int]) -> list[str | None]:
        """As `ServerProtocol.texts`."""
        return [text for _, _, text in answer.meta_info.input_token_logprobs[1:]]


class _Logprobs(msgspec.Struct, gc=False):
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]
    token_logprobs: list[float | None] | None = None


class _Echoed(msgspec.Struct, gc=False):
    logprobs: _Logprobs


class _FromEcho(msgspec.Struct, gc=False):
    choices: list[_Echoed]
    model: str | None = None


class Echo:
    """OpenAI's completions with `echo`: for each place a mapping from token texts, which several ids may share."""

    name = "OpenAI (echo and logprobs)"
    form = _FromEcho
    with_texts: Mapping[str, Any] = {}

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._texts = [tokenizer.decode([token]) for token in range(ids_of(tokenizer))]
        ids: dict[str, list[int]] = {}
        for token, text in enumerate(self._texts):
            ids.setdefault(text, []).append(token)
        self._ids = {text: found[0] for text, found in ids.items() if len(found) == 1}

    def path(self, api: str, root: str) -> str:
        """As `ServerProtocol.path`."""
        return f"{api}/completions"

    def body(self, model: str, prompt: Sequence[int], k: int) -> dict[str, Any]:
        """As `ServerProtocol.body`."""
        return {"model": model, "prompt": list(prompt), "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": k}

    def outcomes(self, answer: Any, prompt: Sequence[int]) -> ReturnedLogprobs:
        """As `ServerProtocol.outcomes`; an outcome whose text several ids share has none."""
        texts, places, own = self._places(answer, prompt)
        _require_own(texts == [self._texts[token] for token in prompt[1:]])
        ids = (self._ids.get(told, _NO_ID) for told in chain.from_iterable(places))
        return ReturnedLogprobs.of(places, ids, [log_p for place in places for log_p in place.values()], own)

    def texts(self, answer: Any, prompt: Sequence[int]) -> list[str | None]:
        """As `ServerProtocol.texts`."""
        return list(self._places(answer, prompt)[0])

    def _places(
        self, answer: Any, prompt: Sequence[int]
    ) -> tuple[list[str], list[Mapping[str, float]], list[float | None]]:
        """Texts, outcomes and own log-probabilities of the prompt but for its first token; a generated one follows it."""
        told = answer.choices[0].logprobs
        tokens, top = told.tokens, told.top_logprobs
        own = told.token_logprobs or [None] * len(tokens)
        if len(tokens) == 1 < len(prompt):
            raise QueryFailed(NO_ECHO, again=False)
        _require(
            len(tokens) == len(top) == len(own) == len(prompt) + 1, f"it has {len(tokens)} places of {len(prompt)} + 1"
        )
        return tokens[1:-1], top[1:-1], own[1:-1]


@dataclass(frozen=True)
class PromptLogprobs:
    """The K likeliest outcomes at n places, likeliest first, and the log of the mass they leave.

    ``fault`` says of each place why it has no answer; "" where it has one. ``own`` is log p of the prompt's own token, NaN where
    it is not known.
    """

    ids: Int64[np.ndarray, "n K"]
    log_p: Float64[np.ndarray, "n K"]
    rest: Float64[np.ndarray, " n"]
    fault: tuple[str, ...]
    own: Float64[np.ndarray, " n"]

    @property
    def known(self) -> Bool[np.ndarray, " n"]:
        """Which places have an answer."""
        return np.array([not fault for fault in self.fault], dtype=bool)


def reader(
    kind: ServerProtocol, model: str, prompt: Sequence[int], *, k: int, vocab: int
) -> Callable[[Any], PromptLogprobs]:
    """What makes an answer's JSON into outcomes. It raises Failed where not every place has a sound answer."""

    def read(answer: Any) -> PromptLogprobs:
        check_model(answer, model)
        try:
            outcomes = kind.outcomes(answer, prompt)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise QueryFailed("damaged answer", f"{type(error).__name__} {error}") from error
        told = top_k(outcomes, k=k, vocab=vocab)
        if any(told.fault):
            fault = next(filter(None, told.fault))
            raise QueryFailed(fault, again=fault != AMBIGUOUS, partial=told)
        return told

    return read


def check_model(answer: Any, model: str) -> None:
    """Raises Failed where an answer says that it is another model's; a dated name of the same one is that one."""
    said = answer.model
    if said is not None and said != model and not said.startswith(f"{model}-"):
        raise QueryFailed("another model", f"the answer is of {said!r}, not of {model!r}", again=False)


AMBIGUOUS, OTHERS, NO_ECHO = "text of several tokens", "answer about other tokens", "no echo of the prompt"
NOT_LOGS, TOO_FEW, BEYOND = "no log-probabilities", "too few outcomes", "tokens beyond the vocabulary"
ALIKE, UNLIKELY = "outcomes that are all alike", "a likeliest outcome less likely than any can be"
_FEW_ALIKE = 5  # outcomes of equal probability that a model in bfloat16 gives now and then
_PADDED = 2.0  # rows that a head may have for each token of the vocabulary


def top_k(told: ReturnedLogprobs, *, k: int, vocab: int) -> PromptLogprobs:
    """The K likeliest of the outcomes that were told of each place."""
    n, width = len(told.counts), max(k, int(told.counts.max(initial=0)))
    there = np.arange(width) < told.counts[:, None]
    all_ids, all_log_p = np.full((n, width), _NO_ID), np.full((n, width), -np.inf)
    all_ids[there], all_log_p[there] = told.ids, told.log_p
    best = np.argsort(-all_log_p, axis=1, kind="stable")[:, :k]
    ids, log_p = (np.take_along_axis(array, best, axis=1) for array in (all_ids, all_log_p))
    few = told.counts < k
    twice = (np.diff(np.sort(ids, axis=1), axis=1) == 0).any(axis=1)
    total = np.logaddexp.reduce(np.where(log_p <= _ROUNDING, log_p, -np.inf), axis=1)
    found = {
        ALIKE: np.full(n, k >= _FEW_ALIKE) & (log_p[:, 0] == log_p[:, -1]),
        UNLIKELY: log_p[:, 0] < -np.log(_PADDED * vocab),  # one of the outcomes has at least the mean of all
        "probabilities above 1": total > np.log1p(_ROUNDING),
        BEYOND: ((ids < 0) | (ids >= vocab)).any(axis=1),
        TOO_FEW: few | twice,
        AMBIGUOUS: ((ids == _NO_ID) & (np.arange(k) < told.counts[:, None])).any(axis=1),
        NOT_LOGS: ~(all_log_p <= _ROUNDING).all(axis=1),  # NaN too
    }
    faults = np.full(n, "", dtype=object)
    for fault, where in found.items():  # the last of them is what is said
        faults[where] = fault
    bad = faults != ""
    ids[bad], log_p[bad] = np.arange(k), -np.inf
    # log(1 - sum p), of the logarithm of the sum, so that little that is left is not lost in rounding
    rest = np.log(-np.expm1(np.where(bad, -np.inf, total).clip(max=_CERTAIN)))
    return PromptLogprobs(ids, log_p, rest, tuple(faults.tolist()), told.own)


def _require_own(holds: bool) -> None:
    if not holds:
        raise QueryFailed(OTHERS)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise QueryFailed("damaged answer", otherwise)

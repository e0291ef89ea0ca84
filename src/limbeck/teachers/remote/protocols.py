"""Protocols for the top-k log-probabilities after each token of a prompt, of three kinds of server.

They are vLLM (`prompt_logprobs` of /v1/completions), SGLang (its own /generate) and OpenAI's older completions (`echo` with
`logprobs`). All give the log-probability of the token at place i given those before it, and none for the first token; a caller
who needs the distribution after the last token appends one more. A response repeats the prompt's tokens, so one that is shifted
by a place or belongs to another request is detected.

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
from limbeck.teachers.remote.http import DAMAGED, QueryFailed

_ROUNDING = 1e-3  # by which a sum of probabilities may exceed 1: some servers compute them in bfloat16
_NO_ID = int(np.iinfo(np.int64).min)
_CERTAIN = -(2.0**-24)  # log of the largest total probability of the outcomes, since most servers send float32


@dataclass(frozen=True)
class ReturnedLogprobs:
    """The log-probabilities (nats) in a response, of n places one after the other: count at each place, ids, log-probabilities.

    An id is `_NO_ID` if several tokens share the text that the server gives. ``own`` are the log-probabilities of the prompt's
    own tokens, NaN where the server gives none. They are arrays since a response has thousands of them.
    """

    counts: Int64[np.ndarray, " n"]
    ids: Int64[np.ndarray, " all"]
    log_p: Float64[np.ndarray, " all"]
    own: Float64[np.ndarray, " n"]

    @classmethod
    def of(
        cls, places: Sequence[Any], ids: Iterable[int], log_p: Sequence[float], own: Sequence[float | None]
    ) -> ReturnedLogprobs:
        """From places, each a collection of outcomes. Raises TypeError or ValueError for a malformed response."""
        counts = np.fromiter(map(len, places), np.int64, len(places))
        total = counts.sum()
        return cls(
            counts,
            np.fromiter(ids, np.int64, total),
            np.array(log_p, np.float64).reshape(total),
            np.array(own, np.float64).reshape(len(places)),
        )


class ServerProtocol(Protocol):
    """How to request the log-probabilities of a prompt from one kind of server, and how to read its response."""

    name: str
    form: Any  # msgspec type of the response's JSON, with the fields that are used
    with_texts: Mapping[str, Any]  # further fields of a request, for a response with the tokens' texts

    def path(self, api: str, root: str) -> str:
        """The path of a request, from the path of the API and that without the version."""

    def body(self, model: str, prompt: Sequence[int], k: int) -> dict[str, Any]:
        """The body of a request for the top-k log-probabilities at each place of a prompt."""

    def outcomes(self, answer: Any, prompt: Sequence[int]) -> ReturnedLogprobs:
        """The log-probabilities at each place of a prompt but the first.

        Raises QueryFailed, or for a malformed response one of the errors that `reader` translates into it.
        """

    def texts(self, answer: Any, prompt: Sequence[int]) -> list[str | None]:
        """The text of each of the prompt's tokens but the first, None where the response has none."""


class _OfToken(msgspec.Struct, gc=False):
    logprob: float
    decoded_token: str | None = None


class _OfPrompt(msgspec.Struct, gc=False):
    prompt_logprobs: list[dict[int, _OfToken] | None]


class _FromVLLM(msgspec.Struct, gc=False):
    choices: list[_OfPrompt]
    model: str | None = None


class VLLM:
    """vLLM: for each place a mapping from token ids (as strings) to log-probabilities, the prompt's own token among them."""

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
        _require_prompt_tokens(all(token in place for place, token in zip(places, prompt[1:], strict=True)))
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
        """As `ServerProtocol.body`, without a model's name: the server has one model."""
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
        _require_prompt_tokens([returned[1] for returned in own[1:]] == list(prompt[1:]))
        returned = list(chain.from_iterable(top[1:]))
        return ReturnedLogprobs.of(
            top[1:], (one[1] for one in returned), [one[0] for one in returned], [one[0] for one in own[1:]]
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
    """OpenAI's completions with `echo`: for each place a mapping from texts of tokens to log-probabilities.

    Several tokens may share a text.
    """

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
        """As `ServerProtocol.outcomes`; an outcome has no id if several tokens share its text."""
        texts, places, own = self._places(answer, prompt)
        _require_prompt_tokens(texts == [self._texts[token] for token in prompt[1:]])
        ids = (self._ids.get(returned, _NO_ID) for returned in chain.from_iterable(places))
        return ReturnedLogprobs.of(places, ids, [log_p for place in places for log_p in place.values()], own)

    def texts(self, answer: Any, prompt: Sequence[int]) -> list[str | None]:
        """As `ServerProtocol.texts`."""
        return list(self._places(answer, prompt)[0])

    def _places(
        self, answer: Any, prompt: Sequence[int]
    ) -> tuple[list[str], list[Mapping[str, float]], list[float | None]]:
        """Texts, outcomes and own log-probabilities of the prompt's tokens but the first; the generated token is left out."""
        returned = answer.choices[0].logprobs
        tokens, top = returned.tokens, returned.top_logprobs
        own = returned.token_logprobs or [None] * len(tokens)
        if len(tokens) == 1 < len(prompt):
            raise QueryFailed(NO_ECHO, again=False)
        _require(
            len(tokens) == len(top) == len(own) == len(prompt) + 1, f"it has {len(tokens)} places of {len(prompt)} + 1"
        )
        return tokens[1:-1], top[1:-1], own[1:-1]


@dataclass(frozen=True)
class PromptLogprobs:
    """The top-k outcomes at n places, most probable first, and the log of the mass of the rest; log-probabilities in nats.

    ``fault`` is why a place has no target, "" where it has one. ``own`` is log p of the prompt's own token, NaN where unknown.
    """

    ids: Int64[np.ndarray, "n K"]
    log_p: Float64[np.ndarray, "n K"]
    rest: Float64[np.ndarray, " n"]
    fault: tuple[str, ...]
    own: Float64[np.ndarray, " n"]

    @property
    def known(self) -> Bool[np.ndarray, " n"]:
        """Which places have a target."""
        return np.array([not fault for fault in self.fault], dtype=bool)


def reader(
    protocol: ServerProtocol, model: str, prompt: Sequence[int], *, k: int, vocab: int
) -> Callable[[Any], PromptLogprobs]:
    """A function from a response's JSON to the top-k outcomes of a prompt.

    It raises QueryFailed if the response is another model's or malformed, or if a place has no valid outcomes; then ``partial``
    of the error has the others.
    """

    def read(answer: Any) -> PromptLogprobs:
        check_model(answer, model)
        try:
            outcomes = protocol.outcomes(answer, prompt)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise QueryFailed(DAMAGED, f"{type(error).__name__} {error}") from error
        returned = top_k(outcomes, k=k, vocab=vocab)
        if any(returned.fault):
            fault = next(filter(None, returned.fault))
            raise QueryFailed(fault, again=fault != AMBIGUOUS, partial=returned)
        return returned

    return read


def check_model(answer: Any, model: str) -> None:
    """Raises QueryFailed if a response names another model. A dated version of the same name is the same model."""
    reported = answer.model
    if reported is not None and reported != model and not reported.startswith(f"{model}-"):
        raise QueryFailed("another model", f"the response is of {reported!r}, not of {model!r}", again=False)


AMBIGUOUS, OTHERS, NO_ECHO = "text of several tokens", "response for other tokens", "no echo of the prompt"
NOT_LOGS, TOO_FEW, BEYOND = "no log-probabilities", "too few outcomes", "tokens beyond the vocabulary"
ALIKE, UNLIKELY = "outcomes of equal probability", "a top outcome below the smallest possible probability"
_FEW_ALIKE = 5  # outcomes of equal probability occur in bfloat16 below this count
_PADDED = 2.0  # rows of a head for each token of the vocabulary, at most


def top_k(returned: ReturnedLogprobs, *, k: int, vocab: int) -> PromptLogprobs:
    """The top-k outcomes of each place of a response, with the fault of places whose outcomes are not valid."""
    n, width = len(returned.counts), max(k, int(returned.counts.max(initial=0)))
    there = np.arange(width) < returned.counts[:, None]
    all_ids, all_log_p = np.full((n, width), _NO_ID), np.full((n, width), -np.inf)
    all_ids[there], all_log_p[there] = returned.ids, returned.log_p
    best = np.argsort(-all_log_p, axis=1, kind="stable")[:, :k]
    ids, log_p = (np.take_along_axis(array, best, axis=1) for array in (all_ids, all_log_p))
    few = returned.counts < k
    twice = (np.diff(np.sort(ids, axis=1), axis=1) == 0).any(axis=1)
    total = np.logaddexp.reduce(np.where(log_p <= _ROUNDING, log_p, -np.inf), axis=1)
    found = {
        ALIKE: np.full(n, k >= _FEW_ALIKE) & (log_p[:, 0] == log_p[:, -1]),
        UNLIKELY: log_p[:, 0] < -np.log(_PADDED * vocab),  # the largest probability is at least the mean of all
        "probabilities above 1": total > np.log1p(_ROUNDING),
        BEYOND: ((ids < 0) | (ids >= vocab)).any(axis=1),
        TOO_FEW: few | twice,
        AMBIGUOUS: ((ids == _NO_ID) & (np.arange(k) < returned.counts[:, None])).any(axis=1),
        NOT_LOGS: ~(all_log_p <= _ROUNDING).all(axis=1),  # NaN too
    }
    faults = np.full(n, "", dtype=object)
    for fault, where in found.items():  # the last fault of a place is the one reported
        faults[where] = fault
    bad = faults != ""
    ids[bad], log_p[bad] = np.arange(k), -np.inf
    # log(1 - sum p) from the logarithm of the sum, so that a small rest is not lost in rounding
    rest = np.log(-np.expm1(np.where(bad, -np.inf, total).clip(max=_CERTAIN)))
    return PromptLogprobs(ids, log_p, rest, tuple(faults.tolist()), returned.own)


def _require_prompt_tokens(holds: bool) -> None:
    if not holds:
        raise QueryFailed(OTHERS)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise QueryFailed(DAMAGED, otherwise)

"""How three kinds of server are asked for the likeliest outcomes after each token of a prompt, and how they answer.

vLLM (`prompt_logprobs` of /v1/completions), SGLang (its own /generate) and OpenAI's old completions (`echo` with `logprobs`).
All speak of the token at place i given those before it, and say nothing of the first, so whoever wants to know what follows the
last token gives one more. Each answer also names the prompt's own tokens: one that was moved by a place, or is another
question's, is found by them.

Sources: docs.vllm.ai, "OpenAI-Compatible Server" and vllm.logprobs; docs.sglang.io, "Sampling Parameters", "Native APIs";
platform.openai.com, "Create completion".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float64, Int64
from transformers import PreTrainedTokenizerBase

from limbeck.teachers.http import Failed

Pairs = Sequence[tuple[int | None, float]]  # (id, log-probability) of some outcomes; no id where it is not told apart

_ROUNDING = 1e-3  # that probabilities may add up to more than 1: they come in bfloat16 from some servers
_CERTAIN = -(2.0**-24)  # log of the most that is believed of outcomes together, since most send float32


class Kind(Protocol):
    """A kind of server."""

    name: str
    with_texts: Mapping[str, Any]  # what to ask besides, so that it also writes the tokens

    def path(self, api: str, root: str) -> str:
        """Where it is asked, from the path of its API and that without the version."""

    def body(self, model: str, prompt: Sequence[int], k: int) -> dict[str, Any]:
        """What it is asked."""

    def outcomes(self, answer: Any, prompt: Sequence[int]) -> Iterator[Pairs]:
        """Outcomes at each place of a prompt but the first. Raises Failed, or whatever a wrong form leads to."""

    def texts(self, answer: Any, prompt: Sequence[int]) -> list[str | None]:
        """How it writes each of the prompt's tokens but the first, None where it does not say."""


class VLLM:
    """vLLM: for each place a mapping from token ids, written as strings, to log-probabilities; the prompt's is among them."""

    name = "vLLM (prompt_logprobs)"
    with_texts: Mapping[str, Any] = {}

    def path(self, api: str, root: str) -> str:
        """As `Kind.path`."""
        return f"{api}/completions"

    def body(self, model: str, prompt: Sequence[int], k: int) -> dict[str, Any]:
        """As `Kind.body`."""
        return {"model": model, "prompt": list(prompt), "max_tokens": 1, "temperature": 0, "prompt_logprobs": k}

    def outcomes(self, answer: Any, prompt: Sequence[int]) -> Iterator[Pairs]:
        """As `Kind.outcomes`."""
        for place, token in zip(self._places(answer, prompt), prompt[1:], strict=True):
            _require_own(str(token) in place)
            yield [(int(token), float(told["logprob"])) for token, told in place.items()]

    def texts(self, answer: Any, prompt: Sequence[int]) -> list[str | None]:
        """As `Kind.texts`."""
        places = self._places(answer, prompt)
        return [place[str(token)].get("decoded_token") for place, token in zip(places, prompt[1:], strict=True)]

    def _places(self, answer: Any, prompt: Sequence[int]) -> list[Mapping[str, Any]]:
        places = answer["choices"][0]["prompt_logprobs"]
        _require(len(places) == len(prompt), f"it has {len(places)} places of {len(prompt)}")
        return places[1:]


class SGLang:
    """SGLang: for each place a list of [log-probability, token id, text], and one such triple of the prompt's own token."""

    name = "SGLang (/generate)"
    with_texts: Mapping[str, Any] = {"return_text_in_logprobs": True}

    def path(self, api: str, root: str) -> str:
        """As `Kind.path`."""
        return f"{root}/generate"

    def body(self, model: str, prompt: Sequence[int], k: int) -> dict[str, Any]:
        """As `Kind.body`. The server has one model, so none is named."""
        return {
            "input_ids": list(prompt),
            "sampling_params": {"max_new_tokens": 1, "temperature": 0},
            "return_logprob": True,
            "logprob_start_len": 0,
            "top_logprobs_num": k,
        }

    def outcomes(self, answer: Any, prompt: Sequence[int]) -> Iterator[Pairs]:
        """As `Kind.outcomes`."""
        own, top = (answer["meta_info"][name] for name in ("input_token_logprobs", "input_top_logprobs"))
        _require(len(own) == len(top) == len(prompt), f"it has {len(top)} places of {len(prompt)}")
        for (_, token, *_), place, asked in zip(own[1:], top[1:], prompt[1:], strict=True):
            _require_own(token == asked)
            yield [(int(token), float(log_p)) for log_p, token, *_ in place]

    def texts(self, answer: Any, prompt: Sequence[int]) -> list[str | None]:
        """As `Kind.texts`."""
        return [text for _, _, text in answer["meta_info"]["input_token_logprobs"][1:]]


class Echo:
    """OpenAI's completions with `echo`: for each place a mapping from token texts, which several ids may share."""

    name = "OpenAI (echo and logprobs)"
    with_texts: Mapping[str, Any] = {}

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._texts = [tokenizer.decode([token]) for token in range(len(tokenizer))]
        ids: dict[str, list[int]] = {}
        for token, text in enumerate(self._texts):
            ids.setdefault(text, []).append(token)
        self._ids = {text: found[0] for text, found in ids.items() if len(found) == 1}

    def path(self, api: str, root: str) -> str:
        """As `Kind.path`."""
        return f"{api}/completions"

    def body(self, model: str, prompt: Sequence[int], k: int) -> dict[str, Any]:
        """As `Kind.body`."""
        return {"model": model, "prompt": list(prompt), "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": k}

    def outcomes(self, answer: Any, prompt: Sequence[int]) -> Iterator[Pairs]:
        """As `Kind.outcomes`; an outcome whose text several ids share has none."""
        for text, place, token in zip(*self._places(answer, prompt), prompt[1:], strict=True):
            _require_own(text == self._texts[token])
            yield [(self._ids.get(told), float(log_p)) for told, log_p in place.items()]

    def texts(self, answer: Any, prompt: Sequence[int]) -> list[str | None]:
        """As `Kind.texts`."""
        return list(self._places(answer, prompt)[0])

    def _places(self, answer: Any, prompt: Sequence[int]) -> tuple[list[str], list[Mapping[str, float]]]:
        """Texts and outcomes of the prompt but for its first token; one that was generated follows it."""
        told = answer["choices"][0]["logprobs"]
        tokens, top = told["tokens"], told["top_logprobs"]
        _require(len(tokens) == len(top) == len(prompt) + 1, f"it has {len(tokens)} places of {len(prompt)} + 1")
        return tokens[1:-1], top[1:-1]


@dataclass(frozen=True)
class Told:
    """The K likeliest outcomes at n places, likeliest first, and the log of the mass they leave.

    ``fault`` says of each place why it has no answer; "" where it has one.
    """

    ids: Int64[np.ndarray, "n K"]
    log_p: Float64[np.ndarray, "n K"]
    rest: Float64[np.ndarray, " n"]
    fault: tuple[str, ...]

    @property
    def answered(self) -> Bool[np.ndarray, " n"]:
        """Which places have an answer."""
        return np.array([not fault for fault in self.fault], dtype=bool)


def reader(kind: Kind, model: str, prompt: Sequence[int], *, k: int, vocab: int) -> Callable[[Any], Told]:
    """What makes an answer's JSON into outcomes. It raises Failed where not every place has a sound answer."""

    def read(answer: Any) -> Told:
        check_model(answer, model)
        try:
            places = list(kind.outcomes(answer, prompt))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise Failed("damaged answer", f"{type(error).__name__} {error}") from error
        told = likeliest(places, k=k, vocab=vocab)
        if any(told.fault):
            fault = next(filter(None, told.fault))
            raise Failed(fault, again=fault != AMBIGUOUS, partial=told)
        return told

    return read


def check_model(answer: Any, model: str) -> None:
    """Raises Failed where an answer says that it is another model's; a dated name of the same one is that one."""
    said = answer.get("model") if isinstance(answer, dict) else None
    if said is not None and said != model and not str(said).startswith(f"{model}-"):
        raise Failed("another model", f"the answer is of {said!r}, not of {model!r}", again=False)


AMBIGUOUS, OTHERS = "text of several tokens", "answer about other tokens"


def likeliest(places: Sequence[Pairs], *, k: int, vocab: int) -> Told:
    """The K likeliest of the outcomes that were told of each place."""
    n = len(places)
    ids, log_p = np.tile(np.arange(k), (n, 1)), np.full((n, k), -np.inf)
    faults = []
    for row, pairs in enumerate(places):
        best = sorted(pairs, key=_LOG_P, reverse=True)[:k]
        fault = _fault(pairs, best, k, vocab)
        faults.append(fault)
        if not fault:
            ids[row], log_p[row] = zip(*best, strict=True)
    total = np.logaddexp.reduce(log_p, axis=1)
    for place in np.flatnonzero(total > np.log1p(_ROUNDING)).tolist():
        faults[place] = "probabilities above 1"
    # log(1 - sum p), of the logarithm of the sum, so that little that is left is not lost in rounding
    rest = np.log(-np.expm1(total.clip(max=_CERTAIN)))
    return Told(ids, log_p, rest, tuple(faults))


_LOG_P = itemgetter(1)


def _fault(pairs: Pairs, best: Pairs, k: int, vocab: int) -> str:
    """Why the likeliest of some outcomes are no answer; "" where each of them may be one."""
    if not all(log_p <= _ROUNDING for _, log_p in pairs):  # which NaN is not, wherever it is sorted to
        return "no log-probabilities"
    known = {token for token, _ in best if token is not None}
    if any(token is None for token, _ in best):
        return AMBIGUOUS
    if len(known) < k:
        return "too few outcomes"
    if not 0 <= min(known) <= max(known) < vocab:
        return "tokens beyond the vocabulary"
    return ""


def _require_own(holds: bool) -> None:
    if not holds:
        raise Failed(OTHERS)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Failed("damaged answer", otherwise)

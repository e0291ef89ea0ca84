"""A teacher on a server: queried over HTTP with the documents of each row, many requests at once, every response checked.

Each document of a packed row is a prompt of its own, so documents do not see one another, as with a model in memory. A server
returns its top-k log-probabilities, so the signal is the top-k outcomes and the rest; a bias and variance report or pruning needs
more. A position without a valid response is marked as without a target and counted by the reason; too many of them are an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from transformers import PreTrainedTokenizerBase

from limbeck.errors import BadServer, Mismatch
from limbeck.host import on_host
from limbeck.models.vocabulary import ids_of
from limbeck.teachers.ref import SERVED_EXTRA
from limbeck.teachers.remote.http import Address, Client, QueryFailed, RetryPolicy, key_from_environment
from limbeck.teachers.remote.protocols import (
    AMBIGUOUS,
    OTHERS,
    TOO_FEW,
    VLLM,
    Echo,
    PromptLogprobs,
    ServerProtocol,
    SGLang,
    reader,
)
from limbeck.types import Batch, Sparse

MOST_MISSING = 1e-3  # share of the queried positions
IN_FLIGHT = 32  # maximum concurrent requests
_FEWER = (100, 50, 20, 10, 5)  # outcomes to request if a server gives no more; vLLM's default limit is 20
_UNLIKELY = -100.0  # nats; for outcomes of positions that were not queried
_FEWEST_SCORED, _WORSE = (
    500,
    0.5,
)  # positions before a teacher is judged; nats above a uniform guess, near which an untrained model is
# Texts on which a server's tokenizer is compared: words, numbers, code, other scripts, and what most tokenizers split
# differently.
_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "def f(x):\n    return x ** 2  # 12345.678",
    "Ça déjà vu, naïve Grüße; 東京 и 🙂!",
)
_LLAMA_CPP = (
    "llamacpp"  # the owner of its models; it passes over echo, and gives log-probabilities of what it writes alone
)
REMEDY = {
    "time limit": "give a longer --time-limit or a smaller --in-flight",
    "connection": "check that the server runs",
    "status 429": "give a smaller --in-flight",
    AMBIGUOUS: "serve the model with vLLM or SGLang, whose responses have token ids",
}


@dataclass(frozen=True)
class _Prompt:
    """A document's part of a row, up to the last position of weight > 0."""

    start: int  # its first position among the flat positions of the batch
    tokens: tuple[int, ...]  # one more than it has positions, for the distribution after the last of those
    counts: np.ndarray  # which positions have weight


class ServedTeacher:
    """A teacher on a server, which gives the top-``k`` log-probabilities of each position as a `Sparse` signal.

    ``server_info`` is what the server reports about itself and its model. ``missing`` counts, by reason, the positions of weight
    > 0 that got no target since `expect`. Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        client: Client,
        kind: ServerProtocol,
        *,
        k: int,
        vocab: int,
        server_info: dict[str, Any],
        in_flight: int = IN_FLIGHT,
    ) -> None:
        self.client, self.kind, self.k, self.vocab, self.server_info = client, kind, k, vocab, server_info
        self.name = client.address.model
        self.in_flight = in_flight
        # half as many threads more, which parse responses or prepare requests meanwhile
        self._pool = ThreadPoolExecutor(in_flight + in_flight // 2, thread_name_prefix="served")
        self.expect(0)

    def expect(self, positions: int, *, missing: int = 0, generated: bool = False) -> None:
        """Starts a new count of missing targets, out of ``positions`` that will be queried; ``missing`` are missing already.

        Without this call, or with 0 positions, the first missing target is an error. What a student ``generated`` may be less
        likely than a guess, so that it says nothing about the model.
        """
        self._judges = not generated
        self._positions, self._missing = positions, missing
        self.missing: Counter[str] = Counter()
        self._messages: dict[str, str] = {}
        self._nats, self._scored = 0.0, 0

    def close(self) -> None:
        """Cancels open requests. The teacher cannot be queried afterwards."""
        self.client.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> ServedTeacher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, batch: Batch) -> Sparse:
        """The top-k signal of the batch's positions; those of weight 0 are not queried.

        Raises BadServer if more than `MOST_MISSING` of the expected positions have no target, if another model responds, or if
        the log-probabilities are no better than a uniform guess.
        """
        n = batch.tokens.numel()
        ids = np.tile(np.arange(self.k), (n, 1))
        log_p, rest = np.full((n, self.k), _UNLIKELY), np.zeros(n)
        weight = np.zeros((n, self.k))
        futures = self._submit(batch)
        try:
            for future in as_completed(futures):
                prompt, result = futures[future], self._result(future, futures[future])
                here = slice(prompt.start, prompt.start + len(prompt.counts))
                known = np.zeros(len(prompt.counts), dtype=bool) if result is None else result.known
                if result is not None:
                    ids[here], log_p[here], rest[here] = result.ids, result.log_p.clip(max=0), result.rest
                weight[here] = np.exp(log_p[here])
                none = np.arange(n)[here][~known & prompt.counts]
                log_p[none], weight[none], rest[none] = 0.0, 0.0, -np.inf
        finally:
            for future in futures:
                future.cancel()
        log_ps, weights, rests = (torch.from_numpy(array).float() for array in (log_p, weight, rest))
        return Sparse(torch.from_numpy(ids), log_ps, weights, self.vocab, rests).to(batch.tokens.device)

    def own(self, batches: Sequence[Batch]) -> Iterator[Float64[np.ndarray, " n"]]:
        """For each batch log p (nats) of the target at each position of weight > 0, NaN where the server gives none.

        All batches are requested at once, and missing positions are not counted; `failures` says why they are missing. Raises
        BadServer if another model responds.
        """
        for batch, futures in [(batch, self._submit(batch)) for batch in batches]:
            found = np.full(batch.tokens.numel(), np.nan)
            for future, prompt in futures.items():
                result = self._partial(future)
                if result is not None:
                    here = slice(prompt.start, prompt.start + len(prompt.counts))
                    found[here] = np.where(prompt.counts, result.own, np.nan)
            yield found

    def _submit(self, batch: Batch) -> dict[Future[PromptLogprobs], _Prompt]:
        return {self._pool.submit(self._query, prompt): prompt for prompt in _prompts(batch)}

    def _partial(self, future: Future[PromptLogprobs]) -> PromptLogprobs | None:
        """The result of a request, or its usable part."""
        try:
            return future.result()
        except QueryFailed as failed:
            if failed.kind == "another model":
                raise self._of_another(failed) from failed
            self._messages.setdefault(failed.kind, str(failed))
            return failed.partial

    @property
    def failures(self) -> list[str]:
        """What failed since `expect`, with one message of each kind."""
        return list(self._messages.values())

    def _of_another(self, failed: QueryFailed) -> BadServer:
        return BadServer(f"{self.client.address}: {failed}. Name a model that it serves after the #")

    def _query(self, prompt: _Prompt) -> PromptLogprobs:
        address, model = self.client.address, self.client.address.model
        return self.client.query(
            self.kind.path(address.path, address.root),
            self.kind.body(model, prompt.tokens, self.k),
            reader(self.kind, model, prompt.tokens, k=self.k, vocab=self.vocab),
            form=self.kind.form,
        )

    def _result(self, future: Future[PromptLogprobs], prompt: _Prompt) -> PromptLogprobs | None:
        """The result of a request, or its usable part; counts what is missing. Raises BadServer as `__call__`."""
        try:
            result = future.result()
            if self._judges:
                self._check_likelihood(result.own[prompt.counts & np.isfinite(result.own)])
            return result
        except QueryFailed as failed:
            if failed.kind == "another model":
                raise self._of_another(failed) from failed
            result = failed.partial
            faults = (failed.kind,) * len(prompt.counts) if result is None else result.fault
            self._messages.setdefault(failed.kind, str(failed))
            self.missing.update(fault for fault, counts in zip(faults, prompt.counts, strict=True) if fault and counts)
            self._check()
            return result

    def _check_likelihood(self, own: np.ndarray) -> None:
        """Adds log p of the text's own tokens. Raises BadServer if their mean is worse than that of a uniform guess."""
        self._nats, self._scored = self._nats - float(own.sum()), self._scored + len(own)
        guess = float(np.log(self.vocab))
        if self._scored >= _FEWEST_SCORED and self._nats > self._scored * (guess + _WORSE):
            raise BadServer(
                f"{self.client.address}: the server's log-probabilities give {self._nats / self._scored:.2f} nats per token over "
                f"{self._scored:,} tokens of the text, a uniform guess among {self.vocab:,} tokens {guess:.2f}: this is no model "
                "of the text. Check that it serves the right model, in a number format in which its weights do not overflow"
            )

    def _check(self) -> None:
        """Raises BadServer if too many positions have no target."""
        missing = self._missing + self.missing.total()
        if missing > MOST_MISSING * self._positions:
            queried = f"{missing:,} of {self._positions:,} positions"
            kept = "Valid responses are kept" if self._judges else "The training continues from its last checkpoint"
            how: dict[str, Any] = {"before": self._missing, "kept": kept}
            raise too_many_missing(self.client.address, queried, self.missing, self._messages, **how)


def too_many_missing(
    address: Address,
    what: str,
    reasons: Counter[str],
    messages: Mapping[str, str],
    *,
    before: int = 0,
    remedies: Mapping[str, str] = REMEDY,
    kept: str = "Valid responses are kept",
) -> BadServer:
    """The error of too many failed requests: ``what`` is how many of what, ``before`` how many of them failed earlier.

    ``kept``: what the same command goes on with.

    ``reasons`` counts failures by kind; ``messages`` and ``remedies`` are by kind too.
    """
    kinds = [f"{count:,} by {messages.get(kind, kind)}" for kind, count in reasons.most_common()]
    helps = [remedies[kind] for kind, _ in reasons.most_common() if kind in remedies]
    earlier = f"; {before:,} failed earlier" if before else ""
    return BadServer(
        f"{address}: {what} got no valid response, more than the {100 * MOST_MISSING:g} % allowed: {', '.join(kinds)}{earlier}. "
        f"{kept}: {', '.join(helps) or 'check the server and its log'}, then run the same command again"
    )


def _prompts(batch: Batch) -> Iterator[_Prompt]:
    """The documents of a batch's rows, each up to its last position of weight > 0; documents without one are left out."""
    tokens, targets, position = (on_host(x).numpy() for x in (batch.tokens, batch.targets, batch.position))
    counts = on_host(batch.weight).numpy() > 0
    length = tokens.shape[1]
    for row in range(len(tokens)):
        starts = np.flatnonzero(np.diff(position[row], prepend=-2) != 1)
        for start, stop in zip(starts, [*starts[1:], length], strict=True):
            weighty = np.flatnonzero(counts[row, start:stop])
            if len(weighty):
                last = start + weighty[-1]
                prompt = (*tokens[row, start : last + 1].tolist(), int(targets[row, last]))
                yield _Prompt(int(row * length + start), prompt, counts[row, start : last + 1])


def connect(
    address: Address,
    tokenizer: PreTrainedTokenizerBase,
    *,
    k: int,
    length: int,
    retry: RetryPolicy | None = None,
    in_flight: int = IN_FLIGHT,
) -> ServedTeacher:
    """Connects to the teacher at an address, for the top-``k`` log-probabilities of rows of ``length`` tokens.

    A server that gives fewer outcomes is used with fewer. Checks first that it serves the model, which protocol it has, and that
    its tokenizer is ``tokenizer``.

    Raises BadServer if it does not serve the model or gives no log-probabilities of prompts, Mismatch if its tokenizer is another
    or its context is too short for a row, BadSetting for an API key or proxy that cannot be used.
    """
    client = Client(address, retry=retry or RetryPolicy(), key=key_from_environment(), in_flight=in_flight)
    try:
        entry = model_entry(client)
        server_info = {name: entry[name] for name in ("id", "root", "max_model_len") if entry.get(name) is not None}
        _check_context(address, server_info.get("max_model_len"), length)
        compared = _compare_tokens(client, tokenizer)
        kind, k = _find(client, tokenizer, k=k, owner=entry.get("owned_by"))
        if not compared:
            _compare_texts(client, kind, tokenizer)
        server_info |= {"server": kind.name} | _version(client)
    except BaseException:
        client.close()
        raise
    return ServedTeacher(client, kind, k=k, vocab=ids_of(tokenizer), server_info=server_info, in_flight=in_flight)


def _check_context(address: Address, context: Any, length: int) -> None:
    if isinstance(context, int) and length + SERVED_EXTRA > context:
        raise Mismatch(
            f"--seq-len {length}: the server at {address} has a context of {context} tokens, and a row needs two more than its "
            f"length: use --seq-len {context - SERVED_EXTRA} or less"
        )


def model_entry(client: Client) -> dict[str, Any]:
    """The model's entry in the server's list of models. Raises BadServer if there is no list, or no such model in it."""
    address = client.address
    try:
        served: dict[str, dict[str, Any]] = client.query(
            f"{address.path}/models", None, lambda answer: {m["id"]: m for m in answer["data"]}
        )
    except (QueryFailed, KeyError, TypeError) as error:
        raise BadServer(
            f"{address}: expected a server with a list of models at {address.path}/models, got {_why(error)}: check that it "
            "runs, and that the address ends with the path of its API, usually /v1"
        ) from error
    if address.model not in served:
        raise BadServer(
            f"{address}: the server has no model of that name; it serves {', '.join(sorted(served)[:8]) or 'none'}: give "
            "one of these after the #"
        )
    return served[address.model]


def _version(client: Client) -> dict[str, Any]:
    """What the server reports about itself: vLLM its version, SGLang the path of its weights."""
    result: dict[str, Any] = {}
    for path, names in (("/version", ("version",)), ("/get_model_info", ("model_path", "tokenizer_path"))):
        with suppress(QueryFailed, AttributeError):
            answer = _once(client, client.address.root + path, None)
            result |= {name: answer[name] for name in names if isinstance(answer.get(name), str)}
    return result


def _once(client: Client, path: str, body: dict[str, Any] | None, *, form: Any = Any) -> Any:
    return client.query(path, body, lambda answer: answer, form=form)


def _find(client: Client, tokenizer: PreTrainedTokenizerBase, *, k: int, owner: Any) -> tuple[ServerProtocol, int]:
    """The server's protocol, and how many outcomes a position it gives. ``owner`` is the owner in its list of models.

    Raises BadServer if none of the protocols works.
    """
    address, prompt = client.address, _ids(tokenizer, _TEXTS[0])
    kinds: list[ServerProtocol] = [VLLM(), SGLang(), Echo(tokenizer)]
    reported = []
    for kind in kinds:
        for fewer in (k, *(count for count in _FEWER if count < k)):
            path, body = kind.path(address.path, address.root), kind.body(address.model, prompt, fewer)
            read = reader(kind, address.model, prompt, k=fewer, vocab=ids_of(tokenizer))
            try:
                client.query(path, body, read, form=kind.form)
            except QueryFailed as failed:
                if failed.kind == "another model":
                    raise BadServer(f"{address}: {failed}") from failed
                if failed.kind == AMBIGUOUS:  # of this prompt; of a text it may be rare
                    return kind, fewer
                if failed.kind == OTHERS:  # perhaps its tokenizer is another: that error has the better message
                    _compare_texts(client, kind, tokenizer)
                reason = str(failed)
                if failed.kind not in ("status 400", "status 422", TOO_FEW):
                    break
            else:
                return kind, fewer
        reported.append(f"{kind.name}: {reason}")
    which = "llama.cpp's server" if owner == _LLAMA_CPP else "the server"
    raise BadServer(
        f"{address}: expected log-probabilities of a prompt's tokens, but {which} gives none. {'; '.join(reported)}. Serve the "
        "model with vLLM or SGLang, or use capture --text, which needs none"
    )


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _compare_tokens(client: Client, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the server tokenizes texts. Raises Mismatch if its tokens differ from the tokenizer's."""
    for text in _TEXTS:
        body = {"model": client.address.model, "prompt": text, "add_special_tokens": False}
        try:
            theirs = client.query(
                client.address.root + "/tokenize", body, lambda answer: [int(t) for t in answer["tokens"]]
            )
        except (QueryFailed, KeyError, TypeError, ValueError):
            return False
        ours = _ids(tokenizer, text)
        if ours and not theirs:  # its /tokenize has other field names
            return False
        if theirs != ours:
            at = next(
                (i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours))
            )
            raise _other_tokens(
                client, f"it tokenizes {text!r} as {_around(theirs, at)}, the tokenizer as {_around(ours, at)}"
            )
    return True


def _compare_texts(client: Client, kind: ServerProtocol, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises Mismatch if a token's text differs between server and tokenizer, BadServer if the server gives no texts."""
    address = client.address
    compared = 0
    for text in _TEXTS:
        prompt = _ids(tokenizer, text)
        body = kind.body(address.model, prompt, 1) | dict(kind.with_texts)
        try:
            theirs = kind.texts(_once(client, kind.path(address.path, address.root), body, form=kind.form), prompt)
        except (QueryFailed, KeyError, TypeError, ValueError) as error:
            raise BadServer(f"{address}: its tokens cannot be compared with the tokenizer's: {_why(error)}") from error
        for token, reported in zip(prompt[1:], theirs, strict=True):
            ours = tokenizer.decode([token])
            if reported is None or "\ufffd" in reported + ours:  # a part of a character
                continue
            compared += 1
            if reported.strip() != ours.strip():
                raise _other_tokens(client, f"it decodes token {token} as {reported!r}, the tokenizer as {ours!r}")
    if not compared:
        raise BadServer(
            f"{address}: expected a server that tokenizes texts (/tokenize) or gives the texts of tokens, and this one does "
            "neither, so its tokenizer cannot be compared with --tokenizer: serve the model with vLLM or SGLang"
        )


def _around(ids: Sequence[int], at: int) -> str:
    """Five ids around an index, as text."""
    first = max(0, at - 2)
    dots = "… " if first else ""
    return f"[{dots}{' '.join(map(str, ids[first : at + 3]))}{' …' if at + 3 < len(ids) else ''}]"


def _other_tokens(client: Client, what: str) -> Mismatch:
    return Mismatch(
        f"{client.address}: the server has another tokenizer than --tokenizer: {what}. Give the folder or hub id of the model "
        "that is served"
    )


def _why(error: BaseException) -> str:
    return str(error) if isinstance(error, QueryFailed) else f"an unexpected response ({type(error).__name__} {error})"

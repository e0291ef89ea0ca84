"""A teacher on a server: asked over HTTP about each document of a row, many at once, and never believed without a look.

A packed row's documents are asked for as prompts of their own, so they see as little of one another as in a model in memory.
What a server tells are its likeliest outcomes, so the answers are coarse; it does not tell what a certificate or a cut needs.
A position that has no sound answer in the end is marked as such and counted by the reason; too many stop everything.
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
from limbeck.models.vocabulary import ids_of
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

MOST_MISSING = 1e-3  # share of the positions that are asked about
IN_FLIGHT = 32
_FEWER = (100, 50, 20, 10, 5)  # outcomes to ask for where a server gives no more; vLLM gives 20 unless told otherwise
_UNLIKELY = -100.0  # nats; of outcomes of a position that nobody asked about
_JUDGED, _WORSE = (
    500,
    0.5,
)  # positions before a teacher is judged; nats above a uniform guess, near which an untrained model is
# What a server's tokenizer is compared on: words, numbers, code, other scripts, and what is cut differently by most.
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
    "connection": "see whether the server runs",
    "status 429": "give a smaller --in-flight",
    AMBIGUOUS: "serve the model with vLLM or SGLang, whose answers are in token ids",
}


@dataclass(frozen=True)
class _Prompt:
    """A document's part of a row, as far as it counts: where it is among the flat positions, and what is asked."""

    start: int
    tokens: tuple[int, ...]  # one more than it has positions: a server says nothing of what follows the last
    counts: np.ndarray  # which positions have weight


class ServedTeacher:
    """A teacher on a server. ``server_info`` is what the server tells of itself; ``k`` outcomes of each position are told.

    ``unanswered`` positions of those that count, by the reason, were asked for in vain since `expect`.
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
        # half as many again, who read their answers or have their questions ready meanwhile
        self._pool = ThreadPoolExecutor(in_flight + in_flight // 2, thread_name_prefix="served")
        self.expect(0)

    def expect(self, positions: int, *, missing: int = 0) -> None:
        """Begins to count: so many positions will be asked about, ``missing`` of them were asked about in vain before.

        Without this, or with 0, every position must be answered.
        """
        self._positions, self._missing = positions, missing
        self.missing: Counter[str] = Counter()
        self._said: dict[str, str] = {}
        self._nats, self._judged = 0.0, 0

    def close(self) -> None:
        """Stops what is under way; the teacher cannot be asked again."""
        self.client.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> ServedTeacher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, batch: Batch) -> Sparse:
        """What the teacher says about these rows, as far as they count. Raises BadServer where too much is unanswered."""
        n = batch.tokens.numel()
        ids = np.tile(np.arange(self.k), (n, 1))
        log_p, rest = np.full((n, self.k), _UNLIKELY), np.zeros(n)
        weight = np.zeros((n, self.k))
        asked = self._asked(batch)
        try:
            for future in as_completed(asked):
                prompt, told = asked[future], self._told(future, asked[future])
                here = slice(prompt.start, prompt.start + len(prompt.counts))
                known = np.zeros(len(prompt.counts), dtype=bool) if told is None else told.known
                if told is not None:
                    ids[here], log_p[here], rest[here] = told.ids, told.log_p.clip(max=0), told.rest
                weight[here] = np.exp(log_p[here])
                none = np.arange(n)[here][~known & prompt.counts]
                log_p[none], weight[none], rest[none] = 0.0, 0.0, -np.inf
        finally:
            for future in asked:
                future.cancel()
        log_ps, weights, rests = (torch.from_numpy(array).float() for array in (log_p, weight, rest))
        return Sparse(torch.from_numpy(ids), log_ps, weights, self.vocab, rests).to(batch.tokens.device)

    def own(self, batches: Sequence[Batch]) -> Iterator[Float64[np.ndarray, " n"]]:
        """Of each batch log p of what follows each position that counts, NaN where the server gives none.

        All are asked for at once, and what is missing is not counted. Raises BadServer where another model answers.
        """
        for batch, asked in [(batch, self._asked(batch)) for batch in batches]:
            found = np.full(batch.tokens.numel(), np.nan)
            for future, prompt in asked.items():
                told = self._partial(future)
                if told is not None:
                    here = slice(prompt.start, prompt.start + len(prompt.counts))
                    found[here] = np.where(prompt.counts, told.own, np.nan)
            yield found

    def _asked(self, batch: Batch) -> dict[Future[PromptLogprobs], _Prompt]:
        return {self._pool.submit(self._query, prompt): prompt for prompt in _prompts(batch)}

    def _partial(self, future: Future[PromptLogprobs]) -> PromptLogprobs | None:
        """An answer, or as much of it as there is."""
        try:
            return future.result()
        except QueryFailed as failed:
            if failed.kind == "another model":
                raise self._of_another(failed) from failed
            return failed.partial

    def _of_another(self, failed: QueryFailed) -> BadServer:
        return BadServer(f"{self.client.address}: {failed}: nothing it says can be trusted")

    def _query(self, prompt: _Prompt) -> PromptLogprobs:
        address, model = self.client.address, self.client.address.model
        return self.client.query(
            self.kind.path(address.path, address.root),
            self.kind.body(model, prompt.tokens, self.k),
            reader(self.kind, model, prompt.tokens, k=self.k, vocab=self.vocab),
            form=self.kind.form,
        )

    def _told(self, future: Future[PromptLogprobs], prompt: _Prompt) -> PromptLogprobs | None:
        """An answer, or as much of it as there is; what is missing is counted. Raises BadServer where it makes no sense."""
        try:
            told = future.result()
            self._judge(told.own[prompt.counts & np.isfinite(told.own)])
            return told
        except QueryFailed as failed:
            if failed.kind == "another model":
                raise self._of_another(failed) from failed
            told = failed.partial
            faults = (failed.kind,) * len(prompt.counts) if told is None else told.fault
            self._said.setdefault(failed.kind, str(failed))
            self.missing.update(fault for fault, counts in zip(faults, prompt.counts, strict=True) if fault and counts)
            self._check()
            return told

    def _judge(self, own: np.ndarray) -> None:
        """Adds log p of the text's own tokens. Raises BadServer where they are less likely than by a uniform guess."""
        self._nats, self._judged = self._nats - float(own.sum()), self._judged + len(own)
        guess = float(np.log(self.vocab))
        if self._judged >= _JUDGED and self._nats > self._judged * (guess + _WORSE):
            raise BadServer(
                f"{self.client.address}: {self._judged:,} tokens of the text cost {self._nats / self._judged:.2f} nats each by "
                f"what the server tells, a uniform guess among {self.vocab:,} tokens {guess:.2f}: this is no model of the text. "
                "See whether it serves the right model, in a number format that its weights can bear"
            )

    def _check(self) -> None:
        """Raises BadServer where too many positions have no answer."""
        missing = self._missing + self.missing.total()
        if missing > MOST_MISSING * self._positions:
            asked = f"{missing:,} of {self._positions:,} positions"
            raise too_many_missing(self.client.address, asked, self.missing, self._said, before=self._missing)


def too_many_missing(
    address: Address,
    asked: str,
    unanswered: Counter[str],
    said: Mapping[str, str],
    *,
    before: int = 0,
    remedies: Mapping[str, str] = REMEDY,
) -> BadServer:
    """What to raise where too much is unanswered: ``asked`` says how much of what, the others why, ``before`` not now."""
    kinds = [f"{count:,} by {said.get(kind, kind)}" for kind, count in unanswered.most_common()]
    helps = [remedies[kind] for kind, _ in unanswered.most_common() if kind in remedies]
    earlier = f"; {before:,} were before" if before else ""
    return BadServer(
        f"{address}: {asked} have no answer, which is more than {100 * MOST_MISSING:g} %: {', '.join(kinds)}{earlier}. What "
        f"was answered is kept: {', '.join(helps) or 'see what the server and its log say'}, then let the same command go on"
    )


def _prompts(batch: Batch) -> Iterator[_Prompt]:
    """The documents of a batch's rows, each up to the last of its positions that counts; none where nothing does."""
    tokens, targets, position = (x.cpu().numpy() for x in (batch.tokens, batch.targets, batch.position))
    counts = batch.weight.cpu().numpy() > 0
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
    """The teacher at an address, asked for ``k`` outcomes or as many as it gives, of rows of ``length``.

    Looks first whether it serves the model, how it can be asked, and whether its tokens are the tokenizer's. Raises
    BadServer where it does not serve it or cannot tell, Mismatch where its tokens are others or its context is too short.
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
    if isinstance(context, int) and length + 2 > context:
        raise Mismatch(
            f"--length {length}: the server at {address} takes {context} tokens, and a row needs two more than it has: "
            f"use --length {context - 2} or less"
        )


def model_entry(client: Client) -> dict[str, Any]:
    """What the server's list says of the model. Raises BadServer where there is no such list, or it has not the model."""
    address = client.address
    try:
        served: dict[str, dict[str, Any]] = client.query(
            f"{address.path}/models", None, lambda answer: {m["id"]: m for m in answer["data"]}
        )
    except (QueryFailed, KeyError, TypeError) as error:
        raise BadServer(
            f"{address}: expected a server with a list of models at {address.path}/models, got {_why(error)}: see whether it "
            "runs, and whether the address ends as its API's does, mostly in /v1"
        ) from error
    if address.model not in served:
        raise BadServer(
            f"{address}: the server has no model of that name; it serves {', '.join(sorted(served)[:8]) or 'none'}: give "
            "one of these after the #"
        )
    return served[address.model]


def _version(client: Client) -> dict[str, Any]:
    """What the server says of itself: vLLM its version, SGLang where its weights are from."""
    told: dict[str, Any] = {}
    for path, names in (("/version", ("version",)), ("/get_model_info", ("model_path", "tokenizer_path"))):
        with suppress(QueryFailed, AttributeError):
            answer = _once(client, client.address.root + path, None)
            told |= {name: answer[name] for name in names if isinstance(answer.get(name), str)}
    return told


def _once(client: Client, path: str, body: dict[str, Any] | None, *, form: Any = Any) -> Any:
    return client.query(path, body, lambda answer: answer, form=form)


def _find(client: Client, tokenizer: PreTrainedTokenizerBase, *, k: int, owner: Any) -> tuple[ServerProtocol, int]:
    """How the server is asked, and how many outcomes it tells. ``owner`` is whose it says its model is."""
    address, prompt = client.address, _ids(tokenizer, _TEXTS[0])
    kinds: list[ServerProtocol] = [VLLM(), SGLang(), Echo(tokenizer)]
    said = []
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
                if failed.kind == OTHERS:  # perhaps it has another tokenizer, which this tells more of
                    _compare_texts(client, kind, tokenizer)
                reason = str(failed)
                if failed.kind not in ("status 400", "status 422", TOO_FEW):
                    break
            else:
                return kind, fewer
        said.append(f"{kind.name}: {reason}")
    which = "llama.cpp's server" if owner == _LLAMA_CPP else "the server"
    raise BadServer(
        f"{address}: expected log-probabilities of a prompt's tokens, and {which} gives none. {'; '.join(said)}. Serve the "
        "model with vLLM or SGLang, or have it write with capture --text, which needs none"
    )


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _compare_tokens(client: Client, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the server could be asked for the tokens of some texts. Raises Mismatch where they are others than ours."""
    for text in _TEXTS:
        body = {"model": client.address.model, "prompt": text, "add_special_tokens": False}
        try:
            theirs = client.query(
                client.address.root + "/tokenize", body, lambda answer: [int(t) for t in answer["tokens"]]
            )
        except (QueryFailed, KeyError, TypeError, ValueError):
            return False
        ours = _ids(tokenizer, text)
        if ours and not theirs:  # it was asked in words that it does not know
            return False
        if theirs != ours:
            at = next(
                (i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours))
            )
            raise _other_tokens(
                client, f"it makes {text!r} into {_around(theirs, at)}, the tokenizer into {_around(ours, at)}"
            )
    return True


def _compare_texts(client: Client, kind: ServerProtocol, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises Mismatch where the server writes a token in another way than the tokenizer, or will not write any."""
    address = client.address
    compared = 0
    for text in _TEXTS:
        prompt = _ids(tokenizer, text)
        body = kind.body(address.model, prompt, 1) | dict(kind.with_texts)
        try:
            theirs = kind.texts(_once(client, kind.path(address.path, address.root), body, form=kind.form), prompt)
        except (QueryFailed, KeyError, TypeError, ValueError) as error:
            raise BadServer(f"{address}: its tokens cannot be compared with the tokenizer's: {_why(error)}") from error
        for token, said in zip(prompt[1:], theirs, strict=True):
            ours = tokenizer.decode([token])
            if said is None or "\ufffd" in said + ours:  # a part of a letter
                continue
            compared += 1
            if said.strip() != ours.strip():
                raise _other_tokens(client, f"it writes token {token} as {said!r}, the tokenizer as {ours!r}")
    if not compared:
        raise BadServer(
            f"{address}: it neither makes a text into tokens (/tokenize) nor writes tokens as text, so nothing shows that its "
            "tokens are the tokenizer's: serve the model with vLLM or SGLang"
        )


def _around(ids: Sequence[int], at: int) -> str:
    """Some ids around a place."""
    first = max(0, at - 2)
    dots = "… " if first else ""
    return f"[{dots}{' '.join(map(str, ids[first : at + 3]))}{' …' if at + 3 < len(ids) else ''}]"


def _other_tokens(client: Client, what: str) -> Mismatch:
    return Mismatch(
        f"{client.address}: the server has another tokenizer than --tokenizer: {what}. Give the folder or hub id of the model "
        "that is served"
    )


def _why(error: BaseException) -> str:
    return (
        str(error) if isinstance(error, QueryFailed) else f"an answer of another form ({type(error).__name__} {error})"
    )

"""Generation on a server: completions of conversations and of texts, with the reason why each ended.

It uses only what every OpenAI-compatible server has (/chat/completions and /completions, without log-probabilities). vLLM and
SGLang sample by default with the settings that a model's authors recommend, so requests to them ask for the model's own
distribution.

Sources: platform.openai.com, "Create chat completion", "Create completion"; docs.vllm.ai, "OpenAI-Compatible Server";
docs.sglang.io, "Sampling Parameters".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import msgspec

from limbeck.errors import BadServer
from limbeck.teachers.remote.http import DAMAGED, Address, Client, QueryFailed, RetryPolicy, key_from_environment
from limbeck.teachers.remote.protocols import check_model
from limbeck.teachers.remote.served import IN_FLIGHT, model_entry

STOP, LENGTH, FILTERED = "stop", "length", "content_filter"
_CALLS = "tool_calls"  # the finish reason of a turn that calls functions
_WHOLE_DISTRIBUTION = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
_UNDERSTOOD_BY = ("vllm", "sglang")  # "owned_by" in these servers' lists of models


@dataclass(frozen=True)
class Completion:
    """A generated completion. ``finish``: "stop" (end token), "length" (token limit) or "content_filter" (withheld).

    ``tokens`` and ``prompt_tokens`` count the completion's and the prompt's tokens, None if the server does not report them.
    ``calls`` are calls of functions besides the text.
    """

    text: str
    finish: str
    tokens: int | None
    prompt_tokens: int | None
    calls: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Request:
    """A conversation (messages) or a text to complete, and the seed of the sampling.

    ``extra`` are further fields of a conversation, ``tools`` and ``chat_template_kwargs``, by the names that servers use.
    """

    prompt: list[dict[str, Any]] | str
    seed: int
    extra: Mapping[str, Any] = field(default_factory=dict)


class ServedCompletions:
    """Completions from a server, with many requests in flight. ``server_info``: the id and root of its model list."""

    def __init__(self, client: Client, *, most: int, temperature: float, in_flight: int = IN_FLIGHT) -> None:
        """``most``: the largest number of tokens of a completion. Raises BadServer if the server does not have the model."""
        entry = model_entry(client)
        self.client, self.in_flight = client, in_flight
        self.server_info = {name: entry[name] for name in ("id", "root") if entry.get(name) is not None}
        self.whole = entry.get("owned_by") in _UNDERSTOOD_BY
        self._body: dict[str, Any] = {"model": client.address.model, "max_tokens": most, "temperature": temperature}
        self._body |= _WHOLE_DISTRIBUTION if self.whole else {}
        self._pool = ThreadPoolExecutor(in_flight, thread_name_prefix="generates")

    @classmethod
    def at(
        cls, address: Address, *, most: int, temperature: float, in_flight: int, retry: RetryPolicy
    ) -> ServedCompletions:
        """Opens the model at an address, with the API key from the environment. Raises BadServer as the constructor does."""
        client = Client(address, retry=retry, key=key_from_environment(), in_flight=in_flight)
        try:
            return cls(client, most=most, temperature=temperature, in_flight=in_flight)
        except BaseException:
            client.close()
            raise

    def __enter__(self) -> ServedCompletions:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def completions(self, requests: Iterable[tuple[int, Request]]) -> Iterator[tuple[int, Completion | QueryFailed]]:
        """Sends numbered requests; yields (number, completion or its failure) in the order of arrival.

        Raises BadServer if another model responds, or if no request can succeed (a refused key, a redirect).
        """
        pending: dict[Future[Completion], int] = {}
        for number, request in requests:
            pending[self._pool.submit(self._query, request)] = number
            if len(pending) == 2 * self.in_flight:
                yield from self._finished(pending)
        while pending:
            yield from self._finished(pending)

    def _finished(self, pending: dict[Future[Completion], int]) -> Iterator[tuple[int, Completion | QueryFailed]]:
        done, _ = wait(pending, return_when=FIRST_COMPLETED)
        for future in sorted(done, key=pending.__getitem__):
            number = pending.pop(future)
            try:
                yield number, future.result()
            except QueryFailed as failed:
                if failed.kind == "another model":
                    raise BadServer(
                        f"{self.client.address}: {failed}. Give the name of a model that it serves after the #"
                    ) from failed
                yield number, failed

    def _query(self, request: Request) -> Completion:
        chat = not isinstance(request.prompt, str)
        path = f"{self.client.address.path}/{'chat/completions' if chat else 'completions'}"
        body = self._body | {"messages" if chat else "prompt": request.prompt, "seed": request.seed}
        body |= request.extra
        form: Any = _Conversation if chat else _Completion
        return self.client.query(path, body, lambda response: _read(response, self.client.address.model), form=form)


class _Message(msgspec.Struct):
    content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class _Turn(msgspec.Struct):
    message: _Message
    finish_reason: str | None

    @property
    def text(self) -> str | None:
        return self.message.content

    @property
    def calls(self) -> list[dict[str, Any]] | None:
        return self.message.tool_calls or None


class _Conversation(msgspec.Struct):
    choices: list[_Turn]
    model: str | None = None
    usage: dict[str, Any] | None = None


class _Continuation(msgspec.Struct):
    text: str | None
    finish_reason: str | None
    calls = None


class _Completion(msgspec.Struct):
    choices: list[_Continuation]
    model: str | None = None
    usage: dict[str, Any] | None = None


def _read(response: _Conversation | _Completion, model: str) -> Completion:
    """The completion in a response's JSON. Raises QueryFailed if it is incomplete or another model's."""
    check_model(response, model)
    if not response.choices:
        raise QueryFailed(DAMAGED, "it has no choices")
    text, finish, calls = response.choices[0].text, response.choices[0].finish_reason, response.choices[0].calls
    if finish == _CALLS and calls:
        finish = STOP
    if finish not in (STOP, LENGTH, FILTERED):
        raise QueryFailed(DAMAGED, f"it ended by {finish!r}, not by {STOP}, {LENGTH} or {FILTERED}")
    usage = response.usage or {}
    tokens, prompt_tokens = (_count(usage.get(f"{kind}_tokens")) for kind in ("completion", "prompt"))
    return Completion(text or "", finish, tokens, prompt_tokens, calls)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None

"""A teacher on a server that writes: it answers conversations and continues texts, and says how it came to an end.

Only what every OpenAI-like server has is used (/chat/completions and /completions, without log-probabilities). Two of them, vLLM
and SGLang, draw with the settings that a model's authors recommend unless they are told otherwise, so they are told to draw from
the model's own distribution.

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
from limbeck.teachers.remote.http import Address, Client, QueryFailed, RetryPolicy, key_from_environment
from limbeck.teachers.remote.protocols import check_model
from limbeck.teachers.remote.served import IN_FLIGHT, model_entry

STOP, LENGTH, FILTERED = "stop", "length", "content_filter"
_CALLS = "tool_calls"  # how a turn ends that calls functions
_WHOLE_DISTRIBUTION = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
_UNDERSTOOD_BY = ("vllm", "sglang")  # what these say of whom a model belongs to


@dataclass(frozen=True)
class Completion:
    """What a teacher wrote; it ended by itself ("stop"), by the limit ("length"), or was kept back ("content_filter").

    ``tokens`` were written, to a prompt of so many: None where a server does not say. ``calls`` of functions stand beside
    the text.
    """

    text: str
    finish: str
    tokens: int | None
    prompt_tokens: int | None
    calls: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Request:
    """A conversation to answer or else a text to continue, and the seed of what is drawn.

    ``extra``: what belongs to a conversation besides its messages (``tools``, ``chat_template_kwargs``), as servers name it too.
    """

    prompt: list[dict[str, Any]] | str
    seed: int
    extra: Mapping[str, Any] = field(default_factory=dict)


class ServedGenerator:
    """Asks a server, many questions at once. ``server_info`` is what it tells of the model."""

    def __init__(self, client: Client, *, most: int, temperature: float, in_flight: int = IN_FLIGHT) -> None:
        """Raises BadServer where the server does not have the model."""
        entry = model_entry(client)
        self.client, self.in_flight = client, in_flight
        self.server_info = {name: entry[name] for name in ("id", "root") if entry.get(name) is not None}
        self.whole = entry.get("owned_by") in _UNDERSTOOD_BY
        self._body: dict[str, Any] = {"model": client.address.model, "max_tokens": most, "temperature": temperature}
        self._body |= _WHOLE_DISTRIBUTION if self.whole else {}
        self._pool = ThreadPoolExecutor(in_flight, thread_name_prefix="writes")

    @classmethod
    def at(
        cls, address: Address, *, most: int, temperature: float, in_flight: int, retry: RetryPolicy
    ) -> ServedGenerator:
        """The teacher at an address, with the key that the environment has."""
        client = Client(address, retry=retry, key=key_from_environment(), in_flight=in_flight)
        try:
            return cls(client, most=most, temperature=temperature, in_flight=in_flight)
        except BaseException:
            client.close()
            raise

    def __enter__(self) -> ServedGenerator:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def completions(self, requests: Iterable[tuple[int, Request]]) -> Iterator[tuple[int, Completion | QueryFailed]]:
        """Numbers of questions with their answers, or why there is none, as they come.

        Raises BadServer where another model answers, or nothing that is asked here ever will be.
        """
        asked: dict[Future[Completion], int] = {}
        for number, request in requests:
            asked[self._pool.submit(self._query, request)] = number
            if len(asked) == 2 * self.in_flight:
                yield from self._come(asked)
        while asked:
            yield from self._come(asked)

    def _come(self, asked: dict[Future[Completion], int]) -> Iterator[tuple[int, Completion | QueryFailed]]:
        done, _ = wait(asked, return_when=FIRST_COMPLETED)
        for future in sorted(done, key=asked.__getitem__):
            number = asked.pop(future)
            try:
                yield number, future.result()
            except QueryFailed as failed:
                if failed.kind == "another model":
                    raise BadServer(f"{self.client.address}: {failed}: nothing it says can be trusted") from failed
                yield number, failed

    def _query(self, request: Request) -> Completion:
        chat = not isinstance(request.prompt, str)
        path = f"{self.client.address.path}/{'chat/completions' if chat else 'completions'}"
        body = self._body | {"messages" if chat else "prompt": request.prompt, "seed": request.seed}
        body |= request.extra
        form: Any = _Conversation if chat else _Completion
        return self.client.query(path, body, lambda answer: _read(answer, self.client.address.model), form=form)


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


def _read(answer: _Conversation | _Completion, model: str) -> Completion:
    """What an answer's JSON says. Raises Failed where it is no whole answer of this model's."""
    check_model(answer, model)
    if not answer.choices:
        raise QueryFailed("damaged answer", "it has no choices")
    text, finish, calls = answer.choices[0].text, answer.choices[0].finish_reason, answer.choices[0].calls
    if finish == _CALLS and calls:
        finish = STOP
    if finish not in (STOP, LENGTH, FILTERED):
        raise QueryFailed("damaged answer", f"it ended by {finish!r}, not by {STOP}, {LENGTH} or {FILTERED}")
    usage = answer.usage or {}
    tokens, prompt_tokens = (_count(usage.get(f"{kind}_tokens")) for kind in ("completion", "prompt"))
    return Completion(text or "", finish, tokens, prompt_tokens, calls)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None

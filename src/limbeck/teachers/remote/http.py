"""Questions to a model's server: one at a time on a connection, with a time limit, asked again where that may help.

On http.client alone: nothing is needed for it, it follows no redirect, and reads no file of passwords, so a key goes to the
host it was meant for and nowhere else. The key comes from the environment and is taken out of whatever a server says before it
is repeated. An exchange ends at one deadline, from the connection to the last byte, and no answer may be larger than a bound.
"""

from __future__ import annotations

import io
import os
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache, partial
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from limbeck.disk import existing
from limbeck.errors import BadServer, BadSetting
from limbeck.scrub import API_KEYS, scrubbed
from limbeck.teachers.remote.proxy import connection_to, proxy_for

FORM = "http://HOST:PORT/v1#MODEL"
_LONGEST_PAUSE = 600.0  # seconds that a server may ask us to wait
_SAID = 300  # characters of a server's own words that are repeated
MOST_BYTES = 2**28  # of an answer; one of 8,192 tokens with 100 outcomes each has some 80 MB
_NO_MODEL = re.compile(r"[\s\x00-\x1f\x7f?=@&]")  # in no model's name, but in keys that were put behind one

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Address:
    """Where a server is, and the name by which it serves a model. ``path`` is that of its API, such as /v1."""

    scheme: str
    host: str
    port: int | None
    path: str
    model: str

    @classmethod
    def of(cls, text: str) -> Address:
        """Reads http://HOST:PORT/v1#MODEL. Raises BadSetting for anything else."""
        shown = f"--teacher {scrubbed(text)}: a served teacher is given as {FORM}"
        try:
            parts = urlsplit(text)
            port = parts.port if "@" not in text else None
        except ValueError:  # whose words would show what it takes for a port
            raise BadSetting(f"{shown}; the host or port of this cannot be read") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadSetting(f"{shown}; this has no http:// or https:// before its host")
        if "@" in text or "?" in text:
            raise BadSetting(
                f"{shown}, without user, password or query: an API key is read from the environment "
                f"({' or '.join(API_KEYS)}), so that no file and no list of processes shows it"
            )
        if not parts.fragment:
            raise BadSetting(f"{shown}; this does not say which model after a #")
        if _NO_MODEL.search(parts.fragment):
            raise BadSetting(
                f"{shown}; a model's name has no blank and none of ? = @ &, as what follows the # here has"
            )
        return cls(parts.scheme, parts.hostname, port, parts.path.rstrip("/"), parts.fragment)

    @property
    def root(self) -> str:
        """The path of what is no part of the API's version: /v1 taken off."""
        return self.path.removesuffix("/v1")

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}{self.path}#{self.model}"


def is_served(name: str) -> bool:
    """Whether this can only be meant as a model on a server; a folder of that name would be one of a model."""
    meant = "://" in name or "#" in name or re.match(r"[\w.-]+:\d+(/|$)", name) is not None
    return meant and existing(name) is None


def key_from_environment() -> str | None:
    """The API key, if there is one, without blanks around it. Raises BadSetting for one that no header can hold."""
    for name in API_KEYS:
        key = os.environ.get(name, "").strip()  # a file with Windows' line ends leaves a carriage return
        if not key:
            continue
        if re.fullmatch(r"[\x21-\x7e]+", key) is None:
            raise BadSetting(
                f"{name}: expected an API key of visible ASCII characters, got {len(key)} characters with a blank, a line "
                "break or another letter among them (the key is not shown): set it again"
            )
        return key
    return None


@dataclass(frozen=True)
class RetryPolicy:
    """How long and how often a question is asked: pauses and ``limit``, of a whole exchange, in seconds.

    Before try n + 1 it waits between 0 and the smaller of ``longest`` and ``first`` x 2^n, drawn evenly ("full jitter", M.
    Brooker, AWS Architecture Blog, 2015), or as long as the server says.
    """

    tries: int = 6
    limit: float = 120.0
    first: float = 0.5
    longest: float = 30.0

    def pause(self, tried: int, told: float | None) -> float:
        """Seconds to wait after so many tries in vain; ``told`` are those of a Retry-After."""
        return max(told or 0.0, random.uniform(0, min(self.longest, self.first * 2**tried)))


class QueryFailed(Exception):
    """A question without an answer. ``kind`` is what is counted, ``partial`` what of the answer can be used."""

    def __init__(
        self, kind: str, said: str = "", *, again: bool = True, after: float | None = None, partial: Any = None
    ) -> None:
        super().__init__(f"{kind}: {said}" if said else kind)
        self.kind, self.again, self.after, self.partial = kind, again, after, partial


class Client:
    """Asks one server, from any number of threads, each on a connection of its own. ``repeated`` questions were asked again.

    The server has ``in_flight`` questions at a time, whatever the threads: with more of them one's answer is read while
    another's question is out.
    """

    def __init__(self, address: Address, *, retry: RetryPolicy, key: str | None, in_flight: int) -> None:
        self.address, self.retry, self._key = address, retry, key
        self._in_flight = threading.BoundedSemaphore(in_flight)
        self._local = threading.local()
        self.repeated = 0
        self._open: set[HTTPConnection] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._context = ssl.create_default_context() if address.scheme == "https" else None
        self._proxy = proxy_for(address.scheme, address.host)

    def query(
        self, path: str, body: Mapping[str, Any] | None, read: Callable[[Any], Answer], *, form: Any = Any
    ) -> Answer:
        """What ``read`` makes of the answer's JSON; of a GET without a body. It raises Failed where that is damaged.

        ``form`` is what the JSON must be, as msgspec takes it: an answer of a thousand tokens is a megabyte or more, and is
        read several times faster where what nobody asks of it is passed over.

        Asks again where that may help. Raises Failed where it did not, BadServer where nothing will: a key that is refused,
        or a redirect.
        """
        data = None if body is None else msgspec.json.encode(body)
        for tried in range(self.retry.tries):
            try:
                return read(self._once(path, data, _decoder(form)))
            except QueryFailed as failed:
                failed.args = (self.without_key(str(failed)),)  # what an answer says may be anything
                if not failed.again or tried + 1 == self.retry.tries:
                    raise
                pause = self.retry.pause(tried, failed.after)
                if self._closed.wait(pause):
                    raise QueryFailed("stopped", again=False) from failed
                with self._lock:
                    self.repeated += 1
        raise AssertionError("a question is asked at least once")

    def close(self) -> None:
        """Ends all waiting: questions that have no answer yet fail, and no others are asked."""
        self._closed.set()
        with self._lock:
            for connection in self._open:
                with suppress(OSError, AttributeError):  # without a socket there is nothing to end
                    connection.sock.shutdown(socket.SHUT_RDWR)  # wakes who reads from it, which closing does not
                connection.close()
            self._open.clear()

    def _once(self, path: str, data: bytes | None, decoder: msgspec.json.Decoder[Any]) -> Any:
        try:
            with self._in_flight:
                status, headers, raw = self._exchange(path, data, time.monotonic() + self.retry.limit)
        except TimeoutError as error:
            self._drop()
            raise QueryFailed("time limit", f"no answer in {self.retry.limit:g} s") from error
        except (OSError, HTTPException) as error:
            self._drop()
            through = f" through the proxy {self._proxy}" if self._proxy else ""
            raise QueryFailed("connection", type(error).__name__ + f" {error}".rstrip() + through) from error
        except BaseException:
            self._drop()  # what is half read would be the next question's answer
            raise
        if status != 200:
            raise self._refusal(path, status, headers, raw)
        try:
            return decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise QueryFailed("damaged answer", str(error)) from error

    def _exchange(self, path: str, data: bytes | None, deadline: float) -> tuple[int, Mapping[str, str], bytes]:
        """(status, headers by small name, body)."""
        connection = self._connection(deadline)
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        target = path or "/"
        if self._proxy and self._context is None:  # else the proxy was told when the tunnel was made
            headers |= self._proxy.headers
            port = "" if self.address.port is None else f":{self.address.port}"
            target = f"http://{self.address.host}{port}{target}"
        connection.request("GET" if data is None else "POST", target, body=data, headers=headers)
        response = connection.getresponse()
        raw = _read_all(response)
        if response.will_close:
            self._drop()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, raw

    def _connection(self, deadline: float) -> HTTPConnection:
        """This thread's connection, new or open, of which all that is read and sent from now on ends at the deadline."""
        connection: HTTPConnection | None = getattr(self._local, "connection", None)
        if self._closed.is_set():
            raise QueryFailed("stopped", again=False)
        left = max(0.001, deadline - time.monotonic())
        if connection is None:
            address = self.address
            where = (address.scheme, address.host, address.port)
            connection = connection_to(*where, proxy=self._proxy, timeout=left, context=self._context)
            self._local.connection = connection
            with self._lock:
                self._open.add(connection)
        connection.response_class = partial(_Response, deadline=deadline)  # type: ignore[assignment]
        if connection.sock is None:
            connection.connect()
        if self._closed.is_set():  # meanwhile, by another thread, which found nothing open here
            raise QueryFailed("stopped", again=False)
        connection.sock.settimeout(max(0.001, deadline - time.monotonic()))
        return connection

    def _drop(self) -> None:
        connection: HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            with self._lock:
                self._open.discard(connection)
        self._local.connection = None

    def _refusal(self, path: str, status: int, headers: Mapping[str, str], raw: bytes) -> Exception:
        """What an answer that is none means."""
        said = self.without_key(raw.decode("utf-8", "replace"))[:_SAID]
        if status in (401, 403):
            given = "the key in the environment" if self._key else "no key"
            return BadServer(
                f"{self.address}: the server refuses {given} (status {status}: {said}): set {API_KEYS[0]} to one that it takes"
            )
        if 300 <= status < 400:
            to = self.without_key(headers.get("location", "somewhere else"))
            return BadServer(
                f"{self.address}: the server sends us on to {to} (status {status}), which is not followed, since a key "
                "would go there too: give that address, if it is the right one"
            )
        if status in (408, 425, 429) or status >= 500:
            after = _retry_after(headers.get("retry-after"))
            return QueryFailed(f"status {status}", said, again=(after or 0.0) <= _LONGEST_PAUSE, after=after)
        return QueryFailed(f"status {status}", f"{path}: {said}", again=False)

    def without_key(self, text: str) -> str:
        """A text without the API key in it, and without passwords of addresses."""
        return scrubbed(text.replace(self._key, "***") if self._key else text)


@cache
def _decoder(form: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(form)


class _Response(HTTPResponse):
    """An answer of which status, headers and body have come by a deadline, in the clock of time.monotonic."""

    def __init__(self, sock: socket.socket, *args: Any, deadline: float, **keys: Any) -> None:
        super().__init__(sock, *args, **keys)
        self.fp = io.BufferedReader(_Until(self.fp.detach(), sock, deadline))


class _Until(io.RawIOBase):
    """What is read from a socket, each read within what is left until the deadline. Raises TimeoutError after it."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: float) -> None:
        self._raw, self._sock, self._deadline = raw, sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def _read_all(response: HTTPResponse) -> bytes:
    """All of a body. Raises Failed where it is too large, HTTPException where it ends too early."""
    parts, size = [], 0
    too_large = QueryFailed("too large an answer", f"it has more than {MOST_BYTES:,} bytes", again=False)
    if (response.length or 0) > MOST_BYTES:
        response.close()
        raise too_large
    with closing(response):  # without which the connection takes no other question
        while part := response.read1(2**16):
            parts.append(part)
            size += len(part)
            if size > MOST_BYTES:
                raise too_large
        if response.length:  # read1 does not say so
            raise HTTPException(f"the answer ends {response.length} bytes too early")
    return b"".join(parts)


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After, which is a number or a date (RFC 9110, sec. 10.2.3)."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None

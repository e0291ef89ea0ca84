"""The HTTP client of a model's server: one request at a time on a connection, a time limit, retries of what may succeed later.

It uses http.client alone, which follows no redirect and reads no password file, so an API key reaches the intended host only. The
key comes from the environment; it is removed from every text of a server before that is shown. One deadline covers a whole
exchange, from the connection to the last byte. The size of a response is bounded.
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
_LONGEST_PAUSE = 600.0  # seconds of a Retry-After that are honoured
_SHOWN = 300  # characters of a server's text in a message
MOST_BYTES = 2**28  # of a response; one of 8,192 tokens with 100 outcomes each has some 80 MB
_NO_MODEL = re.compile(r"[\s\x00-\x1f\x7f?=@&]")  # in no model's name, but in keys that were appended to one

DAMAGED = "damaged response"  # the kind of a failure
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Address:
    """The address of a served model: the server, the path of its API (such as /v1), and the model's name there."""

    scheme: str
    host: str
    port: int | None
    path: str
    model: str

    @classmethod
    def of(cls, text: str) -> Address:
        """Parses http://HOST:PORT/v1#MODEL. Raises BadSetting for anything else, without showing a password or key in it."""
        shown = f"--teacher {scrubbed(text)}: a served teacher is given as {FORM}"
        try:
            parts = urlsplit(text)
            port = parts.port if "@" not in text else None
        except ValueError:  # its message would show what it takes for a port
            raise BadSetting(f"{shown}; the host or port of this one cannot be read") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadSetting(f"{shown}; this one has no http:// or https:// before its host")
        if "@" in text or "?" in text:
            raise BadSetting(
                f"{shown}, without user, password or query: an API key is read from the environment "
                f"({' or '.join(API_KEYS)}), so that no file and no list of processes shows it"
            )
        if not parts.fragment:
            raise BadSetting(f"{shown}; this one names no model after a #")
        if _NO_MODEL.search(parts.fragment):
            raise BadSetting(
                f"{shown}; a model's name has no blank and none of ? = @ &, but what follows the # here has one"
            )
        return cls(parts.scheme, parts.hostname, port, parts.path.rstrip("/"), parts.fragment)

    @property
    def root(self) -> str:
        """The path outside the versioned API: without /v1."""
        return self.path.removesuffix("/v1")

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}{self.path}#{self.model}"


def is_served(name: str) -> bool:
    """Whether a teacher's name is the address of a server. An existing folder of that name is a local model instead."""
    meant = "://" in name or "#" in name or re.match(r"[\w.-]+:\d+(/|$)", name) is not None
    return meant and existing(name) is None


def key_from_environment() -> str | None:
    """The API key from the environment, stripped; None without one. Raises BadSetting for a key that no HTTP header can hold."""
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
    """How often a request is tried, the time limit of one exchange, and the pauses between tries; all times in seconds.

    The pause before try n + 1 is uniform between 0 and the smaller of ``longest`` and ``first`` x 2^n ("full jitter", M. Brooker,
    AWS Architecture Blog, 2015), and at least the server's Retry-After.
    """

    tries: int = 6
    limit: float = 120.0
    first: float = 0.5
    longest: float = 30.0

    def pause(self, tried: int, retry_after: float | None) -> float:
        """Seconds to wait after ``tried`` failed tries; ``retry_after`` are those of a Retry-After header."""
        return max(retry_after or 0.0, random.uniform(0, min(self.longest, self.first * 2**tried)))


class QueryFailed(Exception):
    """A request that gave no usable response. ``kind`` is the reason by which failures are counted.

    ``again``: whether a retry may succeed, ``after`` so many seconds. ``partial`` is the usable part of the response.
    """

    def __init__(
        self, kind: str, details: str = "", *, again: bool = True, after: float | None = None, partial: Any = None
    ) -> None:
        super().__init__(f"{kind}: {details}" if details else kind)
        self.kind, self.again, self.after, self.partial = kind, again, after, partial


class Client:
    """HTTP client of one server, for any number of threads, each with its own connection. ``repeated`` counts retries.

    At most ``in_flight`` requests are concurrent, whatever the number of threads: further threads parse their responses
    meanwhile.
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
        """Sends ``body`` by POST to ``path`` (GET without a body), and gives what ``read`` makes of the response's JSON.

        ``form`` is the JSON's type for msgspec: a response of a thousand tokens is a megabyte or more, and is parsed several
        times faster when unused fields are skipped. ``read`` raises QueryFailed for a damaged response. Retries what may succeed
        later.

        Raises QueryFailed after the last try, BadServer if no retry can help: the server refuses the key, or redirects.
        """
        data = None if body is None else msgspec.json.encode(body)
        for tried in range(self.retry.tries):
            try:
                return read(self._once(path, data, _decoder(form)))
            except QueryFailed as failed:
                failed.args = (self.without_key(str(failed)),)  # a response may repeat the key
                if not failed.again or tried + 1 == self.retry.tries:
                    raise
                pause = self.retry.pause(tried, failed.after)
                if self._closed.wait(pause):
                    raise QueryFailed("stopped", again=False) from failed
                with self._lock:
                    self.repeated += 1
        raise AssertionError("a request is sent at least once")

    def close(self) -> None:
        """Ends all connections and pauses: open requests fail, and no others are sent."""
        self._closed.set()
        with self._lock:
            for connection in self._open:
                with suppress(OSError, AttributeError):  # a connection without a socket
                    connection.sock.shutdown(
                        socket.SHUT_RDWR
                    )  # wakes a thread that reads from it; close alone does not
                connection.close()
            self._open.clear()

    def _once(self, path: str, data: bytes | None, decoder: msgspec.json.Decoder[Any]) -> Any:
        try:
            with self._in_flight:
                status, headers, raw = self._exchange(path, data, time.monotonic() + self.retry.limit)
        except TimeoutError as error:
            self._drop()
            raise QueryFailed("time limit", f"no response within {self.retry.limit:g} s") from error
        except (OSError, HTTPException) as error:
            self._drop()
            through = f" through the proxy {self._proxy}" if self._proxy else ""
            raise QueryFailed("connection", type(error).__name__ + f" {error}".rstrip() + through) from error
        except BaseException as error:
            self._drop()  # the unread rest would be taken for the next response
            # A connection that is closed meanwhile fails in any way.
            if self._closed.is_set() and isinstance(error, Exception):
                raise QueryFailed("stopped", again=False) from error
            raise
        if status != 200:
            raise self._refusal(path, status, headers, raw)
        try:
            return decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise QueryFailed(DAMAGED, str(error)) from error

    def _exchange(self, path: str, data: bytes | None, deadline: float) -> tuple[int, Mapping[str, str], bytes]:
        """(status, headers by lower-case name, body)."""
        connection = self._connection(deadline)
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        target = path or "/"
        if self._proxy and self._context is None:  # for https the tunnel has its own headers
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
        """This thread's connection, new or open; everything read and sent on it from now on ends at the deadline."""
        connection: HTTPConnection | None = getattr(self._local, "connection", None)
        if self._closed.is_set():
            raise QueryFailed("stopped", again=False)
        left = max(0.001, deadline - time.monotonic())
        if connection is None:
            address = self.address
            where = (address.scheme, address.host, address.port)
            connection = connection_to(*where, proxy=self._proxy, timeout=left, context=self._context)
            # A request on a connection that close() ended would else open another, which nothing closes.
            connection.auto_open = 0
            self._local.connection = connection
            with self._lock:
                self._open.add(connection)
        connection.response_class = partial(_Response, deadline=deadline)  # type: ignore[assignment]
        if connection.sock is None:
            connection.connect()
        if self._closed.is_set():  # by another thread, while this one was connecting
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
        """The error of a response with another status than 200."""
        text = self.without_key(raw.decode("utf-8", "replace"))[:_SHOWN]
        if status in (401, 403):
            given = "the key in the environment" if self._key else "no key"
            return BadServer(
                f"{self.address}: the server refuses {given} (status {status}: {text}): set {API_KEYS[0]} to a valid key"
            )
        if 300 <= status < 400:
            to = self.without_key(headers.get("location", "somewhere else"))
            return BadServer(
                f"{self.address}: the server redirects to {to} (status {status}). Redirects are not followed, since the API key "
                "would be sent there too: give that address, if it is the right one"
            )
        if status in (408, 425, 429) or status >= 500:
            after = _retry_after(headers.get("retry-after"))
            return QueryFailed(f"status {status}", text, again=(after or 0.0) <= _LONGEST_PAUSE, after=after)
        return QueryFailed(f"status {status}", f"{path}: {text}", again=False)

    def without_key(self, text: str) -> str:
        """A text with the API key and passwords in addresses removed."""
        return scrubbed(text.replace(self._key, "***") if self._key else text)


@cache
def _decoder(form: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(form)


class _Response(HTTPResponse):
    """A response whose status, headers and body must arrive by a deadline, in seconds of time.monotonic."""

    def __init__(self, sock: socket.socket, *args: Any, deadline: float, **keys: Any) -> None:
        super().__init__(sock, *args, **keys)
        self.fp = io.BufferedReader(_Until(self.fp.detach(), sock, deadline))


class _Until(io.RawIOBase):
    """Reads from a socket, each read within the time left until the deadline. Raises TimeoutError after it."""

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
    """The whole body. Raises QueryFailed if it is too large, HTTPException if it ends too early."""
    parts, size = [], 0
    too_large = QueryFailed("response too large", f"it has more than {MOST_BYTES:,} bytes", again=False)
    if (response.length or 0) > MOST_BYTES:
        response.close()
        raise too_large
    with closing(response):  # the connection accepts no other request before
        while part := response.read1(2**16):
            parts.append(part)
            size += len(part)
            if size > MOST_BYTES:
                raise too_large
        if response.length:  # read1 raises nothing here
            raise HTTPException(f"the response ends {response.length} bytes too early")
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

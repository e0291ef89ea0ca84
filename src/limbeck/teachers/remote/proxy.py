"""The proxy that the environment names for a server: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, in either case.

They are read as by curl and Python's urllib, with one difference: a server on this machine is never reached through a proxy.
"""

from __future__ import annotations

import base64
import ipaddress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from ssl import SSLContext
from urllib.parse import unquote, urlsplit
from urllib.request import (  # type: ignore[attr-defined]
    getproxies_environment,
    proxy_bypass_environment,
)

from limbeck.errors import BadSetting
from limbeck.scrub import scrubbed


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy; ``headers`` hold its credentials, if it has any."""

    host: str
    port: int
    headers: dict[str, str]

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def proxy_for(scheme: str, host: str) -> Proxy | None:
    """The proxy for a host; None if the environment names none, or if NO_PROXY excepts this host.

    Raises BadSetting if the environment names a proxy that is not an HTTP proxy.
    """
    found = getproxies_environment()
    address = found.get(scheme) or found.get("all")
    if not address or _is_here(host) or proxy_bypass_environment(host, found):
        return None
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        port = parts.port or 80
    except ValueError as error:
        raise _refused(scheme, address) from error
    if parts.scheme != "http" or not parts.hostname:
        raise _refused(scheme, address)
    return Proxy(parts.hostname, port, _who(parts.username, parts.password))


def connection_to(
    scheme: str, host: str, port: int | None, *, proxy: Proxy | None, timeout: float, context: SSLContext | None
) -> HTTPConnection:
    """A connection, not yet open, to a host or to its proxy. ``timeout`` is in seconds."""
    where = (proxy.host, proxy.port) if proxy else (host, port)
    if context is None:
        return HTTPConnection(*where, timeout=timeout)
    connection = HTTPSConnection(*where, timeout=timeout, context=context)
    if proxy:
        connection.set_tunnel(host, port or 443, headers=proxy.headers)
    return connection


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _who(user: str | None, password: str | None) -> dict[str, str]:
    if user is None:
        return {}
    pair = f"{unquote(user)}:{unquote(password or '')}".encode()
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair).decode()}"}


def _refused(scheme: str, address: str) -> BadSetting:
    return BadSetting(
        f"{scheme.upper()}_PROXY={scrubbed(address)}: expected an HTTP proxy, http://HOST:PORT; name one, or except the "
        "server with NO_PROXY"
    )

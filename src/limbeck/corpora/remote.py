"""Files that are elsewhere: addresses such as s3://bucket/a.jsonl.gz, read by fsspec as they stream.

Which protocols there are depends on what is installed (s3fs for s3://, gcsfs for gs://, aiohttp for https://). Addresses may be
chained (zip://*.jsonl::s3://bucket/a.zip). Credentials come from where these packages look for them. An address that holds some
is refused, since addresses are written into files and messages.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import SplitResult, urlsplit

from limbeck.disk import shown
from limbeck.errors import BadCorpus, first_line

_CHAIN = "::"
_ADDRESS = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*::)*[A-Za-z][A-Za-z0-9+.-]*://")
_CONTAINERS = ("abfs", "abfss")  # schemes that name a container before the @, where others name a user
_VERSIONS = (
    *("ETag", "etag", "md5Hash", "Content-MD5", "checksum", "xet_hash", "blob_id", "CRC"),
    *("mtime", "LastModified", "Last-Modified", "last_modified", "updated", "created"),
)


@dataclass(frozen=True)
class RemoteFile:
    """A file at an address. ``label`` names it in documents, ``version`` is what its server tells of its content.

    It is opened by the fsspec ``system`` that listed it and its ``path`` there, which may not name the host.
    """

    address: str
    label: str
    size: int | None
    version: str
    system: Any = field(repr=False, compare=False)
    path: str = field(repr=False, compare=False)

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(self.path).name

    @property
    def suffix(self) -> str:
        """The extension of its name."""
        return PurePosixPath(self.path).suffix

    @property
    def stamp(self) -> tuple[Any, ...]:
        """What tells it from another without reading it."""
        return hashlib.sha256(self.address.encode()).hexdigest()[:16], self.size, self.version

    def open(self, mode: str) -> BinaryIO:
        """Its bytes, which are fetched while they are read."""
        return cast(BinaryIO, self.system.open(self.path, mode))


def is_remote(source: str) -> bool:
    """Whether a source is an address."""
    return _ADDRESS.match(source) is not None


def found_at(address: str) -> list[RemoteFile]:
    """The files at an address, a folder's or those that a pattern matches, sorted; hidden ones are left out.

    Raises BadCorpus where nothing can be read there, and for an address with credentials.
    """
    _check(address)
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(address)
        if any(sign in path for sign in "*["):
            root, paths = re.split(r"[*\[]", path)[0].rpartition("/")[0], system.glob(path)
        elif system.isfile(path):
            root, paths = path.rpartition("/")[0], [path]
        else:
            root, paths = path, system.find(path)
        found = [(name, system.info(name)) for name in sorted(paths)]
        address_of = _written(address, system, found[0][0] if found else "")
    except ImportError as error:
        raise BadCorpus(f"{shown(address)}: its protocol needs another package: {first_line(error)}") from None
    except Exception as error:  # each system raises its own
        raise BadCorpus(
            f"{shown(address)}: expected files that can be read, got {type(error).__name__}: {shown(first_line(error))}: check "
            "the address, and the credentials where it needs some"
        ) from None
    files = [
        RemoteFile(address_of(name), _below(name, root), info.get("size"), _version(info), system, name)
        for name, info in found
        if info.get("type") != "directory" and not any(p.startswith(".") for p in _below(name, root).split("/"))
    ]
    if not files:
        raise BadCorpus(f"{shown(address)}: expected files, got none there: check the address")
    return files


def _written(address: str, system: Any, name: str) -> Callable[[str], str]:
    """How the files of a system are written as addresses. Of several forms the first is taken that leads back to ``name``."""
    links = address.split(_CHAIN)
    first = next((i for i, link in enumerate(links) if "://" in link), 0)  # behind caches, which name no place
    *usual, last = _forms(links, 0, system)
    behind = _forms(links, first, system) if first else []
    return next((form for form in (*usual, *behind) if _leads_to(form(name), system, name)), last)


def _forms(links: Sequence[str], at: int, system: Any) -> list[Callable[[str], str]]:
    """Ways to write a file as a chain of addresses, of which one link names it: by its host, its bucket, or the system."""
    scheme, _, place = links[at].partition("://")
    host = f"{scheme}://{place.partition('/')[0]}"
    forms: tuple[Callable[[str], str], ...] = (
        lambda name: f"{host}/{name.lstrip('/')}",  # of a system whose paths do not name its host: sftp, ftp, hdfs
        lambda name: f"{host}/{name.partition('/')[2]}",  # paths that begin with a bucket or container
        lambda name: str(system.unstrip_protocol(name)),
    )
    return [
        lambda name, form=form: _CHAIN.join([*links[:at], form(name), *links[at + 1 :]])  # type: ignore[misc]
        for form in forms
    ]


def _leads_to(address: str, system: Any, name: str) -> bool:
    """Whether an address is that of a file of a system."""
    import fsspec

    try:
        other, path = fsspec.core.url_to_fs(address)
    except Exception:  # each system raises its own
        return False
    return bool(path == name and other == system)


def _check(address: str) -> None:
    """Raises BadCorpus for a part of a chained address that is empty, cannot be parsed, or has credentials in it."""
    for link in address.split(_CHAIN):
        if not link:
            raise BadCorpus(f"{shown(address)}: expected an address before and behind {_CHAIN}, got nothing")
        parts = _parsed(link)
        user = parts.username and parts.scheme.lower() not in _CONTAINERS
        if user or parts.password or parts.query:
            raise BadCorpus(
                f"{parts.scheme}://{parts.hostname}: expected an address without credentials and without a query (?...), which "
                "would be written into files: give credentials as its package takes them, in a file or in the environment"
            )


def _parsed(link: str) -> SplitResult:
    try:
        return urlsplit(link)
    except ValueError:  # its message may hold all that is before the host
        scheme, _, rest = link.partition("://")
        there = f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"
        raise BadCorpus(
            f"{shown(there)}: expected an address such as s3://bucket/a.jsonl, got one whose host cannot be read: leave out "
            "brackets, which are for addresses of IPv6"
        ) from None


def _below(path: str, root: str) -> str:
    return path.removeprefix(root).lstrip("/")


def _version(info: dict[str, Any]) -> str:
    return next((str(info[key]) for key in _VERSIONS if info.get(key)), "")

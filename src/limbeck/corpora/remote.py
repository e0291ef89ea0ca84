"""Files that are elsewhere: addresses such as s3://bucket/a.jsonl.gz, read by fsspec as they stream.

Which protocols there are depends on what is installed (s3fs for s3://, gcsfs for gs://, aiohttp for https://). Credentials come
from where these packages look for them. An address that holds some is refused, since addresses are written into files and
messages.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from limbeck.disk import shown
from limbeck.errors import BadCorpus, first_line

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_VERSIONS = (
    *("ETag", "etag", "md5Hash", "Content-MD5", "checksum", "xet_hash", "blob_id"),
    *("mtime", "LastModified", "Last-Modified", "last_modified", "updated", "created"),
)


@dataclass(frozen=True)
class RemoteFile:
    """A file at an address. ``label`` names it in documents, ``version`` is what its server tells of its content."""

    address: str
    label: str
    size: int | None
    version: str

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        """The last part of its address."""
        return PurePosixPath(self.address).name

    @property
    def suffix(self) -> str:
        """The extension of its name."""
        return PurePosixPath(self.address).suffix

    @property
    def stamp(self) -> tuple[Any, ...]:
        """What tells it from another without reading it."""
        return hashlib.sha256(self.address.encode()).hexdigest()[:16], self.size, self.version

    def open(self, mode: str) -> BinaryIO:
        """Its bytes, which are fetched while they are read."""
        import fsspec

        system, path = fsspec.core.url_to_fs(self.address)
        return cast(BinaryIO, system.open(path, mode))


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
    except ImportError as error:
        raise BadCorpus(f"{address}: its protocol needs another package: {first_line(error)}") from None
    except Exception as error:  # each system raises its own
        raise BadCorpus(
            f"{shown(address)}: expected files that can be read, got {type(error).__name__}: {shown(first_line(error))}: check "
            "the address, and the credentials where it needs some"
        ) from None
    files = [
        RemoteFile(str(system.unstrip_protocol(name)), _below(name, root), info.get("size"), _version(info))
        for name, info in found
        if info.get("type") != "directory" and not any(p.startswith(".") for p in _below(name, root).split("/"))
    ]
    if not files:
        raise BadCorpus(f"{shown(address)}: expected files, got none there: check the address")
    return files


def _check(address: str) -> None:
    parts = urlsplit(address)
    if parts.username or parts.password or parts.query:
        raise BadCorpus(
            f"{parts.scheme}://{parts.hostname}: expected an address without credentials and without a query (?...), which would "
            "be written into files: give credentials as its package takes them, in a file or in the environment"
        )


def _below(path: str, root: str) -> str:
    return path.removeprefix(root).lstrip("/")


def _version(info: dict[str, Any]) -> str:
    return next((str(info[key]) for key in _VERSIONS if info.get(key)), "")

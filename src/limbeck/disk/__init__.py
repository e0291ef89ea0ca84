"""What is on disk: files and folders that are whole or not there, locks, and limbeck's own JSON."""

from limbeck.disk.lock import LOCK, claims, locked, release, take, tidy
from limbeck.disk.names import existing, shown
from limbeck.disk.records import damaged, finite, read_json, read_lines, sha256_of, write_json
from limbeck.disk.whole import (
    fresh_file,
    own_file,
    place,
    refuse_links,
    replacing,
    sync,
    whole,
    whole_folder,
    write_text,
    writing,
)

__all__ = [
    "LOCK",
    "claims",
    "damaged",
    "existing",
    "finite",
    "fresh_file",
    "locked",
    "own_file",
    "place",
    "read_json",
    "read_lines",
    "refuse_links",
    "release",
    "replacing",
    "sha256_of",
    "shown",
    "sync",
    "take",
    "tidy",
    "whole",
    "whole_folder",
    "write_json",
    "write_text",
    "writing",
]

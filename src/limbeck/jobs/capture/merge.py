"""`limbeck cache merge`: the shards of several machines as one folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.disk import (
    link_or_copy,
    locked,
    read_json,
    refuse_links,
    remove_leftovers,
    require_undamaged,
    write_json,
    writing,
)
from limbeck.errors import BadFolder, BadModel, Mismatch
from limbeck.jobs.common.captured import CERTIFICATE, CUT, DATA, HELD_OUT, MEASURED, Facts
from limbeck.teachers import LogitCache
from limbeck.teachers.cache import MANIFEST, REMEDY, read_manifest
from limbeck.teachers.ref import ANSWERS, DESCRIPTION, VOCABULARY

_OF_FIRST = (DESCRIPTION, DATA, HELD_OUT, Path(MEASURED).parts[0], CERTIFICATE)  # what the first shard has for all
_IF_THERE = (CUT, VOCABULARY, f"{VOCABULARY}.json")


def merge(out: Path, folders: Sequence[Path]) -> dict[str, Any]:
    """Joins shards in ``out``, by hard links where the disk allows; gives ``{"out", "rows", "shards"}``.

    A stopped merge continues, since the manifest is written last. Raises BadModel if a shard is missing or incomplete, Mismatch
    if two have different origins, and BadFolder if ``out`` contains something else.
    """
    shards = sorted(((folder, LogitCache(folder / ANSWERS)) for folder in folders), key=lambda shard: shard[1].first)
    run = read_json(shards[0][0] / "run.json", Facts, error=BadModel, remedy=REMEDY)
    check_whole(shards, rows=run["rows"])
    for folder, cache in shards:
        cache.verify()
        require_undamaged(folder, error=BadModel)  # anything else that has a checksum
    record = {"shards": [str(folder) for folder, _ in shards], "made_from": _made_from(shards[0][1])}
    with writing(out), locked(out):
        begun = out / "merge.json"
        held = [path.name for path in out.iterdir() if not path.name.startswith(".")]
        if held and (not begun.exists() or read_json(begun, remedy="give merge a new folder") != record):
            raise BadFolder(f"{out} holds something else: nothing was written. Give merge a new folder.")
        remove_leftovers(out)
        refuse_links(out)
        write_json(begun, record)
        for name in (*_OF_FIRST, *(some for some in _IF_THERE if (shards[0][0] / some).exists())):
            link_or_copy(shards[0][0] / name, out / name)
        entries = []
        for folder, cache in shards:
            for entry in cache.shards:
                link_or_copy(folder / ANSWERS / entry["file"], out / ANSWERS / entry["file"])
                entries.append(entry)
        run["signature"]["shard"] = [1, 1]
        write_json(out / "run.json", run)
        manifest = read_manifest(shards[0][1].folder)
        manifest["made_from"]["rows"] = [0, run["rows"]]
        write_json(out / ANSWERS / MANIFEST, manifest | {"first": 0, "rows": run["rows"], "shards": entries})
    return {"out": str(out), "rows": run["rows"], "shards": len(shards)}


def check_whole(shards: Sequence[tuple[Path, LogitCache]], *, rows: int) -> None:
    """Raises BadModel if shards, sorted by their first row, are not all ``rows``, Mismatch if two have different origins."""
    expected, due = _made_from(shards[0][1]), 0
    for folder, cache in shards:
        found = _made_from(cache)
        for key in expected.keys() | found.keys():
            if expected.get(key) != found.get(key):
                raise Mismatch(
                    f"{folder} was made from another {key} than {shards[0][0]}: {found.get(key)!r} there, "
                    f"{expected.get(key)!r} here. Shards of one cache are captured by one command but for --shard and --out"
                    + (", with --codec given where it was measured differently" if key == "codec" else "")
                )
        if cache.first != due:
            what = "are missing" if cache.first > due else "come twice"
            low, high = min(due, cache.first), max(due, cache.first) - 1
            raise BadModel(f"rows {low:,} to {high:,} {what} before {folder}: give each shard once, and all of them")
        due += cache.rows
    if due != rows:
        raise BadModel(f"rows {due:,} to {rows - 1:,} are missing: give all shards, to the last")


def _made_from(cache: LogitCache) -> dict[str, Any]:
    return {key: value for key, value in cache.made_from.items() if key != "rows"}

"""`limbeck push`: a student or an export as a repository of the Hugging Face hub, private unless it is said otherwise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from rich.console import Console

from limbeck.config import PushSettings
from limbeck.errors import BadServer, BadSetting, first_line
from limbeck.jobs.push.card import card_of
from limbeck.jobs.push.files import CARD, check_texts, files_of, require_no_paths
from limbeck.report.words import counted, size
from limbeck.scrub import scrubbed

_REPO = re.compile(r"(?:[\w.-]+/)?[\w.-]{1,96}")


def push(settings: PushSettings) -> dict[str, Any]:
    """Sends a folder; gives ``{"repo", "private", "dry_run", "files", "bytes", "card", "url"}``, ``files`` by name with bytes.

    With ``dry_run`` nothing is sent, and no server is asked. Raises BadSetting for a name that no repository can have, or for one
    that is public while ``public`` is false; BadFolder for a folder without weights, or one that tells of this machine; BadServer
    where the hub does not take it.
    """
    if not _REPO.fullmatch(settings.repo) or ".." in settings.repo:
        raise BadSetting(f"--repo {settings.repo}: expected NAME or OWNER/NAME, of letters, digits, '-', '_' and '.'")
    files = files_of(settings.model)
    check_texts(files)
    card = card_of(settings.model, settings.repo)
    require_no_paths(CARD, card)
    sizes = {file.name: file.stat().st_size for file in files if file.name != CARD} | {CARD: len(card.encode())}
    result = {
        "repo": settings.repo,
        "private": not settings.public,
        "dry_run": settings.dry_run,
        "files": dict(sorted(sizes.items())),
        "bytes": sum(sizes.values()),
        "card": card,
        "url": None,
    }
    if settings.dry_run:
        return result
    return result | {"url": _send(settings, files, card)}


def _send(settings: PushSettings, files: list[Path], card: str) -> str:
    operations = [CommitOperationAdd(file.name, str(file)) for file in files if file.name != CARD]
    operations.append(CommitOperationAdd(CARD, card.encode()))
    api = HfApi()
    try:
        made = api.create_repo(settings.repo, private=not settings.public, exist_ok=True)
        public = not api.repo_info(made.repo_id).private
        if public and not settings.public:
            raise BadSetting(f"--repo {made.repo_id} is public: add --public to publish there, or give another name")
        api.create_commit(made.repo_id, operations, commit_message="Model made by limbeck")
    except BadSetting:
        raise
    except Exception as error:  # of whatever kind: the network, the token, the hub's own
        raise BadServer(
            f"the hub did not take {settings.repo} ({scrubbed(first_line(error))}). `hf auth login` stores a token "
            f"that may write; "
            "with --dry-run nothing is sent"
        ) from error
    return str(made)


def show(result: dict[str, Any], console: Console) -> None:
    """Prints what was sent, or would be."""
    which = "private" if result["private"] else "public"
    what = "would be sent to" if result["dry_run"] else "sent to"
    files = result["files"]
    console.print(
        f"{counted(len(files), 'file')}, {size(result['bytes'])}, {what} {result['repo']} ({which}):", soft_wrap=True
    )
    for name, number in files.items():
        console.print(f"  {name}  {size(number)}", soft_wrap=True)
    if result["dry_run"]:
        console.print()
        console.print(result["card"], soft_wrap=True)
    else:
        console.print(result["url"], soft_wrap=True)

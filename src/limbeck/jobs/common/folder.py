"""The folder of a run: claimed once, continued by the same command, refused to any other.

run.json holds the signature (what decides the result), so that a second command in the same folder either continues the
first, or ends with a message that names the settings that differ.
"""

from __future__ import annotations

import datetime
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from pydantic import BaseModel

from limbeck.config import BASELINES, OFF_POLICY, ONE_TEACHER, PTQ, TUNED, UNCORRECTED, UNMASKED
from limbeck.corpora import TokenStore
from limbeck.corpora.found import notes_of
from limbeck.corpora.layout import PACKINGS, STREAM, WITHOUT_LONG
from limbeck.disk import LOCK, Count, read_json, refuse_links, remove_leftovers, sha256_of, take, write_json, writing
from limbeck.errors import BadFolder
from limbeck.models.source import resolve, weights_digest
from limbeck.run.world import World
from limbeck.scrub import scrubbed
from limbeck.teachers.ref import VOCABULARY

_PATIENCE = (0.1, 0.4, 1.5, 8)  # seconds until a network's disk shows a new file

# What changes where and how fast a run is made, not what comes out
_HOW = {
    "out",
    "threads",
    "json_",
    "device",
    "workers",
    "ray",
    "shards",
    "stream",
    "device_memory",
    "in_flight",
    "time_limit",
    "mesh",
}
_HOW |= {"micro_batch", "checkpointing"}  # which change results by rounding only
_HOW |= {"any_teacher"}  # which only lets a run begin
_HOW |= {"save_every", "track", "text_processes"}
_PACKING = "packing"  # in a signature: how documents are put into rows; older versions did not name theirs

# Settings of a later version: absent where they have their default, so that an earlier run continues
_LATER = (
    *("text_tokens", "cache_logits", "vocab", "frame", "qat", "warmup", "weight_decay", "max_grad_norm", "betas"),
    *("average", "eval_every", "patience", "weights"),
    *("optimizer", "weights_dtype", "dedup", "weight_bytes", "rounds", "experts", "body_params"),
    *("rollouts", "rollout_tokens", "rollout_temperature", "stop_when"),
    *("method", "depth"),
    "mask_input",
    "domain_weights",
    *("depths", "learngene"),
    *("grow", "start"),
    *("low_rank", "factor", "sparse"),
    *("trained", "rank", "adapt_teacher"),
)
# In the versions of a run on a GPU: how products of float32 are computed there
_FLOAT32, _IN_FULL, _IN_TF32 = "float32 on the gpu", "float32", "layers in TF32 in training steps, else float32"
# What a run has before it is claimed, and before its first result, where another may begin in its place
_FIRST = {VOCABULARY, f"{VOCABULARY}.json"}
_BEFORE = {"run.json", "data", *_FIRST}
WITHIN = "within"  # of a capture from a server: the tokens of each source of a mixture of which logits are captured
_GROW = (
    "distil",
    "family",
    "tune",
)  # jobs to which seeds and baselines can be added: what is there stays, bits and all


class _Run(TypedDict):
    """The contents of run.json from the start."""

    signature: dict[str, Any]
    command: NotRequired[list[str]]
    within: NotRequired[list[Count]]


def claim(folder: Path, signature: dict[str, Any], *, tf32: bool = False) -> dict[str, Any]:
    """Makes ``folder`` this run's, and gives what its run.json holds: new, or from an earlier start of the same run.

    ``tf32``: whether its training steps use TF32, which a new run records.

    The same run with more seeds or baselines takes the folder over. No other process gets the folder until the job that claims
    it ends (`disk.claims`). A run that came to nothing (a mistake found before its first result) does not keep its folder from
    another. Raises BadFolder when the folder cannot be written, another process writes to it, or it holds something else, or
    links.
    """
    record = folder / "run.json"
    _held(folder, record)
    take(folder)
    held = _held(folder, record)
    remove_leftovers(folder)
    refuse_links(folder)
    if not record.exists():
        return _begin(record, signature, tf32=tf32)
    run = _read(record)
    if not set(held) - _BEFORE:
        return _begin(record, signature, tf32=tf32)
    theirs: dict[str, Any] = run["signature"]
    signature, different = _compared(signature, theirs)
    if different and _grown(signature, theirs, different):
        for key in ("ended", "seconds", "estimate"):  # of the run that it was
            run.pop(key, None)
        update(folder, run, signature=signature, command=command())
        return run
    if different:
        shown = ["job"] if "job" in different else different  # of another job nothing else can be compared
        lines = "; ".join(f"{k}: {theirs.get(k)!r} there, {signature.get(k)!r} now" for k in shown)
        raise BadFolder(
            f"{folder} holds another run's state ({lines}). Continue that one with its own command "
            f"({shlex.join(run.get('command', []))}), or give a new folder with --out."
        )
    return run


def continues(folder: Path, signature: dict[str, Any]) -> bool:
    """Whether `claim` with this signature would continue the run in a folder. Raises BadFolder for a damaged run.json."""
    theirs: dict[str, Any] = _read(folder / "run.json")["signature"]
    signature, different = _compared(signature, theirs)
    return not different or _grown(signature, theirs, different)


def _compared(signature: dict[str, Any], theirs: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The signature as it is compared with that of a run, and the keys by which they differ."""
    if _PACKING not in theirs and signature.get(_PACKING) != WITHOUT_LONG:  # of an older version: it keeps its rows
        signature = {key: value for key, value in signature.items() if key != _PACKING}
    return signature, [k for k in sorted(signature.keys() | theirs.keys()) if signature.get(k) != theirs.get(k)]


def _grown(signature: dict[str, Any], theirs: dict[str, Any], different: list[str]) -> bool:
    """Whether a signature is that of the same run with more seeds or baselines."""
    return signature["job"] in _GROW and all(_grows(theirs.get(k), signature.get(k), k) for k in different)


def claim_together(folder: Path, signature: dict[str, Any], world: World, *, tf32: bool = False) -> dict[str, Any]:
    """`claim` on rank 0 with its result, an empty dict on the other ranks, which then see the folder.

    Raises BadFolder as `claim` does, and on all ranks where one does not see what rank 0 wrote.
    """
    run = claim(folder, signature, tf32=tf32) if world.first else {}
    written = world.share(sha256_of(folder / "run.json") if world.first else "")
    blind = [f"rank {rank} on {host}" for rank, host, sees in world.gather(_seen(folder, written, world)) if not sees]
    if blind:
        raise BadFolder(
            f"{folder.absolute()}: expected a folder on a disk that all processes share, but {', '.join(blind)} cannot read what "
            f"rank 0 wrote there: give such a folder with --out, by the same path on each machine"
        )
    return run


def _seen(folder: Path, written: str, world: World) -> tuple[int, str, bool]:
    """(rank, host, whether run.json is here as rank 0 wrote it). A network's disk may show it some seconds later."""
    file = folder / "run.json"
    return world.rank, platform.node(), soon(lambda: file.is_file() and sha256_of(file) == written)


def soon(seen: Callable[[], bool]) -> bool:
    """Whether something on a network's disk is seen, now or in some seconds."""
    for wait in (0, *_PATIENCE):
        time.sleep(wait)
        if seen():
            return True
    return False


def require_empty(out: Path) -> None:
    """Raises BadFolder unless a folder to write is not there, or empty but for a lock."""
    if out.exists() and (not out.is_dir() or {path.name for path in out.iterdir()} - {LOCK}):
        raise BadFolder(f"{out} exists and is not an empty folder: nothing was written. Give a new folder with --out.")


def reserve(folder: Path) -> bool:
    """Holds the folder of a run before it is claimed; gives whether a run that came to something is in it.

    Raises BadFolder as `claim` does.
    """
    record = folder / "run.json"
    _held(folder, record)
    take(folder)
    held = _held(folder, record)
    refuse_links(folder)
    return bool(set(held) - _BEFORE)


def begun(folder: Path) -> dict[str, Any]:
    """The signature of the run in a folder, that of one of its students for a sweep; empty where nothing came of a run yet.

    Raises BadFolder for a damaged run.json.
    """
    found: dict[str, Any] = _begun(folder).get("signature", {})
    return found


def begun_in_tf32(folder: Path) -> bool | None:
    """Whether training steps of the run in a folder use TF32 on a GPU; None where nothing came of a run yet.

    False for one that began before its version chose TF32, or where there was no GPU: neither has a record of it.
    """
    run = _begun(folder)
    return bool(run["versions"].get(_FLOAT32, _IN_FULL) != _IN_FULL) if run else None


def _begun(folder: Path) -> dict[str, Any]:
    """run.json of the run in a folder, that of one of its students for a sweep; empty where nothing came of a run yet."""
    record = folder / "run.json"
    if not record.is_file() or not {p.name for p in folder.iterdir() if not p.name.startswith(".")} - _BEFORE:
        return {}
    run = _read(record)
    members = (folder / str(name) / "run.json" for name in run.get("members", ()))
    of_member = next((file for file in members if file.is_file()), None)
    return run if of_member is None else _read(of_member)


def kept_rate(folder: Path) -> float | None:
    """The peak learning rate of the student of the run in a folder; None where there is none, or it has no plan yet.

    Whether it is the same run is for `claim` or `continues` to say. Raises BadFolder for a damaged run.json.
    """
    record = folder / "run.json"
    rate: float | None = _read(record).get("plan", {}).get("learning_rate") if record.is_file() else None
    return rate


def another(folder: Path, what: str) -> BadFolder:
    """The error where the run in a folder has another ``what``."""
    command = shlex.join(_read(folder / "run.json").get("command", []))
    return BadFolder(
        f"{folder} holds another run's state, with another {what}. Continue that one with its own command ({command}), or give a "
        "new folder with --out."
    )


def _grows(before: Any, now: Any, key: str) -> bool:
    """Whether a setting has all that it had, and more; each baseline starts from what all runs keep."""
    if key == "seeds":
        return isinstance(before, int) and now > before
    if key != "baselines" or not isinstance(before, list):
        return False
    return set(before) < set(now) and set(now) - set(before) <= {
        *BASELINES,
        PTQ,
        UNMASKED,
        *OFF_POLICY,
        *TUNED,
        *UNCORRECTED,
        *ONE_TEACHER,
    }


def _held(folder: Path, record: Path) -> list[str]:
    """The contents of a folder. Raises BadFolder if it is something else than a run."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        held = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    ours = _FIRST if (folder / VOCABULARY / f"{VOCABULARY}.json").is_file() else set()
    if set(held) - ours and not record.exists():
        raise BadFolder(
            f"{folder} is not empty and holds no run (it holds {', '.join(held[:5])}): "
            "nothing was written. Give a new folder with --out."
        )
    return held


def _begin(record: Path, signature: dict[str, Any], *, tf32: bool) -> dict[str, Any]:
    if "vocabulary" not in signature:  # of a run that came to nothing
        shutil.rmtree(record.parent / VOCABULARY, ignore_errors=True)
        (record.parent / f"{VOCABULARY}.json").unlink(missing_ok=True)
    run: dict[str, Any] = {
        "signature": signature,
        "command": command(),
        "versions": versions(tf32=tf32),
        "started": now(),
    }
    write_json(record, run)
    return run


def _read(record: Path) -> dict[str, Any]:
    run: dict[str, Any] = read_json(record, _Run, remedy="give a new folder with --out")
    return run


def read_run(folder: Path) -> dict[str, Any]:
    """What the run.json of a run holds. Raises BadFolder where it is damaged."""
    return _read(folder / "run.json")


def signature_of(settings: BaseModel, job: str, **derived: Any) -> dict[str, Any]:
    """All that decides a run's result: its settings, and the values derived from them and the machine.

    How it is computed is left out: on which device, in how many threads or processes, in how much memory.
    """
    how = {_PACKING: packing_in_settings(settings)} if "long_conversations" in type(settings).model_fields else {}
    plain = settings.model_dump(mode="json", exclude={*_HOW, "long_conversations"})
    return plain | _later(settings) | {"job": job} | how | derived


def _later(settings: BaseModel) -> dict[str, Any]:
    """The settings of a later version that have not their default, as JSON has them."""
    fields = type(settings).model_fields
    values = {key: getattr(settings, key) for key in _LATER if key in fields}
    found = {key: value for key, value in values.items() if value != fields[key].default}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


def packing_in_settings(settings: BaseModel) -> str:
    """The name of the packing of settings: how documents are put into rows."""
    return PACKINGS[getattr(settings, "long_conversations", "split")]


def packing_of(folder: Path) -> str:
    """The name of the packing of the run in a folder. A run of an older version continues with its own."""
    return packing_in(_read(folder / "run.json"))


def packing_in(run: Mapping[str, Any]) -> str:
    """The name of the packing from the contents of run.json."""
    return str(run["signature"].get(_PACKING, STREAM))


def packed_as(store: TokenStore) -> dict[str, str]:
    """The part of a manifest about packing; empty for older versions, which had none."""
    return {} if store.packing == STREAM else {_PACKING: store.packing}


def text_of_run(folder: Path) -> tuple[TokenStore, TokenStore]:
    """(training, held-out) text of the run in a folder, packed as in the run, and limited to the part that the run trains on."""
    train, held_out = (TokenStore.open(folder / "data" / side) for side in ("train", "held_out"))
    run = _read(folder / "run.json")
    packing = packing_in(run)
    return part_of_text(train, run).packed(packing), held_out.packed(packing)


def part_of_text(train: TokenStore, run: Mapping[str, Any]) -> TokenStore:
    """The part of a training text that a run reads, from the contents of its run.json."""
    if (tokens := run["signature"].get("text_tokens")) is not None:
        return train.beginning(int(tokens))
    return train.beginnings(run[WITHIN]) if WITHIN in run else train


def same_corpus(folder: Path, run: dict[str, Any], train: TokenStore, held_out: TokenStore) -> None:
    """Raises BadFolder if a run that continues finds another text than at its start."""
    corpus = {"train": train.manifest["corpus_sha256"], "held_out": held_out.manifest["corpus_sha256"]}
    reading = train.manifest["made_from"].get("reading", 1)
    begun = {"reading": 1} | run.get("text", corpus | {"reading": reading})
    if begun.pop("reading") != reading:
        raise BadFolder(
            f"the run in {folder} was begun by a version of limbeck that made other tokens of the same text, so it cannot be "
            "continued: finish it with that version, or give a new folder with --out."
        )
    if begun != corpus:
        raise BadFolder(
            f"the text of --data or --eval-data changed since the run in {folder} began, so it cannot be continued: put the "
            "text back, or give a new folder with --out."
        )
    if "text" not in run:
        update(folder, run, text=corpus | {"reading": reading}, read=notes_of(train))


def same_model(folder: Path, run: dict[str, Any], model: str) -> None:
    """Raises BadFolder if the run in the folder began with other weights under the name of this model."""
    digest = weights_digest(resolve(model))
    if run.get("weights", digest) != digest:
        raise BadFolder(
            f"the weights of {model} changed since the run in {folder} began, so it cannot be continued: put them back, or give "
            "a new folder with --out."
        )
    if "weights" not in run:
        update(folder, run, weights=digest)


def update(folder: Path, run: dict[str, Any], **facts: Any) -> None:
    """Adds facts to run.json."""
    run.update(facts)
    write_json(folder / "run.json", run)


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def command() -> list[str]:
    """The command line as a user would type it, without secrets in it."""
    name = Path(sys.argv[0]).name
    return ["limbeck" if name in {"limbeck", "__main__.py"} else name, *map(scrubbed, sys.argv[1:])]


def versions(*, tf32: bool = False) -> dict[str, str]:
    """The versions that may affect the result: limbeck, Python, the libraries, the machine.

    ``tf32``: whether training steps use TF32 where there is a GPU.
    """
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}, {_cpu()}"}
    for package in ("limbeck", "torch", "transformers", "tokenizers", "datasets", "pyarrow", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed as a package"
    if torch.cuda.is_initialized():
        found["gpu"] = torch.cuda.get_device_name()
        found[_FLOAT32] = _IN_TF32 if tf32 else _IN_FULL
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")

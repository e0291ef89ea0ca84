"""`limbeck capture --ray`: the machines of a Ray cluster capture one text together.

One worker prepares: text, vocabulary, codec, and the borders of the shards. Workers then take the shards one by one, each into a
folder of its own, and continue those of lost workers. The last step joins them and is otherwise the capture in one process,
which finds its rows there. So the folder is that of such a capture, byte by byte: borders are those of its files, or within
a file those of its batches, since a row's last bits depend on the rows beside it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.config import CaptureSettings
from limbeck.disk import claims, locked, read_json
from limbeck.errors import BadSetting, LimbeckError
from limbeck.jobs.capture.here import Part, begin_here, capture_here, capture_part
from limbeck.jobs.capture.logits import check_capture
from limbeck.jobs.capture.merge import check_whole
from limbeck.jobs.capture.progress import progress
from limbeck.jobs.common.cluster import Cluster, cluster
from limbeck.jobs.common.folder import read_run, reserve, update
from limbeck.jobs.common.task import RESULT, Task
from limbeck.report.words import counted, duration
from limbeck.run.log import console
from limbeck.teachers import LogitCache
from limbeck.teachers.cache import MANIFEST, join_outcomes, rows_of_file
from limbeck.teachers.ref import ANSWERS, ServedRef, teacher_ref

SHARDS = ".shards"  # the work of a capture that has not ended


def check_spread(settings: CaptureSettings) -> None:
    """Raises BadSetting for --shards without --ray, and for what does not go with --ray."""
    if not settings.ray:
        if settings.shards is not None:
            raise BadSetting(
                f"--shards {settings.shards}: workers of a Ray cluster take them; add --ray ADDRESS, or give each machine its "
                "own part with --shard I/N"
            )
        return
    if settings.shard != (1, 1):
        number, of = settings.shard
        raise BadSetting(f"--shard {number}/{of}: with --ray the workers take all shards: give --shards {of} instead")
    if settings.mesh is not None:
        raise BadSetting(
            f"--mesh {settings.mesh}: with --ray each worker has one GPU and a whole teacher: leave it out, and add --stream for "
            "a teacher that does not fit"
        )
    if settings.device.startswith("cuda:"):
        raise BadSetting(
            f"--device {settings.device}: with --ray each worker gets a free GPU: give cuda, or leave it out"
        )
    if isinstance(teacher_ref(settings.teacher, settings.tokenizer), ServedRef):
        raise BadSetting(
            f"--ray: {settings.teacher} is on a server, which computes, so more machines here gain nothing: leave it out, and "
            "give --in-flight more requests"
        )


def borders(rows: int, *, file_rows: int, batch_rows: int, shards: int) -> list[Part]:
    """``shards`` parts of the rows, or fewer where there are fewer batches, of about one size.

    Where the capture has as many files (of ``file_rows`` rows) as that, each part is some of them; otherwise each file is cut
    between batches (of ``batch_rows`` rows, counted from its first).
    """
    files = -(-rows // file_rows)
    if files >= shards:
        cuts = [number * files // shards * file_rows for number in range(shards)]
    else:
        cuts = [
            file * file_rows + cut * batch_rows
            for file in range(files)
            for cut in _cuts(
                -(-min(file_rows, rows - file * file_rows) // batch_rows),
                (file + 1) * shards // files - file * shards // files,
            )
        ]
    return [Part(first, end - first) for first, end in zip(cuts, [*cuts[1:], rows], strict=True)]


def _cuts(batches: int, parts: int) -> list[int]:
    """The first batch of each part."""
    return sorted({number * batches // parts for number in range(parts)})


def capture_on_ray(settings: CaptureSettings) -> dict[str, Any]:
    """`capture` on the machines of a Ray cluster, with the same result and the same files.

    Raises BadSetting if no cluster responds, BadFolder where a machine does not see the folder, and as `capture`.
    """
    started = time.monotonic()
    check_capture(settings, teacher_ref(settings.teacher, settings.tokenizer))
    assert settings.ray, "it is asked for"
    out, cores = settings.out.absolute(), settings.threads or 1
    alone = {"out": out, "ray": None, "shards": None, "threads": cores}
    with claims():
        reserve(out)  # or say that the folder is another's, before anything is written
    gpu = settings.device != "cpu"
    # the lock first: the cluster's mark in the folder is that of one command
    with locked(out / SHARDS), cluster(settings.ray, out, cores=cores, gpu=gpu) as machines:
        spread = _Spread(settings.model_copy(update=alone), machines)
        if not (out / ANSWERS / MANIFEST).is_file():
            spread.capture_shards(settings.shards or machines.workers)
        result = spread.step("end", _End(spread.settings))
        shutil.rmtree(out / SHARDS, ignore_errors=True)
    console.print(f"the capture took {duration(time.monotonic() - started)} on the cluster")
    return {key: result[key] for key in ("out", "rows", "tokens", "bytes", "certificate")} | {"out": str(settings.out)}


@dataclass(frozen=True)
class _Spread:
    """A capture on a cluster; ``settings`` are those of the same capture in one process."""

    settings: CaptureSettings
    machines: Cluster

    def capture_shards(self, number: int) -> None:
        """Captures about ``number`` shards; those that an earlier start has finished are kept."""
        console.print(f"a worker of {self.machines.workers} prepares the text")
        plan = self.step("beginning", _Beginning(self.settings, number))
        shards = [_Shard(self.settings, Part(*part), plan["made_from"], plan["device"]) for part in plan["shards"]]
        tasks = [
            Task(shard.folder, "shard", f"{number}/{len(shards)}", shard)
            for number, shard in enumerate(shards, start=1)
        ]
        for shard in shards:
            shard.drop_if_damaged()
        there = sum(task.done for task in tasks)
        console.print(
            f"{counted(len(shards), 'shard')} of about {shards[0].part.rows:,} rows for "
            f"{counted(self.machines.workers, 'worker')}" + (f"; {there} are there already" if there else "")
        )
        with progress(plan["rows"], what="row") as report:

            def watch() -> None:
                rows = sum(shard.rows_there(plan["row_bytes"]) for shard in shards)
                report(rows, rows * plan["length"])

            self.machines.run(tasks, _reporter(len(tasks) - there), watch)

    def step(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of a step that every start does again, on one worker; prints what it printed."""
        folder = self.settings.out / SHARDS / name
        (folder / RESULT).unlink(missing_ok=True)
        self.machines.run([Task(folder, f"the {name} of", "the capture", work)], lambda *_: None)
        result: dict[str, Any] = read_json(folder / RESULT)
        if result["said"]:
            console.print(result["said"].rstrip())
        return result


def _reporter(total: int) -> Callable[[Task, float], None]:
    done = 0

    def report(task: Task, seconds: float) -> None:
        nonlocal done
        done += 1
        console.print(f"{done:>4} of {total}  shard {task.name}: {duration(seconds)}")

    return report


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # renamed meanwhile
        return 0


@dataclass(frozen=True)
class _Beginning:
    """Prepares a capture up to its first row. One that was begun keeps its shards."""

    settings: CaptureSettings
    shards: int

    def __call__(self) -> dict[str, Any]:
        """The shards as (first, rows), the origin of all, the type of device, and what was printed."""
        with console.capture() as said, begin_here(self.settings) as begun:
            row_bytes = begun.codec.bytes * begun.rows.length
            if "shards" not in begun.run:
                parts = borders(
                    begun.part.rows,
                    file_rows=rows_of_file(begun.codec, begun.rows.length),
                    batch_rows=begun.batch_rows,
                    shards=self.shards,
                )
                for folder in (self.settings.out / SHARDS).glob("rows-*"):  # of a run that came to nothing
                    shutil.rmtree(folder)
                update(self.settings.out, begun.run, shards=[[part.first, part.rows] for part in parts])
            facts = {"shards": begun.run["shards"], "made_from": begun.made_from, "rows": begun.part.rows}
            facts |= {"row_bytes": row_bytes, "length": begun.rows.length}
            facts |= {"device": begun.environment.world.device.type}
        return facts | {"said": said.get()}


@dataclass(frozen=True)
class _Shard:
    """Captures one shard into a folder of its own, on the type of device that the others have."""

    settings: CaptureSettings
    part: Part
    made_from: Mapping[str, Any]
    device: str

    @property
    def folder(self) -> Path:
        """The folder of the shard."""
        return self.settings.out / SHARDS / f"rows-{self.part.first:012d}"

    def rows_there(self, row_bytes: int) -> int:
        """About how many of its rows are there, by the sizes of its files."""
        files = (file for kind in ("arrow", "part") for file in (self.folder / ANSWERS).glob(f"*.{kind}"))
        return min(self.part.rows, sum(map(_size, files)) // row_bytes)

    def drop_if_damaged(self) -> None:
        """Removes a finished shard whose files are missing or damaged, so that it is captured again.

        Rows are not read: those that differ from their checksums are found when the shards are joined.
        """
        if not (self.folder / RESULT).is_file():
            return
        try:
            LogitCache(self.folder / ANSWERS)
        except LimbeckError:
            console.print(f"note: {self.folder}: this finished shard is damaged, and is captured again")
            shutil.rmtree(self.folder)

    def __call__(self) -> dict[str, Any]:
        """Its first row and its number of rows."""
        capture_part(self.settings, self.part, self.folder, made_from=self.made_from, device=self.device)
        return {"first": self.part.first, "rows": self.part.rows}


@dataclass(frozen=True)
class _End:
    """Joins the shards, and does what else a capture in one process does."""

    settings: CaptureSettings

    def __call__(self) -> dict[str, Any]:
        """The result of the capture, and what was printed."""
        out = self.settings.out
        if not (out / ANSWERS / MANIFEST).is_file():
            join(out, sorted((out / SHARDS).glob("rows-*")), rows=read_run(out)["rows"])
        with console.capture() as said:
            result = capture_here(self.settings)
        return result | {"said": said.get()}


def join(out: Path, folders: Sequence[Path], *, rows: int) -> None:
    """Puts the shards in ``folders`` together as the logits of all ``rows`` rows of the capture in ``out``.

    Raises BadModel if a shard is missing or damaged, Mismatch if two have different origins.
    """
    shards = [(folder, LogitCache(folder / ANSWERS)) for folder in folders]
    check_whole(shards, rows=rows)
    join_outcomes(out / ANSWERS, [cache for _, cache in shards])

"""A teacher whose student has another tokenizer (`--tokenizer-align`).

The teacher reads the student's documents in its own tokens once, before any training. Its log-probability of each token is
stored in the run's folder, so further epochs, arms and seeds need no forward pass. With ``bytes`` the student learns from the
likelihood of each chunk of bytes that consists of whole tokens of both, with ``tokens`` from the teacher's largest probabilities
of tokens that both spell alike. Teacher and student are compared in bits per byte.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64

from limbeck.config import DistilSettings
from limbeck.config.defaults import SEQ_LEN
from limbeck.corpora import Rows, TokenStore
from limbeck.corpora.chunks import DocumentChunks, Side, chunks_of
from limbeck.corpora.layout import Layout
from limbeck.corpora.reading import Reader
from limbeck.corpora.retokenise import retokenised
from limbeck.corpora.token_bytes import TokenBytes
from limbeck.errors import Mismatch
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.folder import packed_as, text_of_run
from limbeck.jobs.common.held_out import Apart, HeldOut
from limbeck.jobs.common.text import stores_of
from limbeck.jobs.distil.align import SHARED, AlignedTexts
from limbeck.jobs.distil.request import DistilRequest
from limbeck.jobs.distil.several import SeveralTeachers
from limbeck.jobs.distil.teacher import RunTeacher
from limbeck.jobs.pair.student import OnDisk
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.objectives.spec import ObjectiveSpec
from limbeck.planning.cost.size import Size
from limbeck.report.words import count, share
from limbeck.run.log import clock, console
from limbeck.run.micro import micro_rows
from limbeck.teachers.alignment import MANIFEST, AlignedTeacher, write_aligned
from limbeck.teachers.logprobs import Recorded, TeacherLogprobs, logprobs_in, measure_logprobs
from limbeck.teachers.rows import NumberedRows
from limbeck.teachers.shared_tokens import SharedTokensTeacher, shared
from limbeck.types import Batch

_LOGPROBS = "told"  # folder inside a run's; the name is older than the word
_LINE_EVERY = 20.0  # seconds


def teacher_of(
    request: DistilRequest, environment: Environment, *, length: int, objectives: Sequence[ObjectiveSpec]
) -> TeacherSource:
    """The teacher of a run in rows of ``length`` tokens, with or without the student's tokenizer.

    ``objectives`` are those of all students. Raises a LimbeckError for a teacher that cannot be loaded, captured or aligned.
    """
    if request.domains is not None:
        return SeveralTeachers.load(request, environment).within(length)
    if request.settings.tokenizer_align is None:
        return RunTeacher.of(request, environment, length=length, objectives=objectives)
    return CrossTokenizerTeacher(
        request, environment, needed=AlignedTexts.by(objectives, request.settings.tokenizer_align)
    )


class CrossTokenizerTeacher:
    """Used instead of `RunTeacher` if the student has another tokenizer.

    Call `stores` first, then `query`. After that ``logits`` gives targets for the student's rows, and ``rows`` is how many rows
    have targets, None for all.
    """

    def __init__(self, request: DistilRequest, environment: Environment, *, needed: AlignedTexts) -> None:
        """``needed``: the requirements of the objectives. Raises Mismatch if a tokenizer's tokens cannot be spelled in bytes."""
        settings = request.settings
        assert settings.student is not None, "checked by check_align"
        self._base = RunTeacher.of(request, environment)
        self.about, self.captured, self._settings = self._base.about, self._base.captured, settings
        student = load(settings.student)
        self._vocab = student.vocab
        self._student = Reader(student.tokenizer, student.end, student.vocab)
        self._spelled = [TokenBytes(m.tokenizer, name=m.name) for m in (student, self.about)]
        self._needed = needed
        self._aligned: AlignedTeacher | SharedTokensTeacher | None = None
        self.rows: int | None = None

    @cached_property
    def _same(self) -> Int64[np.ndarray, " theirs"]:
        """The student's token with the spelling of each of the teacher's, -1 for none."""
        same = self._spelled[1].same_in(self._spelled[0], ends=(self.about.end, self._student.end))
        return np.where(same < self._vocab, same, -1)  # some tokenizers have tokens that their model has not

    @property
    def logits(self) -> AlignedTeacher | SharedTokensTeacher:
        """The targets for the student's rows. Call `query` before."""
        assert self._aligned is not None, "query comes first"
        return self._aligned

    def weights(self, environment: Environment) -> LanguageModel:
        """The teacher with its weights. No student is pruned from it."""
        return self._base.weights(environment)

    def to_cut(self, environment: Environment, *, length: int, spill: Path) -> LanguageModel | OnDisk:
        """As `RunTeacher.to_cut`. No student is pruned from it."""
        return self._base.to_cut(environment, length=length, spill=spill)

    def stores(
        self, settings: DistilSettings, environment: Environment, *, most: Sequence[int]
    ) -> tuple[TokenStore, TokenStore]:
        """(training, held-out) text of the run in the student's tokens. Also makes the held-out text in the teacher's tokens.

        With captured logits it is the captured text, decoded from the teacher's tokens as far as they have logits.
        """
        folder, spelled = settings.out / "data", self._spelled[1]
        if self.captured is None:
            stores = stores_of(settings, self._student, environment, most=most)
            if environment.world.first:
                self._held_out = self._in_tokens_of_teacher(stores[1], "held_out")
            return stores
        self._theirs, self._held_out = self.captured.stores()
        if environment.world.first:
            captured = self._theirs.documents_in(self.captured.logits.rows, length=self.captured.logits.length)
            tokenizer, end = self._student.tokenizer, self._student.end
            for side, store, chosen in (("train", self._theirs, captured), ("held_out", self._held_out, None)):
                retokenised(store, spelled, tokenizer, folder / side, end=end, documents=chosen)
        environment.world.barrier()
        return text_of_run(settings.out)

    def query(self, store: TokenStore, environment: Environment, *, rows: int, length: int) -> None:
        """Computes the teacher's log-probabilities of the documents of the first ``rows`` rows, or reads stored ones.

        ``store`` is the training text in the student's tokens, ``length`` the tokens of a row. Raises Mismatch if no chunk has a
        target.
        """
        folder = self._settings.out / "aligned"
        self._tokens = store.tokens
        if self.captured is None:
            self.rows = min(rows, Rows(store, length=length).n_rows)
        if environment.world.first and not (folder / MANIFEST).is_file():
            read = np.ones(store.documents, dtype=bool)
            if self.rows is not None:
                read = store.documents_in(self.rows, length=length)
                self._theirs = self._in_tokens_of_teacher(store, "train", documents=read)
            self._write(folder, store, self._logprobs(environment), store.layout(length), read)
        environment.world.barrier()
        self._aligned = self._opened(folder, store.layout(length))
        facts = self._aligned.facts
        console.print(across(facts))
        if not facts["positions_met" if self._needed.tokens else "bytes_with_target"]:
            what = "token" if self._needed.tokens else "chunk"
            raise Mismatch(
                f"--tokenizer-align {self._settings.tokenizer_align}: no {what} of {store.folder} has a target: of "
                f"{facts['documents']:,} documents {facts['unread']:,} are not the same bytes in both tokenizers. Look at one "
                "with limbeck doctor, or give a student with the teacher's tokenizer"
            )

    def _opened(self, folder: Path, layout: Layout) -> AlignedTeacher | SharedTokensTeacher:
        """The targets that were written, for rows of a layout of the student's text."""
        kept = logprobs_in(self._settings.out / _LOGPROBS) if self._needed.largest else None
        largest = None if kept is None or kept.largest is None else kept.largest.reshape(-1, kept.largest.shape[-1])
        name, read = self.about.name, lambda rows: layout.places(rows).token
        if not self._needed.tokens:
            return AlignedTeacher(folder, name=name, read=read, largest=largest)
        assert kept is not None
        assert kept.tokens is not None
        assert largest is not None
        aligned = AlignedTeacher(folder, name=name, read=read)
        tokens = kept.tokens.reshape(largest.shape)
        return SharedTokensTeacher(aligned, vocab=self._vocab, same=self._same, largest=largest, tokens=tokens)

    def counted(self, batch: Batch) -> Batch:
        """The batch unchanged: text without a target is learned by cross-entropy."""
        return batch

    @property
    def size(self) -> Size | None:
        """The size of the teacher in memory beside the student; None if its log-probabilities are stored."""
        return self._base.size

    @property
    def facts(self) -> dict[str, Any]:
        """The entries of run.json about the teacher."""
        return self._base.facts | {"aligned": dict(self.logits.facts)}

    @property
    def vocabulary_facts(self) -> dict[str, Any]:
        """Nothing: both have all their tokens."""
        return {}

    def passes(self, tokens: int, length: int) -> float:
        """The teacher's own tokens in its one pass over the text, for each of the ``tokens`` that a run trains on."""
        return float(self.logits.facts["tokens_asked"]) / max(tokens, self._tokens if self.captured else 0)

    def held_out(self, environment: Environment, *, apart: Apart | None = None) -> HeldOut:
        """The held-out text in the teacher's tokens, without documents that are kept ``apart``. Call it on rank 0 only."""
        rows = self.captured.held_out.cache.rows if self.captured else None
        return HeldOut(
            self._held_out,
            length=self._row(environment),
            environment=environment,
            trained=self._settings.tokens,
            rows=rows,
            without=None if apart is None else apart.documents,
        )

    def _row(self, environment: Environment) -> int:
        """Tokens of the teacher's rows: those of the student's rows, at least the default of the device, within its context."""
        if self.captured is not None:
            return self.captured.logits.length
        return min(self.about.context, max(self._settings.length or 0, SEQ_LEN[environment.world.device.type]))

    def _in_tokens_of_teacher(self, store: TokenStore, side: str, *, documents: np.ndarray | None = None) -> TokenStore:
        folder, tokenizer = self._settings.out / "data" / "teacher" / side, self.about.tokenizer
        made = retokenised(store, self._spelled[0], tokenizer, folder, end=self.about.end, documents=documents)
        return made.packed(store.packing)

    def _logprobs(self, environment: Environment) -> TeacherLogprobs:
        """The teacher's log-probabilities of the tokens of its rows, in nats."""
        length, store = self._row(environment), self._theirs
        rows = Rows(store, length=length)
        number = self.captured.logits.rows if self.captured else rows.n_rows
        tokens, device = number * length, environment.world.device
        console.print(
            f"computing the log-probabilities of teacher {self.about.name} once, of {count(tokens)} of its own tokens"
        )
        return measure_logprobs(
            self._base.logits,
            NumberedRows(lambda numbers: rows.rows_of(numbers).to(device), length, number, micro_rows(length, device)),
            self._settings.out / _LOGPROBS,
            made_from={
                "teacher": self.captured.identity if self.captured else self._settings.teacher,
                "corpus": store.manifest["corpus_sha256"],
                "documents": store.manifest["made_from"].get("documents", store.documents),
                **packed_as(store),
            },
            kept=self._kept(),
            report=_Lines(number, length),
        )

    def _kept(self) -> Recorded:
        """The record of each distribution: its largest probabilities, and the mass of word beginnings to merge chunks."""
        there = self.captured.logits.codec.k if self.captured else self.about.vocab
        begin = torch.from_numpy(self._spelled[1].begin_words(self.about.vocab)) if self._needed.merge else None
        return Recorded(largest=min(self._needed.largest, there), some=begin, tokens=self._needed.tokens)

    def _write(
        self,
        folder: Path,
        store: TokenStore,
        logprobs: TeacherLogprobs,
        layout: Layout,
        read: Bool[np.ndarray, " documents"],
    ) -> None:
        """Writes the targets of the documents marked in ``read``: the teacher's log-probability of each chunk."""
        log_p = logprobs.log_p.reshape(-1)
        mass = None if logprobs.mass is None else logprobs.mass.reshape(-1)
        largest = None if logprobs.largest is None else logprobs.largest.reshape(len(log_p), -1)
        tokens = None if logprobs.tokens is None else logprobs.tokens.reshape(len(log_p), -1)
        tally = Tally(queried=len(log_p), shared=self._needed.tokens)
        ours, theirs = Side(store, self._spelled[0]), Side(self._theirs, self._spelled[1])
        queried = self._theirs.layout(logprobs.log_p.shape[1])

        def documents() -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
            for document in range(min(store.documents, self._theirs.documents)):
                if not read[document] or store.starts[document] == store.starts[document + 1]:
                    continue  # not in the rows of this run, or empty
                first, chunks = int(store.starts[document]), chunks_of(ours, theirs, document)
                predicted = int(store.learned(first + 1, int(store.starts[document + 1])).sum())
                if chunks is None:
                    tally.miss(store.bytes_of(document), predicted)
                    continue
                start, stop = int(self._theirs.starts[document]), int(self._theirs.starts[document + 1])
                place = queried.predicted(start, stop)[0]
                if mass is not None:  # the mass that follows each of the teacher's tokens
                    chunks = chunks.merged(_at(mass, np.append(place[1:], -1)) > self._needed.merge)
                found = chunks.log_p(_at(log_p, place))
                segment = layout.predicted(first, first + len(chunks.ours))[1]
                tally.add(chunks, *found, segment=segment, predicted=predicted)
                meets = np.where(chunks.meets > 0, place[chunks.meets], -1)  # the position that predicts the token
                meets[meets >= len(log_p)] = -1
                if tokens is not None:
                    meets[~chunks.single] = -1
                if largest is not None:
                    met = meets[meets >= 0]
                    known = largest[met] if tokens is None else shared(largest[met], tokens[met], self._same)[0]
                    tally.meet(known.sum(-1, dtype=np.float64))
                yield first, *found, meets

        write_aligned(folder, documents(), tokens=store.tokens, facts=tally.row)


class Tally:
    """Counts how much of the training text has a target, in bytes and tokens. ``queried``: tokens that the teacher read.

    ``shared``: whether targets are distributions over tokens that both have.
    """

    def __init__(self, *, queried: int, shared: bool = False) -> None:
        self._counts = dict.fromkeys(
            (
                *("documents", "unread", "bytes", "bytes_with_target", "chunks", "predictions"),
                *("student_tokens", "teacher_tokens"),
            ),
            0,
        )
        self._queried, self._shared = queried, shared
        self._met, self._mass = 0, 0.0

    def miss(self, size: int, predicted: int) -> None:
        """Counts a document that is not the same bytes in both tokenizers, and how many of its tokens are predicted."""
        self._add(documents=1, unread=1, bytes=size, predictions=predicted)

    def add(
        self,
        chunks: DocumentChunks,
        ends: np.ndarray,
        log_p: np.ndarray,
        *,
        segment: Int64[np.ndarray, " n"],
        predicted: int,
    ) -> None:
        """Counts a document, of whose tokens so many are ``predicted``.

        ``segment``: for each of its tokens, the part of the student's rows in which it is predicted.
        """
        last = np.flatnonzero(ends)
        begin = np.concatenate([[0], last[:-1] + 1])
        # the first token of a document is not predicted, so its chunk has no target
        target = np.isfinite(log_p[last]) & (segment[begin] == segment[last]) & (begin > 0)
        sizes = np.add.reduceat(chunks.sizes, begin)
        members = chunks.ours[last[target]]
        self._add(
            documents=1,
            bytes=int(chunks.sizes[1:].sum()),
            bytes_with_target=int(sizes[target].sum()),
            chunks=int(target.sum()),
            predictions=predicted,
            student_tokens=int((last - begin + 1)[target].sum()),
            teacher_tokens=int(np.isin(chunks.theirs, members).sum()),
        )

    def meet(self, mass: Float[np.ndarray, " n"]) -> None:
        """Counts positions where both have read the same text. ``mass``: of the teacher's largest probabilities, 0 if unknown."""
        self._met += int((mass > 0).sum())
        self._mass += float(mass.sum())

    def row(self) -> dict[str, Any]:
        """The counts as run.json stores them."""
        covered = self._counts["bytes_with_target"] / max(1, self._counts["bytes"])
        facts = {**self._counts, "tokens_asked": self._queried, "coverage": covered}
        kind = {"kind": SHARED, "positions_met": 0} if self._shared else {}
        return facts | kind | ({"positions_met": self._met, "mass_met": self._mass / self._met} if self._met else {})

    def _add(self, **counts: int) -> None:
        for name, number in counts.items():
            self._counts[name] += number


class _Lines:
    """Prints progress and the time left, every 20 seconds."""

    def __init__(self, rows: int, length: int) -> None:
        self._rows, self._length = rows, length
        self._start = self._last = time.monotonic()
        self._before: int | None = None

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if self._before is None:
            self._before, self._start = done, now
        elif now - self._last >= _LINE_EVERY:
            self._last = now
            left = (now - self._start) / (done - self._before) * (self._rows - done)
            console.print(f"teacher: {count(done * self._length)} tokens  {clock(left)} left")


def across(facts: Mapping[str, Any]) -> str:
    """Two sentences for screen and report about a teacher with another tokenizer, from the counts of `Tally`."""
    unread = f"; {facts['unread']:,} of {facts['documents']:,} documents do not have the same bytes in both, and have no target"
    return (
        f"teacher and student have different tokenizers: {_targets(facts)}{unread if facts['unread'] else ''}. The two are "
        "compared in bits per byte, since no divergence between them is defined"
    )


def _targets(facts: Mapping[str, Any]) -> str:
    """What the student learns of the teacher."""
    left_out = f"leave out {share(1 - facts['mass_met'])} of the teacher's mass" if "mass_met" in facts else ""
    if facts.get("kind") == SHARED:
        part = facts.get("positions_met", 0) / max(1, facts["predictions"])
        return f"{share(part)} of the learned tokens have its distribution over tokens that both spell alike; these {left_out}"
    met = (
        f"; their largest probabilities are compared at {facts['positions_met']:,} positions, and " if left_out else ""
    )
    return (
        f"{share(facts['coverage'])} of the learned bytes have a target, in chunks of "
        f"{facts['student_tokens'] / max(1, facts['chunks']):.2f} of the student's tokens and "
        f"{facts['teacher_tokens'] / max(1, facts['chunks']):.2f} of the teacher's{met}{left_out}"
    )


def _at(values: np.ndarray, places: Int64[np.ndarray, " n"]) -> np.ndarray:
    """The values at these indices, NaN for indices out of range."""
    found = np.full(len(places), np.nan)
    there = (places >= 0) & (places < len(values))
    found[there] = values[places[there]]
    return found


TeacherSource = RunTeacher | CrossTokenizerTeacher

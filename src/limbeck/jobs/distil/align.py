"""`--tokenizer-align bytes`: a student whose tokenizer is another than its teacher's.

The teacher reads the student's documents in its own tokens, once, before any training; what it told of each token is kept in the
run's folder, so further epochs, arms and seeds ask it nothing. The student hears how likely it finds each chunk of bytes that is
whole tokens of both. Whatever is compared across the two is in bits per byte.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64

from limbeck.config import DistilSettings
from limbeck.corpora import Rows, TokenStore
from limbeck.corpora.chunks import DocumentChunks, Side, chunks_of, cut
from limbeck.corpora.layout import Layout
from limbeck.corpora.retokenise import retokenised
from limbeck.corpora.token_bytes import TokenBytes
from limbeck.errors import BadSetting, Mismatch
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.folder import packed_as, text_of_run
from limbeck.jobs.common.held_out import HeldOut
from limbeck.jobs.common.text import Reader, stores_of
from limbeck.jobs.distil.teacher import RunTeacher
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.objectives import parse
from limbeck.objectives.base import terms_of
from limbeck.planning.checks.finding import Finding
from limbeck.planning.cost.size import Size
from limbeck.report.words import count, duration, share
from limbeck.run.log import console
from limbeck.run.run import micro_rows
from limbeck.teachers.alignment import MANIFEST, AlignedTeacher, write_aligned
from limbeck.teachers.logprobs import Recorded, TeacherLogprobs, logprobs_in, measure_logprobs
from limbeck.types import Batch

_TOLD = "told"  # in a run's folder
_LINE_EVERY = 20.0  # seconds
_UNREAD = 0.02  # share of bytes without a common text that is worth a warning
_ROW = {"cpu": 256, "cuda": 1024}  # tokens of the teacher's rows, where --seq-len does not ask for more


def check_align(settings: DistilSettings) -> None:
    """Raises BadSetting or BadObjective where --tokenizer-align is asked for and cannot be."""
    check_student(settings)
    objective = parse(settings.objective)
    if settings.tokenizer_align is None:
        if any(term.merge for _, term in terms_of(objective)):
            raise BadSetting(
                f"--objective {settings.objective}: merge joins chunks of text that two tokenizers have in common, and with one "
                "tokenizer every token is a chunk: leave it out, or give --tokenizer-align bytes and a student of other tokens"
            )
        return
    if not objective.needs_teacher:
        raise BadSetting(
            f"--tokenizer-align bytes: the objective {objective!r} listens to no teacher, so there is nothing to align: take "
            "--objective 'CrossEntropy + ALM', or leave the flag out; cross-entropy is what --baselines cut+ce compares with"
        )
    for _, term in terms_of(objective):
        if term.needs_teacher and not term.largest:
            term.of_chunks(torch.zeros(0), torch.zeros(0))  # says why, where it cannot
    AlignedTexts.by(settings.objectives)


def check_student(settings: DistilSettings) -> None:
    """Raises BadSetting where --tokenizer-align is asked for without a student that could have another tokenizer."""
    if settings.tokenizer_align is not None and settings.mixers is not None:
        raise BadSetting(
            "--tokenizer-align bytes is for a student with a tokenizer of its own, and one that is made of its teacher by "
            "--mixers has the teacher's: leave one of them out"
        )
    if settings.tokenizer_align is not None and settings.student is None:
        raise BadSetting(
            "--tokenizer-align bytes is for a student with a tokenizer of its own, and what is cut out of a teacher has the "
            "teacher's: name a student with --student, or leave the flag out"
        )


@dataclass(frozen=True)
class AlignedTexts:
    """What objectives hear of a teacher of other tokens: how many of its largest probabilities, and which chunks are merged."""

    largest: int
    merge: float

    @classmethod
    def by(cls, objectives: Sequence[str]) -> AlignedTexts:
        """By these of one run. Raises BadSetting where they would cut the text into different chunks."""
        terms = [term for text in objectives for _, term in terms_of(parse(text)) if term.needs_teacher]
        merges = {term.merge for term in terms if not term.largest}
        if len(merges) > 1:
            raise BadSetting(
                f"--objective {', '.join(objectives)}: expected one threshold of merging, got "
                f"{' and '.join(map(str, sorted(merges)))}: the text is cut into chunks once for all objectives of a run; give "
                "each of them the same merge, or a run of its own"
            )
        return cls(max((term.largest for term in terms), default=0), *(merges or {0.0}))


def teacher_of(
    settings: DistilSettings, where: Environment, *, length: int, objectives: Sequence[str]
) -> RunTeacher | OtherTokens:
    """The teacher of a run in rows of ``length``, whatever its student's tokenizer; ``objectives`` are all that listen to it."""
    if settings.tokenizer_align is None:
        return RunTeacher.of(settings, where, length=length, objectives=objectives)
    return OtherTokens(settings, where, heard=AlignedTexts.by(objectives))


class OtherTokens:
    """In the place of a `RunTeacher`: one whose student has another tokenizer.

    First `stores` is asked for, then `ask`; after that ``told`` is what it says of the student's rows, and ``rows`` how many of
    them it was asked about, None for all.
    """

    def __init__(self, settings: DistilSettings, where: Environment, *, heard: AlignedTexts) -> None:
        """Raises Mismatch where one of the tokenizers is of a kind whose tokens cannot be told in bytes."""
        assert settings.student is not None, "looked at by check_align"
        self._base = RunTeacher.of(settings, where)
        self.about, self.captured, self._settings = self._base.about, self._base.captured, settings
        student = load(settings.student)
        self._student = Reader(student.tokenizer, student.end, student.vocab)
        self._spelled = [TokenBytes(m.tokenizer, name=m.name) for m in (student, self.about)]
        self._heard = heard
        self._asked: AlignedTeacher | None = None
        self.rows: int | None = None

    @property
    def told(self) -> AlignedTeacher:
        """What it said of the student's rows."""
        assert self._asked is not None, "ask comes first"
        return self._asked

    def weights(self, where: Environment) -> LanguageModel:
        """The model itself; nothing is cut out of it."""
        return self._base.weights(where)

    def stores(self, settings: DistilSettings, where: Environment) -> tuple[TokenStore, TokenStore]:
        """(training, held-out) text of the run in the student's tokens, beside which the teacher's held-out text is made.

        Of captured answers it is the text they are about, so far as it can be read back from its tokens.
        """
        folder, spelled = settings.out / "data", self._spelled[1]
        if self.captured is None:
            stores = stores_of(settings, self._student, where)
            if where.world.first:
                self._held_out = self._in_tokens_of_teacher(stores[1], "held_out")
            return stores
        self._theirs, self._held_out = self.captured.stores()
        if where.world.first:
            answered = self._theirs.documents_in(self.captured.answers.rows, length=self.captured.answers.length)
            tokenizer, end = self._student.tokenizer, self._student.end
            for side, store, most in (("train", self._theirs, answered), ("held_out", self._held_out, None)):
                retokenised(store, spelled, tokenizer, folder / side, end=end, documents=most)
        where.world.barrier()
        return text_of_run(settings.out)

    def ask(self, store: TokenStore, where: Environment, *, rows: int, length: int) -> None:
        """Asks the teacher about the documents of the first ``rows`` training rows, or takes what it told before.

        Raises Mismatch where none of it can be of use.
        """
        folder = self._settings.out / "aligned"
        self._tokens = store.tokens
        if self.captured is None:
            self.rows = min(rows, Rows(store, length=length).n_rows)
        if where.world.first and not (folder / MANIFEST).is_file():
            read = np.ones(store.documents, dtype=bool)
            if self.rows is not None:
                read = store.documents_in(self.rows, length=length)
                self._theirs = self._in_tokens_of_teacher(store, "train", documents=read)
            self._write(folder, store, self._tell(where), store.layout(length), read)
        where.world.barrier()
        largest = logprobs_in(self._settings.out / _TOLD).largest if self._heard.largest else None
        if largest is not None:
            largest = largest.reshape(-1, largest.shape[-1])
        layout = store.layout(length)
        self._asked = AlignedTeacher(
            folder, name=self.about.name, read=lambda rows: layout.places(rows).token, largest=largest
        )
        console.print(across(self._asked.facts))
        if not self._asked.facts["bytes_with_target"]:
            raise Mismatch(
                f"--tokenizer-align bytes: no chunk of {store.folder} has a target: of {self._asked.facts['documents']:,} "
                f"documents {self._asked.facts['unread']:,} are not the same bytes in both tokenizers. Look at one with limbeck "
                "doctor, or give a student with the teacher's tokenizer"
            )

    def counted(self, batch: Batch) -> Batch:
        """A batch as it is: what has no target is learned from the text alone."""
        return batch

    @property
    def size(self) -> Size | None:
        """What is in memory beside the student: None where the answers are there."""
        return self._base.size

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json says of it."""
        return self._base.facts | {"aligned": dict(self.told.facts)}

    def passes(self, tokens: int, length: int) -> float:
        """Forward passes of the teacher for each token that a run trains on: one pass over its own tokens of what it reads."""
        return float(self.told.facts["tokens_asked"]) / max(tokens, self._tokens if self.captured else 0)

    def held_out(self, where: Environment) -> HeldOut:
        """The held-out text as the teacher reads it; on the rank that writes."""
        rows = self.captured.held_out.cache.rows if self.captured else None
        return HeldOut(self._held_out, length=self._row(where), machine=where, trained=self._settings.tokens, rows=rows)

    def _row(self, where: Environment) -> int:
        """Tokens of its rows: as many as the student's, and no fewer than is usual."""
        if self.captured is not None:
            return self.captured.answers.length
        return min(self.about.context, max(self._settings.length or 0, _ROW[where.world.device.type]))

    def _in_tokens_of_teacher(self, store: TokenStore, side: str, *, documents: np.ndarray | None = None) -> TokenStore:
        folder, tokenizer = self._settings.out / "data" / "teacher" / side, self.about.tokenizer
        made = retokenised(store, self._spelled[0], tokenizer, folder, end=self.about.end, documents=documents)
        return made.packed(store.packing)

    def _tell(self, where: Environment) -> TeacherLogprobs:
        """What the teacher says of each token of its stream but the first."""
        length, store = self._row(where), self._theirs
        rows = Rows(store, length=length)
        number = self.captured.answers.rows if self.captured else rows.n_rows
        tokens, device = number * length, where.world.device
        console.print(f"asking teacher {self.about.name} once about {count(tokens)} of its own tokens")
        return measure_logprobs(
            self._base.told,
            lambda numbers: rows.rows_of(numbers).to(device),
            self._settings.out / _TOLD,
            rows=number,
            length=length,
            batch_rows=micro_rows(length, device),
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
        """What is kept of each of its distributions: no more outcomes than it tells; where words begin if chunks are merged."""
        there = self.captured.answers.codec.k if self.captured else self.about.vocab
        begin = torch.from_numpy(self._spelled[1].begin_words(self.about.vocab)) if self._heard.merge else None
        return Recorded(largest=min(self._heard.largest, there), some=begin)

    def _write(
        self,
        folder: Path,
        store: TokenStore,
        told: TeacherLogprobs,
        layout: Layout,
        read: Bool[np.ndarray, " documents"],
    ) -> None:
        """Brings what the teacher told of its tokens to the chunks of the student's, in the documents that are ``read``."""
        log_p = told.log_p.reshape(-1)
        mass = None if told.mass is None else told.mass.reshape(-1)
        largest = None if told.largest is None else told.largest.reshape(len(log_p), -1)
        tally = Tally(asked=len(log_p))
        ours, theirs = Side(store, self._spelled[0]), Side(self._theirs, self._spelled[1])
        asked = self._theirs.layout(told.log_p.shape[1])

        def documents() -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
            for document in range(min(store.documents, self._theirs.documents)):
                if not read[document] or store.starts[document] == store.starts[document + 1]:
                    continue  # nothing of it is learned from
                first, chunks = int(store.starts[document]), chunks_of(ours, theirs, document)
                if chunks is None:
                    tally.miss(store.bytes_of(document))
                    continue
                start, stop = int(self._theirs.starts[document]), int(self._theirs.starts[document + 1])
                place = asked.predicted(start, stop)[0]
                if mass is not None:  # of what follows each of their tokens
                    chunks = chunks.merged(_at(mass, np.append(place[1:], -1)) > self._heard.merge)
                found = chunks.log_p(_at(log_p, place))
                tally.add(chunks, *found, segment=layout.predicted(first, first + len(chunks.ours))[1])
                meets = np.where(chunks.meets > 0, place[chunks.meets], -1)  # the position that predicts the token
                meets[meets >= len(log_p)] = -1
                if largest is not None:
                    tally.meet(largest[meets[meets >= 0]].sum(-1, dtype=np.float64))
                yield first, *found, meets

        write_aligned(folder, documents(), tokens=store.tokens, facts=tally.row)


class Tally:
    """What of the training text has a target, in bytes and tokens. ``asked`` is how many tokens the teacher read for it."""

    def __init__(self, *, asked: int) -> None:
        self._counts = dict.fromkeys(
            ("documents", "unread", "bytes", "bytes_with_target", "chunks", "student_tokens", "teacher_tokens"), 0
        )
        self._asked = asked
        self._met, self._mass = 0, 0.0

    def miss(self, size: int) -> None:
        """Told of a document that is not the same bytes in both tokenizers."""
        self._add(documents=1, unread=1, bytes=size)

    def add(
        self, chunks: DocumentChunks, ends: np.ndarray, log_p: np.ndarray, *, segment: Int64[np.ndarray, " n"]
    ) -> None:
        """Told of a document, and in which segment of the student's rows each of its tokens is predicted."""
        last = np.flatnonzero(ends)
        begin = np.concatenate([[0], last[:-1] + 1])
        # not predicted is the first token of a document, and so its chunk
        target = np.isfinite(log_p[last]) & (segment[begin] == segment[last]) & (begin > 0)
        sizes = np.add.reduceat(chunks.sizes, begin)
        members = chunks.ours[last[target]]
        self._add(
            documents=1,
            bytes=int(chunks.sizes[1:].sum()),
            bytes_with_target=int(sizes[target].sum()),
            chunks=int(target.sum()),
            student_tokens=int((last - begin + 1)[target].sum()),
            teacher_tokens=int(np.isin(chunks.theirs, members).sum()),
        )

    def meet(self, mass: Float[np.ndarray, " n"]) -> None:
        """Told of the mass of the teacher's largest probabilities where both have read the same; 0: it was not asked."""
        self._met += int((mass > 0).sum())
        self._mass += float(mass.sum())

    def row(self) -> dict[str, Any]:
        """As JSON."""
        covered = self._counts["bytes_with_target"] / max(1, self._counts["bytes"])
        facts = {**self._counts, "tokens_asked": self._asked, "coverage": covered}
        return facts | ({"positions_met": self._met, "mass_met": self._mass / self._met} if self._met else {})

    def _add(self, **counts: int) -> None:
        for name, number in counts.items():
            self._counts[name] += number


class _Lines:
    """Says how far the teacher is, now and then."""

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
            console.print(f"teacher: {count(done * self._length)} tokens told, about {duration(left)} left")


def alignment(teacher: LanguageModel, student: LanguageModel, texts: Sequence[str], *, chat: bool) -> Iterator[Finding]:
    """How the tokens of a pair lie on each other: the doctor's finding, from some documents, none where there are none."""
    if chat:
        yield Finding(
            "alignment",
            "error",
            "the data are conversations, which each model's template writes in its own way, so its bytes are not the other's",
            "give plain texts, or a student with the teacher's tokenizer",
        )
        return
    try:
        spelled = [TokenBytes(model.tokenizer, name=model.name) for model in (student, teacher)]
    except Mismatch as error:
        yield Finding("alignment", "error", str(error), "give a student with the teacher's tokenizer")
        return
    read = tokens = chunks = 0
    for text in texts:
        size = len(text.encode())
        ends = [
            s.ends(model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], text.encode())
            for s, model in zip(spelled, (student, teacher), strict=True)
        ]
        if ends[0] is not None and ends[1] is not None:
            found = cut(ends[0], ends[1], size=size)
            read, tokens, chunks = read + size, tokens + len(ends[0]), chunks + found.count
    whole = sum(len(text.encode()) for text in texts)
    said = f"teacher {teacher.name} and student {student.name} have different tokenizers, matched by bytes"
    if not whole:
        yield Finding("alignment", "ok", said)
        return
    said += f": {share(read / whole)} of {len(texts)} documents are the same bytes in both"
    said += f", {tokens / chunks:.2f} of the student's tokens a chunk" if chunks else ""
    if read >= (1 - _UNREAD) * whole:
        yield Finding("alignment", "ok", said)
        return
    yield Finding(
        "alignment",
        "warning" if read else "error",
        f"{said}; the rest has no target, since one of the two changes the text (blanks, case, unknown characters)",
        "clean the text of what the tokenizer changes, or take another pair",
    )


def across(told: Mapping[str, Any]) -> str:
    """What a report says of a teacher with another tokenizer, from what `Tally` counted."""
    unread = f"; {told['unread']:,} of {told['documents']:,} documents are not the same bytes in both, and have none"
    met = ""
    if "mass_met" in told:
        met = f"; their largest probabilities meet at {told['positions_met']:,} positions, and leave "
        met += f"{share(1 - told['mass_met'])} of the teacher's mass"
    return (
        f"teacher and student have different tokenizers: {share(told['coverage'])} of the learned bytes have a target, in "
        f"chunks of {told['student_tokens'] / max(1, told['chunks']):.2f} of the student's tokens and "
        f"{told['teacher_tokens'] / max(1, told['chunks']):.2f} of the teacher's{unread if told['unread'] else ''}{met}. The two "
        "are compared in bits per byte; a divergence between them does not exist"
    )


def _at(values: np.ndarray, places: Int64[np.ndarray, " n"]) -> np.ndarray:
    """The values at these places, NaN where there are none."""
    found = np.full(len(places), np.nan)
    there = (places >= 0) & (places < len(values))
    found[there] = values[places[there]]
    return found

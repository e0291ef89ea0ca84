"""The doctor's findings about a text, from its first documents: their forms, and fields that are not read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from limbeck.config import Settings
from limbeck.corpora import Document
from limbeck.corpora.chat import completion, conversation
from limbeck.corpora.faults import BadRecords
from limbeck.corpora.found import as_forms, named
from limbeck.corpora.mixture import Mixture
from limbeck.corpora.source import read_parts, resolve
from limbeck.corpora.template_fields import unprinted
from limbeck.corpora.tokenizer import Frame, document_tokens, frame
from limbeck.errors import BadCorpus, BadRecord
from limbeck.jobs.common.text import columns_of
from limbeck.models.language_model import LanguageModel
from limbeck.planning.checks.finding import Finding
from limbeck.report.words import share
from limbeck.report.words import size as in_bytes
from limbeck.teachers.ref import CapturedRef, TeacherRef

_DOCUMENTS = 64
_NOTHING = Frame(None, None)
_LONG = 1 << 20  # characters from which a document is reported as long
_TEXT_FIELDS = frozenset(  # fields that usually contain text to learn
    [
        *(
            "messages",
            "conversations",
            "text",
            "tools",
            "functions",
            "system",
            "chosen",
            "rejected",
            "prompt",
            "completion",
        ),
        *("instruction", "input", "output", "response", "reasoning", "reasoning_content", "thinking", "documents"),
    ]
)


@dataclass(frozen=True)
class Sample:
    """The first documents of a text. ``whole``: the text has no more.

    ``bad`` are records among them that cannot be read. ``skipped`` are files of the folder that are of other kinds.
    """

    documents: Sequence[Document] = ()
    whole: bool = False
    bad: BadRecords = field(default_factory=BadRecords)
    skipped: tuple[str, ...] = ()

    @property
    def texts(self) -> list[str]:
        """The texts of documents that are not conversations."""
        return [document.text for document in self.documents if document.text is not None]

    @property
    def chat(self) -> bool:
        """Whether some documents are conversations."""
        return any(document.messages is not None for document in self.documents)


def first_documents(settings: Settings, teacher: TeacherRef | None = None) -> Sample:
    """The first 64 documents of the text; none if captured logits contain the text as tokens."""
    if isinstance(teacher, CapturedRef):
        return Sample()
    mixture = Mixture.of(settings.data)
    sources = (settings.data,) if mixture is None else mixture.sources
    parts = [resolve(source, columns_of(settings)) for source in sources]
    bad, each = BadRecords(settings.skip_bad or 0), -(-_DOCUMENTS // len(sources))
    documents = [list(islice(read_parts(p, s, bad), each)) for p, s in zip(parts, sources, strict=True)]
    skipped = tuple(name for some in parts for part in some for name in part.beside)
    return Sample([d for some in documents for d in some], all(len(some) < each for some in documents), bad, skipped)


def of_text(sample: Sample, teacher: LanguageModel) -> Iterator[Finding]:
    """Findings about the text for a teacher."""
    if not sample.documents:
        return
    yield from _forms(sample)
    yield from _framed(sample, teacher)
    yield from _unread(sample)
    if teacher.tokenizer.chat_template is not None:
        yield from _unprinted(sample, teacher)
        yield from _end_of_turn(sample, teacher)


def _forms(sample: Sample) -> Iterator[Finding]:
    forms = Counter(document.form or "text" for document in sample.documents)
    among = "documents" if sample.whole else f"first {len(sample.documents)} documents"
    message = f"the {among} are read {as_forms(forms)}"
    if sample.skipped:
        message += f"; {len(sample.skipped):,} files of other kinds are skipped ({named(sample.skipped)})"
    yield Finding("text", "warning" if sample.skipped else "ok", message, "convert them" if sample.skipped else "")
    longest = max(sample.documents, key=lambda document: len(document.content))
    size = len(longest.content)
    if size >= _LONG:
        yield Finding(
            "text",
            "ok",
            f"{longest.name} is one document of {in_bytes(size)}; where it is the whole text, it is split into passages, so that "
            "some can be held out",
            "lines <|endoftext|> separate the documents of a .txt file; --eval-data names another text to measure on",
        )


def unreadable(sample: Sample, teacher: LanguageModel) -> Iterator[Finding]:
    """Finds records that cannot be read, or that the teacher's chat template rejects. A run reports those of the whole text."""
    first, count = list(sample.bad.first), sample.bad.count
    for document in sample.documents:
        try:
            if document.messages is not None and teacher.tokenizer.chat_template is not None:
                conversation(teacher.tokenizer, document)
            elif document.prompt:
                completion(teacher.tokenizer, document)
        except BadRecord as error:
            first, count = [*first, str(error)], count + 1
        except BadCorpus as error:
            yield Finding("text", "error", str(error), "take another teacher, or give the data as 'text'")
            return
    if count:
        looked = len(sample.documents) + sample.bad.count
        yield Finding(
            "text",
            "warning" if count <= sample.bad.most else "error",
            f"{count} of the first {looked} records cannot be read; the first: {first[0]}",
            "repair or remove them, or skip some with --skip-bad",
        )


def _framed(sample: Sample, teacher: LanguageModel) -> Iterator[Finding]:
    """Finds texts that begin with the token that opens a document."""
    around = frame(teacher.tokenizer, end=teacher.end)
    begun = [text[:64] for text in sample.texts]
    opened = sum(tokens[:1] == [around.begin] for tokens in document_tokens(teacher.tokenizer, begun, frame=_NOTHING))
    if around.begin is not None and opened:
        token = teacher.tokenizer.convert_ids_to_tokens(around.begin)
        yield Finding(
            "text",
            "ok",
            f"{opened} of {len(begun)} texts begin with {token!r} already; it is not added again",
            "if a chat template wrote them, give the conversations themselves ('messages'): then only the answers are learned",
        )


def _unread(sample: Sample) -> Iterator[Finding]:
    """Finds fields of records that are not read."""
    counts = Counter(name for document in sample.documents for name in document.unread)
    if not counts:
        return
    number = len(sample.documents)
    message = ", ".join(f"{name!r} ({share(count / number)})" for name, count in counts.most_common(8))
    text = any(name in _TEXT_FIELDS for name in counts)
    yield Finding(
        "fields",
        "warning" if text else "ok",
        f"not read, of {number} records: {message}",
        "name the fields to read with --columns, such as --columns text=body" if text else "",
    )


def _unprinted(sample: Sample, teacher: LanguageModel) -> Iterator[Finding]:
    """Finds fields that the chat template does not print."""
    for name, found in unprinted(teacher.tokenizer, sample.documents).items():
        example = found.example if len(found.example) <= 60 else f"{found.example[:60]}…"
        yield Finding(
            "fields",
            "warning",
            f"{name!r} reaches no token in {found.unprinted} of the {found.documents} conversations that have it, since the chat "
            f"template does not print it (such as {example!r})",
            "take a template that prints it, put its text into the content, or leave it out of the data",
        )


def _end_of_turn(sample: Sample, teacher: LanguageModel) -> Iterator[Finding]:
    """Finds assistant turns whose last learned token does not stop generation."""
    generation = teacher.model.generation_config
    stops = None if generation is None else generation.eos_token_id
    for document in sample.documents:
        if document.messages is None:
            continue
        try:
            tokens = conversation(teacher.tokenizer, document)
        except BadCorpus:
            continue
        last = [token for token, learned in zip(tokens.tokens, tokens.learned, strict=True) if learned][-1]
        if last not in (stops if isinstance(stops, list) else [stops]):
            yield Finding(
                "EOS",
                "warning",
                f"the assistant's turns end with {teacher.tokenizer.convert_ids_to_tokens(last)!r} (id {last}), generation of "
                f"{teacher.name} stops at {stops or 'none'}",
                f"set generation_config.eos_token_id to include {last} and save the model again, or the student will not stop",
            )
        return

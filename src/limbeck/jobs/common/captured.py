"""A folder that `limbeck capture` wrote, in the place of a teacher.

It holds the text in tokens, the logits of its rows, and the teacher's measurements for a report. The weights are needed only to
prune a student from the teacher.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch

from limbeck.corpora import TokenStore
from limbeck.corpora.opening import begin_with
from limbeck.disk import Count, link_or_copy, read_json, read_rows, whole_folder
from limbeck.errors import BadModel, LimbeckError, Mismatch
from limbeck.jobs.common.folder import packing_in, part_of_text
from limbeck.models.configuration import load_config
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.models.source import resolve, weights_digest
from limbeck.models.stored import StoredModel
from limbeck.models.streamed import StreamedModel
from limbeck.models.trim.folder import open_vocabulary
from limbeck.models.trim.model import trim
from limbeck.models.weightless import load_without_weights
from limbeck.models.within import kept_tokens, load_within
from limbeck.probes import Measurements
from limbeck.students.shape import Shape
from limbeck.teachers import LogitCache
from limbeck.teachers.cache import MANIFEST
from limbeck.teachers.ref import ANSWERS, DESCRIPTION, CapturedRef, ServedRef, teacher_ref
from limbeck.teachers.trimmed import TrimmedCache
from limbeck.types import Batch, Reading, ReadingRow, Sparse

HELD_OUT, DATA, CERTIFICATE = "held_out", "data", "certificate.json"
CUT = "cut"  # students that were cut out of the teacher while it was there, a folder each
MEASURED, COST, SAMPLES = "measured/teacher.safetensors", "measured/cost.json", "measured/samples.json"


_COPY = "copy the whole folder again, or capture again into another"


class _Signature(TypedDict):
    teacher: str
    data: str
    eval_data: NotRequired[str | None]
    seed: int


class Facts(TypedDict):
    """The entries of a capture's run.json that are read."""

    signature: _Signature
    rows: Count
    within: NotRequired[list[Count]]


class _Sample(TypedDict):
    """A sample of the teacher's text: a prompt and its completion."""

    document: str
    prompt: str
    student: str


class Captured:
    """Captured logits, and the teacher without its weights."""

    def __init__(self, folder: Path, *, trimmed: Path | None = None) -> None:
        """Opens a folder; ``trimmed`` is that of a vocabulary to which its logits over all tokens are restricted.

        Raises BadModel if the capture is not complete, or if the folder is one shard of it, BadSetting for logits that cannot be
        restricted.
        """
        self.folder, self._trimmed = folder, trimmed
        if not (folder / ANSWERS / MANIFEST).is_file():
            raise BadModel(
                f"{folder}: its logits are not complete: run the command of the capture again to continue it, or merge all of "
                "its shards with limbeck cache merge"
            )
        self.facts: Mapping[str, Any] = read_json(folder / "run.json", Facts, error=BadModel, remedy=_COPY)
        self.logits = self._cache(folder / ANSWERS)
        if self.logits.first > 0 or self.logits.rows < self.facts["rows"]:
            last = self.logits.first + self.logits.rows - 1
            raise BadModel(
                f"{folder} is one shard: it has the logits of rows {self.logits.first:,} to {last:,} of "
                f"{self.facts['rows']:,}: put the shards together with limbeck cache merge OUT SHARD SHARD ..."
            )

    def _cache(self, folder: Path) -> LogitCache:
        return (
            LogitCache(folder) if self._trimmed is None else TrimmedCache(folder, open_vocabulary(self._trimmed).kept)
        )

    @cached_property
    def about(self) -> LanguageModel:
        """The teacher without its weights. Raises BadModel where its description is damaged."""
        return load_without_weights(self._trimmed or self.folder / DESCRIPTION, name=self.logits.name)

    @property
    def vocabulary(self) -> Path | None:
        """The folder of the trimmed vocabulary that the teacher was captured with; None where it has all its tokens."""
        return CapturedRef(str(self.folder), self.folder, self._trimmed).vocabulary

    @property
    def identity(self) -> str:
        """SHA-256 of what the logits were made from."""
        return hashlib.sha256((self.folder / ANSWERS / MANIFEST).read_bytes()).hexdigest()

    @property
    def packing(self) -> str:
        """The name of the packing of documents into rows."""
        return packing_in(self.facts)

    def stores(self) -> tuple[TokenStore, TokenStore]:
        """(training, held-out) text of the captured rows.

        All of it is read and compared with its checksums. Raises BadCorpus where it is damaged, Mismatch where it is another
        text than was captured.
        """
        stores = tuple(
            TokenStore.open(self.folder / DATA / side).packed(self.packing) for side in ("train", "held_out")
        )
        for store in stores:
            store.verify(remedy=_COPY)
        stores = (part_of_text(stores[0], self.facts), stores[1])
        for store, cache in zip(stores, (self.logits, self.held_out.cache), strict=True):
            expected, found = cache.made_from["corpus"], store.manifest["corpus_sha256"]
            if expected != found:
                raise Mismatch(
                    f"{store.folder}: the logits in {self.folder} were captured from another corpus ({expected[:12]}… there, "
                    f"{found[:12]}… now): copy the whole folder again"
                )
        if self._trimmed is not None:
            kept = open_vocabulary(self._trimmed).kept
            return stores[0].renumbered(kept), stores[1].renumbered(kept)
        return stores[0], stores[1]

    @property
    def text_tokens(self) -> int | None:
        """The number of tokens of the text for training, None for all."""
        found: int | None = self.facts["signature"].get("text_tokens")
        return found

    @cached_property
    def held_out(self) -> HeldOutLogits:
        """The teacher's logits of held-out rows."""
        return HeldOutLogits(self._cache(self.folder / HELD_OUT))

    @cached_property
    def served(self) -> bool:
        """Whether the teacher was on a server, so that its own loss, cost and samples were not measured."""
        return isinstance(teacher_ref(self.facts["signature"]["teacher"]), ServedRef)

    @property
    def measured(self) -> Measurements | None:
        """The teacher on the held-out rows; None of a served one."""
        return None if self.served else Measurements.load(self.folder / MEASURED)

    @property
    def cost(self) -> list[Reading]:
        """The cost of running the teacher, measured during the capture; none of a served one."""
        if self.served:
            return []
        return [Reading.of(row) for row in read_rows(self.folder / COST, ReadingRow, error=BadModel, remedy=_COPY)]

    @property
    def samples(self) -> list[dict[str, Any]]:
        """The teacher's completions of held-out prompts; none of a served one."""
        return [] if self.served else read_rows(self.folder / SAMPLES, _Sample, error=BadModel, remedy=_COPY)

    def place_cut(self, shapes: Sequence[Shape], folder: Path, *, seed: int) -> None:
        """Puts the student there that was pruned when the teacher was captured, if one was by the same seed.

        ``shapes`` are those that it may have, the best first.
        """
        if self.facts["signature"]["seed"] != seed or self._trimmed is not None or folder.exists():
            return
        found = {Shape.of(load_config(file.parent)): file.parent for file in (self.folder / CUT).glob("*/config.json")}
        made = next((found[shape] for shape in shapes if shape in found), None)
        if made is not None:
            with whole_folder(folder) as beside:
                link_or_copy(made, beside)

    def weights(self, *, device: torch.device, dtype: torch.dtype) -> LanguageModel:
        """The teacher with its weights, from its path at the capture.

        Raises BadModel if it is no longer there, or was on a server, and Mismatch if its weights are different.
        """
        model = load(self._source, device=device, dtype=dtype)
        model = model if self.vocabulary is None else trim(model, open_vocabulary(self.vocabulary))
        begin_with(model, self.about.tokenizer.bos_token)
        return model

    def stored(self, *, dtype: torch.dtype) -> StoredModel:
        """The teacher on disk, to cut a student from. Raises as `weights`."""
        model = StoredModel.open(self._source, dtype=dtype)
        model = model if self.vocabulary is None else model.trimmed(open_vocabulary(self.vocabulary))
        begin_with(model.about, self.about.tokenizer.bos_token)
        return model

    def weights_within(
        self, *, device: torch.device, dtype: torch.dtype, length: int, spill: Path, say: Callable[[str], None]
    ) -> LanguageModel | StreamedModel:
        """The same teacher, which computes layer by layer where it does not fit in memory (`load_within`). Raises so too."""
        vocabulary = None if self.vocabulary is None else open_vocabulary(self.vocabulary)
        kept = 0 if vocabulary is None else len(vocabulary.kept)
        model = load_within(self._source, device=device, dtype=dtype, length=length, spill=spill, kept=kept, say=say)
        return model if vocabulary is None else kept_tokens(model, vocabulary, self.about)

    @cached_property
    def _source(self) -> str:
        """The teacher's path, after its weights were compared with those of the capture."""
        source: str = self.facts["signature"]["teacher"]
        if self.served:
            raise BadModel(
                f"{self.folder} was captured from a server ({source}), which does not give its weights, and a student cannot "
                "be pruned without them: give a model with --student"
            )
        remedy = (
            "to prune a student from it: give a model with --student, or put the teacher's folder back (capture --params "
            "prunes students while it is there, for runs of its --seed)"
        )
        try:
            found = weights_digest(resolve(source))
        except LimbeckError as error:
            raise BadModel(f"{self.folder}: the teacher {source} is needed {remedy} ({error})") from error
        expected = self.logits.made_from["teacher"]
        if found != expected:
            raise Mismatch(
                f"{self.folder} was captured from {source} with weights {expected[:12]}…; those there now are {found[:12]}…. "
                f"The same weights are needed {remedy}"
            )
        return source


class HeldOutLogits:
    """The teacher of held-out rows. Logits are kept by the place of a row in the sample that models are measured on."""

    def __init__(self, cache: LogitCache) -> None:
        self.cache, self.name, self.vocab = cache, cache.name, cache.vocab
        self._place: dict[int, int] = {}

    def of_sample(self, sample: np.ndarray) -> HeldOutLogits:
        """Sets the rows of the sample, (rows,), in its order. Gives itself."""
        self._place = {int(row): place for place, row in enumerate(sample)}
        return self

    def __call__(self, batch: Batch) -> Sparse:
        """The teacher's logits of these rows of the corpus."""
        return self.cache(self._placed(batch))

    def counted(self, batch: Batch) -> Batch:
        """The batch with weight 0 where the teacher has no logits."""
        return replace(self.cache.masked(self._placed(batch)), row=batch.row)

    def _placed(self, batch: Batch) -> Batch:
        return replace(batch, row=torch.tensor([self._place[int(row)] for row in batch.row]))

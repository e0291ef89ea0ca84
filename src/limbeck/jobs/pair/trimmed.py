"""Loads a teacher with the vocabulary of its run, and measures once what a trimmed one leaves out.

The mass of the tokens that are left out is what the whole head gives them; the trimmed one shares it among the others in
proportion. Both teachers are compared in bits per byte of the same held-out documents, each in its own tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.disk import finite, read_json, write_json
from limbeck.errors import BadModel
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.pair.vocabulary import measured_file
from limbeck.models.language_model import LanguageModel
from limbeck.models.led import led
from limbeck.models.stored import StoredModel
from limbeck.models.streamed import StreamedModel
from limbeck.models.trim.folder import facts_of, open_vocabulary
from limbeck.models.trim.model import Vocabulary, trim
from limbeck.models.weightless import load_without_weights
from limbeck.models.within import kept_tokens, load_within
from limbeck.probes.interval import difference_interval, mean_interval
from limbeck.report.vocabulary import left_out_sentence
from limbeck.report.words import share
from limbeck.run.log import console
from limbeck.run.sharded import Sharded
from limbeck.teachers.ref import LocalRef
from limbeck.types import Batch, each

Whole = TypeVar("Whole", LanguageModel, StreamedModel)

_CELLS = 2**22  # logits in memory at a time
_APART = 0.02  # of the largest hidden state: more than other places in memory make of the same sums
_MUCH = 0.01  # of the probability, left out on average, from which on a remedy is named


def load_teacher(teacher: LocalRef, environment: Environment) -> LanguageModel:
    """A teacher in memory, with the kept rows alone where its vocabulary is trimmed.

    The first load measures what trimming leaves out, beside the folder of the vocabulary. On a sharded mesh each rank keeps its
    part. Raises BadModel where hidden states depend on the ids of tokens.
    """
    world = environment.world
    if teacher.vocabulary is not None and isinstance(world, Sharded):
        return _load_parts(teacher.name, teacher.vocabulary, world, environment.dtype)
    return with_kept(world.load(teacher.name, dtype=environment.dtype), teacher, environment, trim)


def _load_parts(name: str, folder: Path, world: Sharded, dtype: torch.dtype) -> LanguageModel:
    """The kept rows of a teacher, each rank its part; first the whole one, where what is left out was not measured yet."""
    vocabulary, file = open_vocabulary(folder), measured_file(folder)
    world.barrier()
    if not world.any(world.first and not file.is_file())[0]:
        return world.load(name, dtype=dtype, vocabulary=vocabulary)
    rows = facts_of(folder)["measured"]
    before = _read_together(world.load(name, dtype=dtype), [row["whole"] for row in rows], vocabulary)
    trimmed, failed = world.load(name, dtype=dtype, vocabulary=vocabulary), ""
    with led(trimmed) as together:
        if together is not None:
            assert before is not None
            try:
                _keep_measured(file, _compared(before, together[0], rows, vocabulary))
            except BadModel as error:
                failed = str(error)
    if failed := world.share(failed):
        raise BadModel(failed)
    return trimmed


def _read_together(model: LanguageModel, rows: Sequence[Mapping[str, Any]], vocabulary: Vocabulary) -> _Read | None:
    """Documents as a whole model in parts reads them, on rank 0; None on the others."""
    with led(model) as together:
        return None if together is None else _read(together[0], rows, _left_out(together[0], vocabulary))


def load_whole_within(
    teacher: LocalRef, environment: Environment, *, length: int, spill: Path
) -> LanguageModel | StreamedModel:
    """The teacher with all of its weights on this process, or layer by layer where it does not fit in memory.

    `load_teacher` has measured before what its trimmed vocabulary leaves out.
    """
    model = _within(teacher, environment, length=length, spill=spill)
    if teacher.vocabulary is None:
        return model
    about = load_without_weights(teacher.vocabulary, name=model.name)
    return kept_tokens(model, open_vocabulary(teacher.vocabulary), about)


def stored_teacher(teacher: LocalRef, environment: Environment) -> StoredModel:
    """A teacher on disk, to cut a student from, with the kept rows alone where its vocabulary is trimmed.

    Raises BadModel as `load_teacher` does, and for quantised weights.
    """
    stored = StoredModel.open(teacher.name, dtype=environment.dtype)
    return stored if teacher.vocabulary is None else stored.trimmed(open_vocabulary(teacher.vocabulary))


def load_teacher_within(
    teacher: LocalRef, environment: Environment, *, length: int, spill: Path
) -> LanguageModel | StreamedModel:
    """The teacher of `load_teacher`, read layer by layer where it does not fit in memory, for rows of ``length`` tokens.

    ``spill`` is the folder for a file of hidden states that do not fit either.
    """
    model = _within(teacher, environment, length=length, spill=spill)
    if isinstance(model, StreamedModel):
        return with_kept_streamed(model, teacher, environment)
    return with_kept(model, teacher, environment, trim)


def _within(teacher: LocalRef, environment: Environment, *, length: int, spill: Path) -> LanguageModel | StreamedModel:
    return load_within(
        teacher.name,
        device=environment.world.device,
        dtype=environment.dtype,
        length=length,
        spill=spill,
        kept=0 if teacher.vocabulary is None else len(open_vocabulary(teacher.vocabulary).kept),
        say=console.print,
    )


def with_kept_streamed(model: StreamedModel, teacher: LocalRef, environment: Environment) -> StreamedModel:
    """As `with_kept`, of a teacher that is read layer by layer."""
    if teacher.vocabulary is None:
        return model
    about = load_without_weights(teacher.vocabulary, name=model.name)
    return with_kept(model, teacher, environment, lambda whole, vocabulary: whole.trimmed(vocabulary, about))


def with_kept(
    model: Whole, teacher: LocalRef, environment: Environment, cut: Callable[[Whole, Vocabulary], Whole]
) -> Whole:
    """A whole teacher with the kept tokens alone, by ``cut``, after it was measured once what is left out.

    Raises as `load_teacher`.
    """
    if teacher.vocabulary is None:
        return model
    vocabulary, file = open_vocabulary(teacher.vocabulary), measured_file(teacher.vocabulary)
    environment.world.barrier()
    if file.is_file() or not environment.world.first:
        return cut(model, vocabulary)
    rows = facts_of(teacher.vocabulary)["measured"]
    before = _read(model, [row["whole"] for row in rows], _left_out(model, vocabulary))
    trimmed = cut(model, vocabulary)
    _keep_measured(file, _compared(before, trimmed, rows, vocabulary))
    return trimmed


def _left_out(model: LanguageModel | StreamedModel, vocabulary: Vocabulary) -> Bool[Tensor, " V"]:
    """Which tokens of a whole model are left out."""
    outside = torch.ones(model.vocab, dtype=torch.bool, device=model.device)
    outside[torch.from_numpy(vocabulary.kept).to(model.device)] = False
    return outside


def _keep_measured(file: Path, found: dict[str, Any]) -> None:
    write_json(file, finite(found))
    console.print(left_out_sentence(found))
    if found["left_out"] is not None and found["left_out"]["value"] > _MUCH:
        console.print(
            f"warning: {share(found['left_out']['value'], digits=1)} of the teacher's probability has no token in the student: "
            "give more text, of which --vocab auto keeps more tokens, or a larger number with --vocab N"
        )


def facts_in(folder: Path) -> dict[str, Any]:
    """What is known of a trimmed vocabulary: what it does to the text, and to the teacher where that was measured."""
    hidden = ("made_from", "measured")
    facts = {key: value for key, value in facts_of(folder).items() if key not in hidden}
    return facts | {"kept_sha256": open_vocabulary(folder).digest, "left_out": what_is_left_out(folder)}


def what_is_left_out(folder: Path) -> dict[str, Any]:
    """What was measured when the teacher was first loaded; nothing where it was not."""
    file = measured_file(folder)
    found: dict[str, Any] = (
        read_json(file, remedy="remove it: the next run measures it again") if file.is_file() else {}
    )
    return found


@dataclass(frozen=True)
class _Read:
    """Documents as a model reads them: nats, learned bytes, and probability left out of each; ``worst`` of one position."""

    nats: Float[np.ndarray, " documents"]
    bytes: Float[np.ndarray, " documents"]
    left_out: Float[np.ndarray, " documents"]
    positions: Float[np.ndarray, " documents"]
    worst: float
    first: Tensor | None  # the hidden states of the first document


@torch.no_grad()
def _read(model: LanguageModel | StreamedModel, rows: Sequence[Mapping[str, Any]], outside: Tensor | None) -> _Read:
    """Documents as a model reads them; ``outside``: which tokens are left out, None where those are not there."""
    nats, sizes, left, positions = (np.zeros(len(rows)) for _ in range(4))
    worst, first = 0.0, None
    batches = (_batch(row).to(model.device) for row in rows)
    for number, (row, (batch, outputs)) in enumerate(zip(rows, each(model, batches), strict=True)):
        first = outputs.hidden[0].float().clone() if first is None else first
        flat = batch.flat()
        places = flat.weight.nonzero().squeeze(-1)
        for part in places.split(max(1, _CELLS // outputs.vocab)):
            log_p = outputs.logits(part).float().log_softmax(-1)
            nats[number] -= float(log_p.gather(-1, flat.targets[part, None]).double().sum())
            if outside is not None:
                mass = log_p[:, outside].exp().double().sum(-1)
                left[number] += float(mass.sum())
                worst = max(worst, float(mass.max()))
        positions[number] = len(places)
        learned = len(row["tokens"]) - 1 if row["learned"] is None else sum(row["learned"][1:])
        sizes[number] = row["bytes"] * len(places) / max(1, learned)
    return _Read(nats, sizes, left, positions, worst, first)


def _batch(row: Mapping[str, Any]) -> Batch:
    tokens = torch.tensor(row["tokens"], dtype=torch.int64)[None]
    position = torch.arange(tokens.shape[1] - 1)[None]
    learned = row["learned"]
    weight = torch.ones(position.shape) if learned is None else torch.tensor(learned[1:], dtype=torch.float32)[None]
    return Batch(tokens[:, :-1], tokens[:, 1:], weight, position, torch.zeros_like(position), position[:, 0])


def _compared(
    before: _Read, trimmed: LanguageModel | StreamedModel, rows: Sequence[Mapping[str, Any]], vocabulary: Vocabulary
) -> dict[str, Any]:
    """The mass left out, and bits per byte with all tokens and with the kept ones."""
    after = _read(trimmed, [row["trimmed"] for row in rows], None)
    _check_same(before, after, trimmed, rows, vocabulary)
    bits = [read.nats.sum() / math.log(2) / max(1.0, read.bytes.sum()) for read in (before, after)]
    more = difference_interval(
        after.nats[None] / math.log(2), before.nats[None] / math.log(2), np.maximum(before.bytes, 1e-9)
    )
    return {
        "positions": int(before.positions.sum()),
        "left_out": asdict(mean_interval(before.left_out, np.maximum(before.positions, 1e-9))) if rows else None,
        "worst": before.worst,
        "bits_per_byte": {"whole": bits[0], "trimmed": bits[1], "difference": asdict(more) if rows else None},
    }


def _check_same(
    before: _Read,
    after: _Read,
    trimmed: LanguageModel | StreamedModel,
    rows: Sequence[Mapping[str, Any]],
    vocabulary: Vocabulary,
) -> None:
    """Raises BadModel where a document of kept tokens has other hidden states than before."""
    if not rows or vocabulary.kept[rows[0]["trimmed"]["tokens"]].tolist() != rows[0]["whole"]["tokens"]:
        return
    assert before.first is not None
    assert after.first is not None
    apart = float((before.first - after.first).abs().max())
    if apart > _APART * float(before.first.abs().max()):
        raise BadModel(
            f"{trimmed.name}: its hidden states of the same text change by {apart:.3g} when its vocabulary is trimmed, so it "
            "uses the ids of tokens for more than its embedding; leave --vocab out"
        )

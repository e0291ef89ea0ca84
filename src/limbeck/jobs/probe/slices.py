"""`limbeck probe --probe slices`: how well a model recalls what stands earlier in its context, alone or against another."""

from __future__ import annotations

from limbeck.errors import BadCorpus
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.held_out import HeldOut
from limbeck.jobs.probe.text import Texts
from limbeck.models.language_model import LanguageModel
from limbeck.probes import Bigrams, measure_slices, slices
from limbeck.run.log import console
from limbeck.types import Reading


def recall_by_slices(
    texts: Texts,
    measured: LanguageModel,
    against: LanguageModel | None,
    *,
    length: int,
    where: Environment,
) -> tuple[list[Reading], str, str]:
    """Readings of a model on a text, slice by slice, in what bigrams were counted, and on what was measured.

    How often training saw a bigram is counted in the training text of the run that the model is in. A model that is in none is
    measured on the held-out part of the source, and the rest of it is counted in. Raises BadCorpus where nothing repeats.
    """
    train, said, text = texts.for_slices()
    held_out = HeldOut(text.store, length=length, machine=where)
    measured_on = text.said + held_out.said
    console.print(f"slices are measured on {measured_on}")
    bigrams = Bigrams.counted(train, held_out.batches(), vocab=measured.vocab)
    console.print(f"bigrams are counted in {said}: {train.tokens:,} tokens of {train.documents:,} documents")
    runs = [
        measure_slices(each, held_out.batches(), bigrams, documents=text.store.documents)
        for each in (measured, against)
        if each is not None
    ]
    readings = slices("model", runs[:1], against=runs[1:])
    if not any(reading.name == "recall_hits" for reading in readings):
        raise BadCorpus(
            f"{measured_on}: of its rows of {length} tokens none repeats a pair of tokens, so there is no recall to measure: "
            "give longer documents, or longer rows with --seq-len"
        )
    if against is not None and not any(reading.name == "gap_share_on_hits" for reading in readings):
        console.print("The gap between the two cannot be told from 0, so no share of it is given.")
    return readings, said, measured_on

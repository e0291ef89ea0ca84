"""The probes on text: likelihood with calibration, fidelity and cost; and likelihood by recall slices."""

from __future__ import annotations

from limbeck.errors import BadCorpus
from limbeck.models.language_model import LanguageModel
from limbeck.probes.calibration import calibration
from limbeck.probes.cost import SPREAD, cost
from limbeck.probes.fidelity import fidelity
from limbeck.probes.likelihood import likelihood
from limbeck.probes.measurements import measure
from limbeck.probes.named import TEXT, ProbeContext, probe
from limbeck.probes.slices import Bigrams, measure_slices, slices
from limbeck.types import Reading


@probe("likelihood", reads=(*TEXT, "teacher"))
def probe_likelihood(model: LanguageModel, teacher: LanguageModel | None, context: ProbeContext) -> list[Reading]:
    """Likelihood and calibration of a model on a text, its fidelity to a teacher, and its inference cost."""
    text = context.held_out()
    measured = measure(model, teacher, text.batches(), documents=text.store.documents)
    sizes = text.text_bytes(measured)
    if not model.in_one_process:
        context.note(f"speed and peak memory of {model.name} are left out: {SPREAD}")
    readings = likelihood("model", [measured], text_bytes=sizes) + calibration("model", [measured])
    return readings + fidelity("model", [measured]) + cost("model", model)


@probe("slices", reads=(*TEXT, "teacher"))
def probe_slices(model: LanguageModel, teacher: LanguageModel | None, context: ProbeContext) -> list[Reading]:
    """Nats per token where a bigram repeats in the context, by its count in training, and elsewhere (`probes.slices`).

    Bigrams are counted in the training part of the text. Raises BadCorpus if the held-out text repeats no bigram.
    """
    train, named, text = context.split()
    context.note(f"bigrams are counted in {named}: {train.tokens:,} tokens of {train.documents:,} documents")
    bigrams = Bigrams.counted(train, text.batches(), vocab=model.vocab)
    runs = [
        measure_slices(one, text.batches(), bigrams, documents=text.store.documents)
        for one in (model, teacher)
        if one is not None
    ]
    readings = slices("model", runs[:1], against=runs[1:])
    if not any(reading.name == "recall_hits" for reading in readings):
        raise BadCorpus(
            f"{context.measured_on}: of its rows none repeats a pair of tokens, so there is no recall to measure: give longer "
            "documents, or longer rows with --seq-len"
        )
    if teacher is not None and not any(reading.name == "gap_share_on_hits" for reading in readings):
        context.note("The gap between the two is not distinguishable from 0, so no share of it is given.")
    return readings

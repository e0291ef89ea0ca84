"""`limbeck probe --probe slices`: how well a model recalls what stands earlier in its context, alone or against another."""

from __future__ import annotations

import tempfile
from pathlib import Path

from limbeck.config import ProbeSettings
from limbeck.corpora import TokenStore, build_held_out, build_stores
from limbeck.corpora.store import read_manifest
from limbeck.corpora.tokenizer import fingerprint
from limbeck.errors import BadCorpus
from limbeck.jobs.held_out import HeldOut
from limbeck.jobs.setup import Machine
from limbeck.models.load import LanguageModel
from limbeck.probes import Bigrams, measure_slices, slices
from limbeck.run.log import console
from limbeck.types import Reading

_UP = 4  # folders above a model in which its run may be: runs/x/baselines/cut+ce-seed0/student


def recall_by_slices(
    settings: ProbeSettings,
    model: str,
    measured: LanguageModel,
    against: LanguageModel | None,
    *,
    length: int,
    where: Machine,
) -> tuple[list[Reading], str]:
    """Readings of a model on a source, slice by slice, and in what bigrams were counted. ``model`` is where it is from.

    How often training saw a bigram is counted in the training text of the run that the model is in; then all of the source is
    measured. A model that is in none is measured on the held-out part of the source, and the rest of it is counted in.
    Raises BadCorpus where nothing repeats.
    """
    with tempfile.TemporaryDirectory() as folder:
        train = _training_text(model, measured)
        source, end, progress = settings.data, measured.end, console.is_terminal
        if train is None:
            train, store = build_stores(source, measured.tokenizer, folder, end=end, progress=progress)
            said = f"the training half of {source}"
        else:
            store = build_held_out(source, measured.tokenizer, folder, end=end, progress=progress)
            said = f"the training text of the run in {train.folder.parents[1]}"
        held_out = HeldOut(store, length=length, machine=where)
        bigrams = Bigrams.counted(train, held_out.batches(), vocab=measured.vocab)
        console.print(f"bigrams are counted in {said}: {train.tokens:,} tokens of {train.documents:,} documents")
        runs = [
            measure_slices(each, held_out.batches(), bigrams, documents=store.documents)
            for each in (measured, against)
            if each is not None
        ]
    readings = slices("model", runs[:1], against=runs[1:])
    if not any(reading.name == "recall_hits" for reading in readings):
        raise BadCorpus(
            f"{source}: of its rows of {length} tokens none repeats a pair of tokens, so there is no recall to measure: give "
            "longer documents, or longer rows with --length"
        )
    if against is not None and not any(reading.name == "gap_share_on_hits" for reading in readings):
        console.print("The gap between the two cannot be told from 0, so no share of it is given.")
    return readings, said


def _training_text(model: str, measured: LanguageModel) -> TokenStore | None:
    """The training text of the run that a model's folder is in, in its tokens; None where there is none."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return None
    for above in list(folder.resolve().parents)[:_UP]:
        text = above / "data" / "train"
        if (above / "run.json").is_file() and text.is_dir():
            same = read_manifest(text)["made_from"].get("tokenizer") == fingerprint(measured.tokenizer)
            return TokenStore.open(text) if same else None
    return None

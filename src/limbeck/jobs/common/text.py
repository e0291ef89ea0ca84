"""The text of a run as token stores in its folder: made once, by the first rank, and opened by all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from limbeck.config import (
    CaptureSettings,
    PilotSettings,
    PretrainSettings,
    RankSettings,
    Settings,
    TeacherSettings,
    TuneSettings,
)
from limbeck.corpora import TokenStore, build_stores
from limbeck.corpora.build import build_training
from limbeck.corpora.found import notes_of
from limbeck.corpora.mixture import plain
from limbeck.corpora.reading import Reads, Records
from limbeck.corpora.records import STRATEGY, Columns
from limbeck.corpora.store import read_manifest
from limbeck.errors import BadCorpus, BadSetting
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.folder import packing_in_settings, read_run, text_of_run
from limbeck.objectives.spec import ObjectiveSpec
from limbeck.run.log import console


def columns_of(settings: Settings | PilotSettings) -> Columns:
    """The names of the fields of records from --columns, and whether they are preference pairs, or prompts alone are read.

    Raises BadSetting if it names fields that are not read.
    """
    pairs = isinstance(settings, TuneSettings) and ObjectiveSpec.of(settings.objective, pairs=True).compares_pairs
    prompts = isinstance(settings, CaptureSettings) and (settings.text or settings.pairs is not None)
    prompts = (
        prompts
        or isinstance(settings, RankSettings)
        or (isinstance(settings, TuneSettings) and settings.reward is not None)
    )
    if STRATEGY in dict(settings.columns or ()) and not isinstance(settings, CaptureSettings):
        raise BadSetting(
            f"--columns {STRATEGY}=...: a strategy chooses the system message of a teacher that generates text (limbeck capture "
            "--text --system @strategies.toml): leave it out"
        )
    return Columns(settings.columns or (), preference=pairs, prompts=prompts)


def records_of(settings: Settings | PilotSettings) -> Records:
    """The settings for reading the records of --data, for building a store."""
    return Records(columns_of(settings), settings.skip_bad or 0, isinstance(settings, Settings) and settings.dedup)


def print_notes(store: TokenStore) -> None:
    """Prints notes about how a text was read."""
    for line in notes_of(store):
        console.print(f"text: {line}")


@contextmanager
def passing_store(settings: TeacherSettings, reader: Reads) -> Iterator[TokenStore]:
    """All of --data as tokens of the reader, without weights, packed by the settings, in a temporary store."""
    with tempfile.TemporaryDirectory() as folder:
        shown = console.is_terminal
        how: Any = {"records": records_of(settings), "progress": shown, "processes": settings.text_processes}
        store = build_training(plain(settings.data), reader, folder, **how)
        print_notes(store)
        yield store.packed(packing_in_settings(settings))


def _limits(out: Path, most: Sequence[int]) -> Sequence[int | None]:
    """``most``; of a run that was begun the limits of its store, which an older version may have counted otherwise."""
    if not (out / "run.json").is_file() or "text" not in read_run(out):
        return most
    try:
        draws = read_manifest(out / "data" / "train")["made_from"]["draws"]
    except BadCorpus:  # it is built again
        return most
    return [draw.get("most") for draw in draws if "train" in draw["sides"]]


def stores_of(
    settings: TeacherSettings | PretrainSettings | TuneSettings,
    reader: Reads | PreTrainedTokenizerBase,
    environment: Environment,
    *,
    most: Sequence[int],
    shown: bool = True,
) -> tuple[TokenStore, TokenStore]:
    """(training store, held-out store) of --data and --eval-data, in tokens of the reader.

    ``most``: the training tokens of each source after which one that is streamed is read no further (`wanted_tokens`).
    ``shown``: print notes on how the text was read.
    """
    folder = settings.out / "data"
    if environment.world.first:
        train, _ = build_stores(
            settings.data,
            reader,
            folder,
            eval_source=settings.eval_data,
            most=_limits(settings.out, most),
            records=records_of(settings),
            progress=console.is_terminal,
            processes=settings.text_processes,
        )
        if shown:
            print_notes(train)
        if shown and (overlap := train.manifest.get("overlap")):
            console.print(
                f"warning: {overlap} training documents are in --eval-data too: held-out readings are too good. "
                "--dedup leaves them out of the training."
            )
    environment.world.barrier()
    return text_of_run(settings.out)

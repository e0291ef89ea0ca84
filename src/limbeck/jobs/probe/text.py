"""The text of `limbeck probe`: for a model inside a run, the part that the run held out; else all of a source.

The digests of a run's training store identify its documents. So a source with the same documents in another file, or in another
order, does not bring them back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.config import Settings
from limbeck.corpora import TokenStore, build_held_out, build_stores
from limbeck.corpora.pair_rows import preferred_of
from limbeck.corpora.reading import Records
from limbeck.corpora.records import Columns
from limbeck.corpora.source import resolve
from limbeck.corpora.stamp import without_paths
from limbeck.corpora.tokenizer import fingerprint
from limbeck.disk import existing, read_json
from limbeck.errors import BadCorpus
from limbeck.jobs.common.folder import packing_in_settings
from limbeck.jobs.common.held_out import watched_documents
from limbeck.jobs.common.mixture import Length, wanted_of
from limbeck.jobs.common.opening import open_measured
from limbeck.jobs.common.sample import first_documents
from limbeck.jobs.common.text import print_notes, records_of
from limbeck.jobs.probe.prompts import PromptsRun
from limbeck.models.language_model import LanguageModel
from limbeck.objectives.spec import ObjectiveSpec
from limbeck.planning.checks.finding import Finding
from limbeck.planning.checks.finding import show as show_findings
from limbeck.run.log import console
from limbeck.teachers.ref import LocalRef

_UP = 4  # folders above a model in which its run may be: runs/x/baselines/cut+ce-seed0/student
_TRAINS = ("distil", "pretrain", "tune")  # jobs whose runs may have their text elsewhere


@dataclass(frozen=True)
class RunFolder:
    """The run of a model: its text, and how its ``records`` are read, from its signature.

    ``most``: the training tokens of each source after which one that is streamed is read no further. ``length``: the tokens of
    its rows, None where its signature has none.
    """

    folder: Path
    data: str
    eval_data: str | None
    records: Records
    text_tokens: int | None = None
    most: tuple[int, ...] = ()
    length: int | None = None

    @classmethod
    def of(cls, model: str) -> RunFolder | None:
        """The run that a model's folder is in; None for a model of the hub or of a folder by itself.

        A tuning by a reward is none: it reads prompts, and no text (`rewarded_run`).
        """
        for above, signature in _runs_above(model):
            made = (above / "data" / "train").is_dir() or signature.get("job") in _TRAINS
            if made and isinstance(signature.get("data"), str) and not signature.get("reward"):
                columns = tuple((ours, there) for ours, there in signature.get("columns") or ())
                named = Columns(columns, preference=_learns_pairs(signature))
                records = Records(named, signature.get("skip_bad") or 0, bool(signature.get("dedup")))
                data, tokens = signature["data"], signature.get("text_tokens")
                most = wanted_of(data, signature.get("tokens", 0), tokens, _length_of(signature))
                rows = signature.get("length")
                return cls(above, data, signature.get("eval_data"), records, tokens, most, rows)
        return None

    def trained_on(self, store: TokenStore) -> TokenStore:
        """The part of its training text that the run read."""
        return store if self.text_tokens is None else store.beginning(self.text_tokens)


def rewarded_run(model: str) -> PromptsRun | None:
    """The tuning by a reward that a model's folder is in; None for any other model."""
    return next((run for above, signature in _runs_above(model) if (run := PromptsRun.of(above, signature))), None)


def _runs_above(model: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folders above a model in which its run may be, each with the signature there, {} without one."""
    folder = existing(model)
    if folder is not None and folder.is_dir():
        yield from ((above, _signature(above / "run.json")) for above in list(folder.resolve().parents)[:_UP])


def _learns_pairs(signature: dict[str, Any]) -> bool:
    """Whether a run's objective compares the sides of preference pairs, of which its records are."""
    objective = signature.get("objective")
    tunes = signature.get("job") == "tune" and isinstance(objective, str)
    return tunes and ObjectiveSpec.of(str(objective), pairs=True).compares_pairs


def _length_of(signature: dict[str, Any]) -> Length | None:
    """How long the training of a run is, None where its signature does not say."""
    rows, length = (signature.get(name) for name in ("rows", "length"))
    if not rows or not length:
        return None
    return Length(signature.get("steps") or round(signature.get("tokens", 0) / (rows * length)), rows, length)


def _signature(record: Path) -> dict[str, Any]:
    if not record.is_file():
        return {}
    remedy = "copy the run again, or move the model out of that folder, to be measured as one of no run"
    run = read_json(record, Any, remedy=remedy)
    signature = run.get("signature") if isinstance(run, dict) else None
    return signature if isinstance(signature, dict) else {}


@dataclass(frozen=True)
class Text:
    """A text to measure on, and its description; the documents ``without`` which it is measured."""

    store: TokenStore
    description: str
    without: np.ndarray | None = None


class Texts:
    """The texts of one model, each made at most once, in a temporary folder."""

    def __init__(
        self,
        settings: Settings,
        run: RunFolder | None,
        model: LanguageModel,
        folder: Path,
        *,
        prompts: PromptsRun | None = None,
    ) -> None:
        """``prompts``: the tuning by a reward that the model is of, whose text is no run's."""
        self._packing = packing_in_settings(settings)
        self._source = settings.data if run is None or "data" in settings.model_fields_set else None
        self._run, self._model, self._folder, self._prompts = run, model, folder, prompts
        self._settings = settings
        self._how: dict[str, Any] = {"records": records_of(settings), "progress": console.is_terminal}

    @cached_property
    def whole(self) -> Text:
        """The run's held-out text; of another source, all text not trained on; outside a run, the whole source."""
        if self._of_run is None:
            assert self._source is not None, "looked for in _of_run"
            _ = self._opening
            folder, without = self._folder / "whole", self._of_prompts
            store = build_held_out(self._source, self._model, folder, without=without, **self._how)
            print_notes(store)
            return self._text(store, f"{_documents(store)} of {_named(self._source)}{self._without_prompts}")
        assert self._run is not None, "a text of a run is in one"
        train, held_out = self._of_run
        if self._source is None or _stamps_of(held_out) in _stamps(self._source):
            named = self._run.eval_data or self._run.data
            kept = f"{_documents(held_out)} of {named} that the run in {self._run.folder} kept from training"
            return self._text(held_out, f"held out: {kept}", watched_documents(self._run.folder))
        trained = train.digests() | self._watched(held_out)
        folder = self._folder / "whole"
        store = build_held_out(self._source, self._model, folder, without=trained, **self._how)
        print_notes(store)
        if left := store.manifest["left_out"]:
            kept = f"{_documents(store)} of {self._source} that the run in {self._run.folder} was not trained on"
            return self._text(store, f"held out: {kept}; {left:,} it was trained on are left out")
        return self._text(store, f"{_documents(store)} of {_named(self._source)}")

    def _text(self, store: TokenStore, description: str, without: np.ndarray | None = None) -> Text:
        return Text(store.packed(self._packing), description, without)

    def _watched(self, held_out: TokenStore) -> frozenset[bytes]:
        """Digests of the held-out documents that the run was watched by: it has chosen weights by them."""
        assert self._run is not None
        documents = watched_documents(self._run.folder)
        return frozenset() if documents is None else held_out.digests_of(documents)

    def for_slices(self) -> tuple[TokenStore, str, Text]:
        """In which text bigrams are counted, its description, and what is measured."""
        if self._of_run is not None:
            assert self._run is not None, "a text of a run is in one"
            return self._of_run[0], f"the training text of the run in {self._run.folder}", self.whole
        assert self._source is not None, "looked for in _of_run"
        _ = self._opening
        folder, without = self._folder / "halves", self._of_prompts
        train, held_out = build_stores(self._source, self._model, folder, without=without, **self._how)
        description = f"the {held_out.documents:,} documents held out of {self._source}{self._without_prompts}"
        return train, f"the training half of {self._source}", self._text(held_out, description)

    @cached_property
    def _of_prompts(self) -> frozenset[bytes]:
        """Digests of the documents of the source that a tuning by a reward trained on the prompts of."""
        assert self._source is not None, "looked for in _of_run"
        return frozenset() if self._prompts is None else self._prompts.trained_among(self._source, self._how["records"])

    @property
    def _without_prompts(self) -> str:
        """How many documents were left out for their prompts, in words."""
        if not self._of_prompts:
            return ""
        assert self._prompts is not None, "they are of one"
        return f", without {len(self._of_prompts):,} whose prompts the run in {self._prompts.folder} trained on"

    @cached_property
    def _opening(self) -> list[Finding]:
        """What its documents begin with, measured once outside a run, whose text begins as it was trained."""
        sample = first_documents(self._settings, LocalRef(self._model.name))
        findings = open_measured(self._model, sample.texts)
        show_findings(findings, console)
        return findings

    @cached_property
    def _of_run(self) -> tuple[TokenStore, TokenStore] | None:
        """(training, held-out) text of the run in the model's tokens; None outside a run, or where its text is gone."""
        if self._run is None:
            return None
        try:
            stores = tuple(TokenStore.open(self._run.folder / "data" / side) for side in ("train", "held_out"))
        except BadCorpus:
            stores = ()
        ours = fingerprint(self._model.tokenizer)
        if stores and all(s.manifest["made_from"].get("tokenizer") == ours and s.digests() for s in stores):
            return self._sides_of_run(*stores)
        run, folder = self._run, self._folder / "run"
        try:
            train, held_out = build_stores(
                run.data, self._model, folder, eval_source=run.eval_data, records=run.records, most=run.most
            )
            return self._sides_of_run(train, held_out)
        except BadCorpus as error:
            if self._source is None:
                raise BadCorpus(
                    f"{error}; this is the text of the run in {self._run.folder}: name another to measure on with --data"
                ) from None
            console.print(
                f"warning: the text of the run in {self._run.folder} is not there any more, so what it trained on may be "
                f"among the documents of {self._source}",
            )
            return None

    def _sides_of_run(self, *stores: TokenStore) -> tuple[TokenStore, TokenStore]:
        """What a run trained on and what it held out, of preference pairs the preferred sides that fit its rows."""
        assert self._run is not None, "a text of a run is in one"
        train, held_out = (
            store if store.seconds is None else preferred_of(store, self._run.length) for store in stores
        )
        return self._run.trained_on(train), held_out


def _documents(store: TokenStore) -> str:
    return f"the {store.documents:,} documents" if store.documents != 1 else "the 1 document"


def _named(source: str) -> str:
    """A source; of the standard library only its held-out modules are measured."""
    return f"{source}, of the standard library its held-out modules" if "python:stdlib" in source else source


def _stamps(source: str) -> list[list[Any]]:
    """The stamps of a source, of which one without weights and with them has the same, read whole and in passages."""
    return [
        [part.stamp for piece in _pieces(source) for part in resolve(piece, passages=passages)]
        for passages in (False, True)
    ]


def _pieces(source: str) -> list[str]:
    """The sources that are named in one."""
    return [source] if existing(source) else [piece.strip() for piece in source.split(",")]


def _stamps_of(held_out: TokenStore) -> list[Any]:
    """The stamps of all that was held out from; none of a store that was made in another way."""
    draws = held_out.manifest["made_from"].get("draws", [])
    return [stamp for draw in draws if "held_out" in draw["sides"] for stamp in without_paths(draw["stamps"])]

"""Recall of a converted student, beside its perplexity: slices of the held-out text, and passages that are read twice.

Every model of the run is measured, with the results in its folder. Each is compared with the same student with attention
everywhere, seed by seed.
"""

from __future__ import annotations

import math
from pathlib import Path

from limbeck.config import ATTENTION
from limbeck.corpora import TokenStore
from limbeck.jobs.common.held_out import HeldOut
from limbeck.jobs.common.seeds import each_and_all
from limbeck.models.language_model import LanguageModel
from limbeck.probes import Bigrams, Slices, measure_slices, slices
from limbeck.probes.recall import Recall, measure_recall, passages_of, recall
from limbeck.report.words import share
from limbeck.types import Reading


class RecallEvaluation:
    """Slices and recall in context of the models of a run."""

    def __init__(self, folder: Path, train: TokenStore, held_out: HeldOut) -> None:
        """``folder`` is the folder of measurements. Bigrams are counted in ``train``."""
        self._folder, self._train, self._held_out = folder, train, held_out
        self._bigrams: Bigrams | None = None
        self._slices: dict[str, dict[int, Slices]] = {}
        self._recall: dict[str, dict[int, Recall]] = {}

    def measure(self, name: str, model: LanguageModel, seed: int) -> None:
        """Measures a model, or reads its earlier measurement."""
        file = self._folder / f"slices-{name}-seed{seed}.safetensors"
        if not file.exists():
            measured = measure_slices(
                model, self._held_out.batches(), self._counted(model), documents=self._held_out.store.documents
            )
            measured.save(file)
        self._slices.setdefault(name, {})[seed] = Slices.load(file)
        file = self._folder / f"recall-{name}-seed{seed}.safetensors"
        rows = passages_of(self._held_out.store, context=model.context)
        if rows is not None:
            if not file.exists():
                measure_recall(model, rows, device=model.device).save(file)
            self._recall.setdefault(name, {})[seed] = Recall.load(file)

    def readings(self) -> list[Reading]:
        """Of each seed, and over the seeds (seed null) where there are several."""
        found = []
        attention = self._slices.get(ATTENTION, {})
        for name, runs in self._slices.items():
            for seed, seeds in each_and_all(runs):
                both = name not in (ATTENTION, "teacher") and set(seeds) <= set(attention)
                against = [attention[one] for one in seeds] if both else []
                found += slices(name, [runs[one] for one in seeds], against=against, seed=seed)
        for name, others in self._recall.items():
            for seed, seeds in each_and_all(others):
                found += recall(name, [others[one] for one in seeds], seed=seed)
        return found

    def sentence(self) -> str:
        """A sentence on the share of the student's gap to attention that lies on recall hits; "" unless both are measured."""
        both = sorted(set(self._slices.get("student", {})) & set(self._slices.get(ATTENTION, {})))
        if not both:
            return ""
        ours, theirs = ([self._slices[name][seed] for seed in both] for name in ("student", ATTENTION))
        found = {reading.name: reading for reading in slices("student", ours, against=theirs)}
        if "gap_on_hits" not in found:
            return ""
        text = (
            f"against attention everywhere at equal tokens the student has {_more(found['gap'])} in all and "
            f"{_more(found['gap_on_hits'])} on recall hits, which are {share(found['share_of_hits'].value)} of the tokens"
        )
        if not math.isfinite(found["gap"].low):
            return f"{text}; of so few documents ({found['gap'].n}) no interval is given"
        if (lies := found.get("gap_share_on_hits")) is not None:
            text += f" and bear {share(lies.value)} of the gap ({share(lies.low)} to {share(lies.high)})"
        return text

    def _counted(self, model: LanguageModel) -> Bigrams:
        if self._bigrams is None:
            self._bigrams = Bigrams.counted(self._train, self._held_out.batches(), vocab=model.vocab)
        return self._bigrams


def _more(gap: Reading) -> str:
    """The difference of two models in nats, with its interval if there is one."""
    word, sign = ("more", 1) if gap.value >= 0 else ("fewer", -1)
    said = f"{abs(gap.value):.3f} nats {word}"
    if not math.isfinite(gap.low):
        return said
    low, high = sorted((sign * gap.low, sign * gap.high))
    return f"{said} ({low:.3f} to {high:.3f})"

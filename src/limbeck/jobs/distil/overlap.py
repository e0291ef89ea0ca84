"""How near the models of an on-policy run are to their teacher on texts that they generate themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from limbeck.jobs.common.held_out import HeldOut
from limbeck.jobs.common.seeds import each_and_all
from limbeck.models.language_model import LanguageModel
from limbeck.probes.overlap import TOP, Overlap, measure_overlap, overlap, together
from limbeck.report.start import Start
from limbeck.report.words import bounded, label, share
from limbeck.types import Batch, Reading

_COMPARED = ("student", "off-policy", "off-policy@flops", "cut")


class OverlapEvaluation:
    """The overlap of the models of a run with their teacher, kept in its folder."""

    def __init__(
        self,
        folder: Path,
        teachers: Sequence[tuple[LanguageModel, Callable[[], Iterable[Batch]]]],
        held_out: HeldOut,
    ) -> None:
        """``folder`` is the folder of measurements; ``teachers``: each with the held-out rows on which it is compared."""
        self._folder, self._teachers, self._held_out = folder, teachers, held_out
        self._runs: dict[str, dict[int, Overlap]] = {}

    def measure(self, name: str, model: LanguageModel, seed: int) -> None:
        """Measures a model, or reads its earlier measurement."""
        file = self._folder / f"overlap-{name}-seed{seed}.safetensors"
        if not file.exists():
            documents = self._held_out.store.documents
            parts = [
                measure_overlap(model, teacher, batches(), documents=documents) for teacher, batches in self._teachers
            ]
            together(parts).save(file)
        self._runs.setdefault(name, {})[seed] = Overlap.load(file)

    def readings(self) -> list[Reading]:
        """Of each seed, and over the seeds (seed null) where there are several."""
        found = []
        for name, runs in self._runs.items():
            for seed, seeds in each_and_all(runs):
                found += overlap(name, [runs[one] for one in seeds], seed=seed)
        return found

    def sentence(self, start: Start) -> str:
        """What the models' own texts show: KL to the teacher, and how many of the most probable tokens are the same."""
        parts = []
        for name in _COMPARED:
            if name in self._runs:
                found = {one.name: one for one in overlap(name, list(self._runs[name].values()))}
                kl, same = found["kl_own_texts"], found["overlap"]
                parts.append(f"{label(name, start)} {bounded(kl.value, kl.low, kl.high)} ({share(same.value)})")
        if not parts:
            return ""
        return (
            "On texts that each model generates itself, KL(model ‖ teacher) in nats a token, and in brackets the share of the "
            f"{TOP} most probable tokens that are the teacher's too: {'; '.join(parts)}."
        )

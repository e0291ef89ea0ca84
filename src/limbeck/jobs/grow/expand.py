"""`limbeck grow OUT/shared/layers`: a model of another depth from layers that a family of students shares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from limbeck.config import GrowSettings
from limbeck.disk import existing
from limbeck.errors import BadSetting
from limbeck.jobs.common.folder import read_run
from limbeck.jobs.probe.text import RunFolder
from limbeck.models.language_model import LanguageModel
from limbeck.students.shape import shape_axes
from limbeck.students.share import expand
from limbeck.students.shared_folder import described_in, is_shared, load_shared, sharing_in

_OF_OTHERS = ("op", "new_layers", "second", "off_diagonal")


@dataclass(frozen=True)
class Expansion:
    """The folder of shared layers, and of how many layers a model is expanded from them."""

    folder: Path
    layers: int

    @classmethod
    def of(cls, settings: GrowSettings) -> Expansion | None:
        """The expansion that settings ask for, None where the model is no folder of shared layers.

        Raises BadSetting without --shape layers=INT, or with flags of other growth, and BadShape for a number of layers that it
        does not expand to.
        """
        folder = existing(settings.model)
        if folder is None or not is_shared(folder):
            return None
        for name in _OF_OTHERS:
            if name in settings.model_fields_set and getattr(settings, name) is not None:
                raise BadSetting(
                    f"--{name.replace('_', '-')} is for models, and {settings.model} holds layers that students share, which are "
                    "expanded: leave it out"
                )
        axes = {} if settings.shape is None else shape_axes(settings.shape)
        if axes.keys() != {"layers"}:
            raise BadSetting(
                f"{settings.model} holds layers that students share, which are expanded to a number of layers: expected --shape "
                f"layers=INT, got {'no --shape' if settings.shape is None else f'--shape {settings.shape}'}"
            )
        sharing_in(folder).stage_of(axes["layers"])  # for its errors
        return cls(folder, axes["layers"])

    def made(self, device: torch.device) -> tuple[LanguageModel, LanguageModel]:
        """(auxiliary, model of so many layers) in float32. Raises BadModel for a damaged folder."""
        auxiliary, sharing = load_shared(self.folder)
        auxiliary.name = str((auxiliary.lineage or {}).get("teacher", auxiliary.name))
        auxiliary.model.to(device).eval()
        return auxiliary, expand(auxiliary, sharing, self.layers)

    @property
    def described(self) -> str:
        """The folder of configuration and tokenizer."""
        return str(described_in(self.folder))

    @property
    def run(self) -> RunFolder | None:
        """A run of the family, whose held-out text no training of the shared layers saw; None for a folder that was moved."""
        family = self.folder.resolve().parents[1]
        members = sorted(family.glob("*-layers/run.json"))
        return RunFolder.of(str(members[0].parent / "cut")) if members else None

    @property
    def teacher(self) -> str:
        """The teacher of the family, for the next command."""
        run = self.run
        signature: dict[str, Any] = {} if run is None else read_run(run.folder)["signature"]
        return str(signature.get("teacher", "TEACHER"))

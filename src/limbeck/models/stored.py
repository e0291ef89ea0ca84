"""A model on disk: what it is without its weights, and parts of its tensors, read when they are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.errors import BadModel
from limbeck.models.configuration import is_quantised, load_config, set_tied
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import display_name, lineage_in, load_tokenizer, read_generation
from limbeck.models.parts import DTYPES, read_part
from limbeck.models.skeleton import IN_MEMORY, matched, skeleton
from limbeck.models.source import Stored, check_tokenizer, resolve, stored_tensors
from limbeck.models.trim.model import Vocabulary, trim
from limbeck.models.weights import check_finite


@dataclass(frozen=True)
class StoredModel:
    """A model in a folder of safetensors files. ``about`` describes it without weights; ``tensors`` are those of the files.

    With a trimmed ``vocabulary`` it describes the model of the kept tokens alone, whose rows are some of those in the files.
    """

    about: LanguageModel
    folder: Path
    tensors: Mapping[str, Stored]
    vocabulary: Vocabulary | None = None

    @classmethod
    def open(
        cls,
        name: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        reading: str = "layers are read one by one",
        instead: str = IN_MEMORY,
    ) -> StoredModel:
        """The model at a folder, hub id or `builtin:NAME`, described as one that computes in ``dtype``.

        ``reading`` and ``instead``: for the error, why quantised weights do not do, and what does. Raises BadModel and Mismatch
        as `load` does, and BadModel for quantised weights and for tensors that Transformers would have to compute from several
        stored ones.
        """
        folder = resolve(name)
        config = load_config(folder)
        if is_quantised(config):
            raise BadModel(
                f"{folder}: expected full-precision weights, because {reading}, got quantised ones; {instead}"
            )
        stored, declared = stored_tensors(folder), config.dtype
        check_tokenizer(folder)
        model = skeleton(config, dtype=dtype)
        set_tied(model.config, model.get_output_embeddings().weight is model.get_input_embeddings().weight)
        read_generation(model, folder)
        file = folder / "lineage.json"
        lineage = lineage_in(file) if file.is_file() else None
        about = LanguageModel(model, load_tokenizer(folder), display_name(name), lineage, declared)
        return cls(about, folder, matched(folder, model, stored))

    def trimmed(self, vocabulary: Vocabulary) -> StoredModel:
        """The model of the kept tokens alone. What describes this one is taken over. Raises BadModel as `trim` does."""
        return replace(self, about=trim(self.about, vocabulary), vocabulary=vocabulary)

    @property
    def format(self) -> torch.dtype:
        """The number format that holds all weights without rounding; float32 where some are float64, as in computing."""
        found = reduce(torch.promote_types, {DTYPES[stored.dtype] for stored in self.tensors.values()})
        return torch.float32 if found == torch.float64 else found

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        """A whole tensor of the model by name, its kept rows where the vocabulary is trimmed. Raises as `part`."""
        shape = self.about.model.get_parameter(name).shape
        return self.part(name, self.places(name, [torch.arange(length) for length in shape]), dtype)

    def places(self, name: str, indices: Sequence[Int[Tensor, " n"]]) -> list[Int[Tensor, " n"]]:
        """Where indices of a tensor of the model are in the stored one: other rows where the vocabulary is trimmed."""
        rows, *others = indices
        if self.vocabulary is not None and self.about.model.get_parameter(name).shape[0] != self.tensors[name].shape[0]:
            rows = torch.from_numpy(self.vocabulary.kept)[rows]
        return [rows, *others]

    def part(self, name: str, indices: Sequence[Int[Tensor, " n"]], dtype: torch.dtype) -> Tensor:
        """The given indices along each dimension of a stored tensor, ascending, in a number format.

        Raises BadModel for a file that is too short, and for NaN among what is read.
        """
        found = read_part(self.tensors[name], indices, dtype)
        check_finite(self.folder, name, found)
        return found

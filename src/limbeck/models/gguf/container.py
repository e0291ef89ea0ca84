"""Opens a GGUF file: its keys, and its tensors in place. Nothing of a tensor is read before it is asked for.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The package `gguf` reads it; it is an extra.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from limbeck.errors import BadModel, first_line
from limbeck.packages import require_packages

MAGIC = b"GGUF"


@dataclass(frozen=True)
class Gguf:
    """A GGUF file: its keys with their values, and its tensors by name as the package `gguf` gives them."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        """What the file calls its family."""
        return str(self.metadata["general.architecture"])

    @property
    def rows(self) -> int:
        """Rows of the embedding. Raises BadModel without one."""
        if "token_embd.weight" not in self.tensors:
            raise BadModel(
                f"{self.path}: expected a language model, found no tensor token_embd.weight; give another file"
            )
        return int(self.tensors["token_embd.weight"].shape[-1])

    def values(self, name: str) -> Float[np.ndarray, "..."]:
        """The numbers of a tensor in float32, de-quantised, axes in PyTorch's order.

        Raises BadModel for a number format that the package `gguf` cannot read.
        """
        from gguf.quants import dequantize

        tensor = self.tensors[name]
        try:
            found = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        except (NotImplementedError, ValueError, KeyError) as error:
            raise BadModel(
                f"{self.path}: {name} is stored as {tensor.tensor_type.name}, which cannot be de-quantised here "
                f"({first_line(error)}); give a file of another kind, such as Q8_0 or F16"
            ) from error
        return found.reshape(tuple(int(axis) for axis in reversed(tensor.shape)))


def opened(path: Path) -> Gguf:
    """The file at ``path``. Raises BadModel where it is no GGUF, is cut short or damaged, or the package `gguf` is missing."""
    require_gguf()
    from gguf import GGUFReader

    with path.open("rb") as file:
        start = file.read(len(MAGIC))
    if start != MAGIC:
        raise BadModel(f"{path}: expected a GGUF file, which begins with {MAGIC!r}, got {start!r}; give another file")
    try:
        reader = GGUFReader(path)
        metadata = {name: entry.contents() for name, entry in reader.fields.items()}
        tensors = {tensor.name: tensor for tensor in reader.tensors}
    except Exception as error:  # of whatever kind: the package reads where a damaged file points to
        raise BadModel(
            f"{path}: the GGUF file is cut short or damaged ({path.stat().st_size:,} bytes; {type(error).__name__}: "
            f"{first_line(error)}); copy or download it again"
        ) from error
    if not isinstance(metadata.get("general.architecture"), str):
        raise BadModel(
            f"{path}: expected the key general.architecture, found none; give the GGUF file of a language model"
        )
    parts = metadata.get("split.count", 1)
    if isinstance(parts, int) and parts > 1:
        raise BadModel(
            f"{path}: is one of {parts} parts of a model; join them first (llama-gguf-split --merge FIRST_PART WHOLE), and give "
            "the whole file"
        )
    return Gguf(path, metadata, tensors)


def require_gguf() -> None:
    """Raises BadModel where the package `gguf` is not installed."""
    require_packages("GGUF files are read with", "gguf", extra="gguf", error=BadModel)


@dataclass
class Keys:
    """The settings of a file, named as behind its architecture; it remembers which were asked for."""

    file: Gguf
    asked: set[str] = field(default_factory=set)

    def get(self, name: str, default: Any = None) -> Any:
        """A setting, ``default`` where the file has none. A list of equal numbers, one a layer, is that number.

        Raises BadModel where the numbers of the layers differ.
        """
        self.asked.add(name)
        value = self.file.metadata.get(f"{self.file.architecture}.{name}", default)
        if isinstance(value, list) and value and all(item == value[0] for item in value):
            return value[0]
        if isinstance(value, list):
            raise BadModel(
                f"{self.file.path}: {self.file.architecture}.{name} differs by layer ({value[:4]}…), which limbeck does not "
                "read; give the original model's folder"
            )
        return shortest(value) if isinstance(value, float) else value

    def need(self, name: str) -> Any:
        """A setting that must be there. Raises BadModel where it is not."""
        value = self.get(name)
        if value is None:
            raise BadModel(
                f"{self.file.path}: expected the key {self.file.architecture}.{name}, found none; the file is damaged or of a "
                "version that limbeck does not read"
            )
        return value

    def refuse_others(self) -> None:
        """Raises BadModel for a setting that nobody asked for, since it may change what the model computes."""
        start = f"{self.file.architecture}."
        for key, value in self.file.metadata.items():
            name = key.removeprefix(start)
            if key.startswith(start) and name not in self.asked and name not in _WITHOUT_EFFECT and value:
                raise BadModel(
                    f"{self.file.path}: has the key {key} = {value!r}, which limbeck does not read for this family, so that the "
                    "model could compute something else; give the original model's folder"
                )


_WITHOUT_EFFECT = {"vocab_size", "tensor_data_layout", "attention.causal", "pooling_type"}


def shortest(value: float) -> float:
    """The shortest decimal of a float32: 1e-05 for 9.999999747378752e-06."""
    short = float(str(np.float32(value)))
    return short if np.float32(short) == np.float32(value) else value

"""All weights in one NumPy archive, as an export format."""

import copy
from pathlib import Path

import numpy as np
import torch

from limbeck.errors import BadSetting
from limbeck.models.language_model import LanguageModel


class NpzExporter:
    """model.npz, an array in float32 for each tensor of the model by its name."""

    def write(self, model: LanguageModel, folder: Path, *, dtype: torch.dtype | None) -> None:
        if dtype not in (None, torch.float32):
            raise BadSetting(
                f"--dtype {str(dtype).removeprefix('torch.')}: an npz archive has float32 alone; leave it out"
            )
        state = {name: value.float().cpu().numpy() for name, value in model.model.state_dict().items()}
        np.savez(folder / "model.npz", **state)

    def read(self, folder: Path, like: LanguageModel) -> LanguageModel:
        """The model again, of the same architecture with the weights of the archive."""
        found = copy.deepcopy(like)
        with np.load(folder / "model.npz", allow_pickle=False) as archive:
            found.model.load_state_dict({name: torch.from_numpy(archive[name]) for name in archive.files})
        return found

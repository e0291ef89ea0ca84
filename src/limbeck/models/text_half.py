"""The text half of a multimodal model: an ordinary decoder in a folder that also holds an encoder of images.

The configuration is the ``text_config`` inside that of the whole, and the decoder's tensors have the name of the half before
their own. Only names are needed, so no other tensor is read.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

TEXT_HALF = {"gemma3": "gemma3_text"}  # model type of the whole → that of its text half
# Names in files → names in the text half: those of the hub's folders, and those that Transformers 5 has in memory.
RENAMED = {r"^language_model\.": "", r"^model\.language_model\.": "model."}
_OTHER_HALF = re.compile(r"^(model\.)?(vision_tower|multi_modal_projector)\.")


def has_text_half(folder: Path) -> bool:
    """Whether a folder holds a multimodal model whose text half limbeck takes. False where its config.json cannot be read."""
    with suppress(OSError, ValueError, RecursionError):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return isinstance(config, dict) and config.get("model_type") in TEXT_HALF
    return False


def text_name(name: str) -> str | None:
    """The name that a tensor of a multimodal folder has in the text half, None where it is of the other half."""
    if _OTHER_HALF.match(name):
        return None
    for pattern, prefix in RENAMED.items():
        name = re.sub(pattern, prefix, name)
    return name

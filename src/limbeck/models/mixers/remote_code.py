"""The code of a decoder, written beside its weights, so that Transformers can run it where limbeck is not installed.

Transformers wants such code in one folder, importing its neighbours by a dot. So every file that the decoder needs is written
under its name in the package, dots as underscores, with its imports changed to match. Shapes are annotations alone, which are
never evaluated, so what names them is left out.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

_PACKAGE = "limbeck."
_IMPORT = re.compile(r"^from (limbeck\.[\w.]+) import ", re.MULTILINE)
_SHAPES = re.compile(r"^from jaxtyping import .*\n", re.MULTILINE)
_CLASSES = {"AutoConfig": "LimbeckConfig", "AutoModel": "LimbeckModel", "AutoModelForCausalLM": "LimbeckForCausalLM"}


def write_code(decoder: str, folder: str | os.PathLike[str]) -> dict[str, str]:
    """Writes the module ``decoder`` and all of limbeck that it needs; gives what config.json must say of it (auto_map)."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    waiting, written = [decoder], set[str]()
    while waiting:
        module = waiting.pop()
        if module in written:
            continue
        written.add(module)
        text = Path(str(sys.modules[module].__file__)).read_text(encoding="utf-8")
        waiting += _IMPORT.findall(text)
        text = _IMPORT.sub(lambda found: f"from .{_flat(found[1])} import ", _SHAPES.sub("", text))
        (Path(folder) / f"{_flat(module)}.py").write_text(text, encoding="utf-8")
    return {kind: f"{_flat(decoder)}.{name}" for kind, name in _CLASSES.items()}


def _flat(module: str) -> str:
    return module.removeprefix(_PACKAGE).replace(".", "_")

"""Saves the code of a decoder beside its weights, so that Transformers can run it without limbeck installed.

Transformers expects such code in one folder with relative imports. Each file that the decoder needs is therefore saved under
its module name, with dots as underscores and with matching imports. Imports for shapes are left out, since annotations are
never evaluated. The table of mixers (`named`) is written out, since plugins are not looked up there. It lists limbeck's own
mixers and the mixers of packages that the decoder uses; the files of those are saved too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path

from limbeck.models.mixers.mixer import Mixer
from limbeck.models.mixers.named import MIXERS

_PACKAGE = "limbeck."
_TABLE = "limbeck.models.mixers.named"
_SHAPES = re.compile(r"^from jaxtyping import .*\n", re.MULTILINE)
_CLASSES = {"AutoConfig": "LimbeckConfig", "AutoModel": "LimbeckModel", "AutoModelForCausalLM": "LimbeckForCausalLM"}


def write_code(decoder: str, folder: str | os.PathLike[str], mixers: Iterable[str]) -> dict[str, str]:
    """Writes the module ``decoder`` and all modules of limbeck that it needs to ``folder``.

    Returns the entry auto_map of config.json. ``mixers`` are the names of mixers that the decoder uses. A mixer of another
    package may import limbeck and its own package by absolute names. Other packages that it imports must be installed where
    the decoder runs.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    kinds = {name: MIXERS[name] for name in (*MIXERS.own, *mixers)}
    packages = {"limbeck", *(kind.__module__.partition(".")[0] for kind in kinds.values())}
    imports = re.compile(rf"^from ((?:{'|'.join(map(re.escape, sorted(packages)))})(?:\.\w+)*) import ", re.MULTILINE)
    waiting, written = [decoder], set[str]()
    while waiting:
        module = waiting.pop()
        if module in written:
            continue
        written.add(module)
        text = _table(kinds) if module == _TABLE else _source(module)
        waiting += imports.findall(text)
        text = imports.sub(lambda found: f"from .{_flat(found[1])} import ", _SHAPES.sub("", text))
        (Path(folder) / f"{_flat(module)}.py").write_text(text, encoding="utf-8")
    return {kind: f"{_flat(decoder)}.{name}" for kind, name in _CLASSES.items()}


def _table(kinds: Mapping[str, type[Mixer]]) -> str:
    """The source of the module `named` with its table written out."""
    lines = [f"from {kind.__module__} import {kind.__name__}" for kind in kinds.values()]
    table = [f"    {name!r}: {kind.__name__}," for name, kind in kinds.items()]
    return "\n".join([*lines, "", "MIXERS = {", *table, "}", ""])


def _source(module: str) -> str:
    return Path(str(import_module(module).__file__)).read_text(encoding="utf-8")


def _flat(module: str) -> str:
    return module.removeprefix(_PACKAGE).replace(".", "_")

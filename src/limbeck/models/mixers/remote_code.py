"""The code of a decoder, written beside its weights, so that Transformers can run it where limbeck is not installed.

Transformers wants such code in one folder, importing its neighbours by a dot. So every file that the decoder needs is written
under its name in the package, dots as underscores, with its imports changed to match. Shapes are annotations alone, which are
never evaluated, so what names them is left out. The table of mixers (`named`) is written out, since names are not looked up
there: limbeck's own and those of packages that the decoder uses, whose files are written too.
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
    """Writes the module ``decoder`` and all of limbeck that it needs; gives what config.json must say of it (auto_map).

    ``mixers``: the names of those that the decoder uses. One of a package may import limbeck and its own package by whole
    names; what else it needs must be installed where the decoder is run.
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
    """The module `named` with its table written out."""
    lines = [f"from {kind.__module__} import {kind.__name__}" for kind in kinds.values()]
    table = [f"    {name!r}: {kind.__name__}," for name, kind in kinds.items()]
    return "\n".join([*lines, "", "MIXERS = {", *table, "}", ""])


def _source(module: str) -> str:
    return Path(str(import_module(module).__file__)).read_text(encoding="utf-8")


def _flat(module: str) -> str:
    return module.removeprefix(_PACKAGE).replace(".", "_")

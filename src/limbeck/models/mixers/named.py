"""All mixers by their name in patterns: limbeck's own, marked with ``@mixer("name")`` in this folder, and those of packages.

A saved model contains another file of this name, with the same table written out (`remote_code`).
"""

from __future__ import annotations

import inspect

from limbeck.models.mixers.mixer import Mixer
from limbeck.plugins import Marked, Registry


def _wrong(name: str, kind: object) -> str:
    if not (inspect.isclass(kind) and issubclass(kind, Mixer)):
        return "expected a class that inherits from limbeck.models.mixers.mixer.Mixer"
    return ""


MIXERS: Registry[type[Mixer]] = Registry("mixer", Marked("models/mixers", "mixer"), _wrong)

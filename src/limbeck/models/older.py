"""A config.json with the older names of its settings too.

Transformers 5 writes rotary settings and the number format only under new names; release 4 and other programs then silently
use 10,000 and float32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # seconds to load, for the name of a type
    from transformers.configuration_utils import PreTrainedConfig


def for_older_readers(written: Mapping[str, Any], config: PreTrainedConfig) -> dict[str, Any]:
    """A config.json with the older names that release 4 of Transformers and other programs read.

    They are added only where the installed Transformers still reads the same configuration.
    """
    more = dict(written)
    if "dtype" in written:
        more["torch_dtype"] = written["dtype"]
    rope = written.get("rope_parameters")
    if not isinstance(rope, dict):
        return more
    with_rope = more | _older_rope(rope, str(written.get("model_type")))
    try:
        again = type(config).from_dict(json.loads(json.dumps(with_rope)))
    except Exception:  # a class may reject names it does not know; without them it reads what it wrote
        return more
    return with_rope if _settings(again) == _settings(config) else more


def _settings(config: PreTrainedConfig) -> dict[str, Any]:
    """Rotary settings without the older name of their type, which reading adds."""
    return {key: value for key, value in config.rope_parameters.items() if key != "type"}


def _older_rope(rope: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """Rotary settings under their older names: a base, and its scaling."""
    found: dict[str, Any] = {}
    if isinstance(rope.get("full_attention"), dict):  # one for each type of layer
        local = rope.get("sliding_attention") or {}
        found |= {"rope_local_base_freq": local["rope_theta"]} if "rope_theta" in local else {}
        rope = rope["full_attention"]
    base, share = rope.get("rope_theta"), rope.get("partial_rotary_factor")
    names = ("rotary_emb_base", "rotary_pct") if model_type == "gpt_neox" else ("rope_theta", "partial_rotary_factor")
    found |= {name: value for name, value in zip(names, (base, share), strict=True) if value is not None}
    kind = rope.get("rope_type", "default")
    if kind != "default":
        scaling = {key: value for key, value in rope.items() if key not in ("rope_theta", "partial_rotary_factor")}
        if model_type == "phi3":  # its configuration accepted only these three
            scaling = {"type": kind, **{key: rope[key] for key in ("short_factor", "long_factor") if key in rope}}
        found["rope_scaling"] = scaling
    return found

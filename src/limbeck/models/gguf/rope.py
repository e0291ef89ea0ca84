"""Rotary positions: keys and tensors of a GGUF file, and `rope_parameters` of Transformers, both ways.

llama.cpp has no key for the scaling of Llama 3. Its converter writes a tensor of divisors of the frequencies instead,
``rope_freqs.weight``; factors low, high and length come back by a fit of two numbers, and the divisors computed from them
must be the file's. Formulas: transformers/modeling_rope_utils.py (v5.23); llama.cpp, conversion/llama.py and src/llama-graph.cpp.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from limbeck.errors import BadModel
from limbeck.models.gguf.container import Gguf, Keys, shortest

FREQUENCIES, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_CLOSE = 1e-4  # relative difference of divisors in float32, computed again


def read_rope(keys: Keys, *, head_dim: int, context: int) -> dict[str, Any]:
    """The ``rope_parameters`` that a file declares. Raises BadModel where Transformers has no such scaling."""
    theta = float(keys.get("rope.freq_base", 10_000.0))
    found: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    dimensions = int(keys.get("rope.dimension_count", head_dim))
    if dimensions != head_dim:
        found["partial_rotary_factor"] = dimensions / head_dim
    return found | _scaling(keys, theta=theta, dimensions=dimensions, context=context)


def _scaling(keys: Keys, *, theta: float, dimensions: int, context: int) -> dict[str, Any]:
    kind = keys.get("rope.scaling.type", "none")
    factor = float(keys.get("rope.scaling.factor", 0.0) or keys.get("rope.scale_linear", 0.0) or 1.0)
    length = keys.get("rope.scaling.original_context_length")
    magnitude = float(keys.get("rope.scaling.attn_factor", 1.0))
    file = keys.file
    if LONG in file.tensors or SHORT in file.tensors:
        if not {LONG, SHORT} <= file.tensors.keys() or length is None:
            raise BadModel(
                f"{file.path}: expected {LONG}, {SHORT} and rope.scaling.original_context_length together; copy the file again"
            )
        return _longrope(file, context=context, length=int(length), magnitude=magnitude)
    if FREQUENCIES in file.tensors:
        divisors = file.values(FREQUENCIES).astype(np.float64)
        return _llama3(file, divisors, theta=theta, dimensions=dimensions, length=length)
    if kind == "linear" or (kind == "none" and factor != 1.0):
        return {"rope_type": "linear", "factor": factor} if factor != 1.0 else {}
    if kind == "yarn":
        return _yarn(keys, factor=factor, length=int(length or context / factor), magnitude=magnitude)
    if kind != "none":
        raise BadModel(
            f"{file.path}: rope.scaling.type is {kind!r}, expected none, linear or yarn; give the original model's folder"
        )
    return {}


def _yarn(keys: Keys, *, factor: float, length: int, magnitude: float) -> dict[str, Any]:
    found: dict[str, Any] = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": length}
    for name in ("beta_fast", "beta_slow"):
        value = keys.get(f"rope.scaling.yarn_{name}")
        if value is not None:
            found[name] = float(value)
    if magnitude != 1.0:  # llama.cpp multiplies both, Transformers takes their product
        found["attention_factor"] = shortest(magnitude * (0.1 * math.log(factor) + 1))
    return found


def _longrope(file: Gguf, *, context: int, length: int, magnitude: float) -> dict[str, Any]:
    found: dict[str, Any] = {
        "rope_type": "longrope",
        "long_factor": _listed(file.values(LONG)),
        "short_factor": _listed(file.values(SHORT)),
        "original_max_position_embeddings": length,
    }
    if not math.isclose(magnitude, longrope_magnitude(context / length, length), rel_tol=1e-5):
        found["attention_factor"] = magnitude
    return found


def longrope_magnitude(factor: float, length: int) -> float:
    """The factor on queries and keys of LongRoPE (arXiv 2402.13753): sqrt(1 + ln(factor) / ln(length))."""
    return math.sqrt(1 + math.log(factor) / math.log(length)) if factor > 1 else 1.0


def _listed(values: Float[np.ndarray, " n"]) -> list[float]:
    return [shortest(float(value)) for value in values]


def _llama3(
    file: Gguf, divisors: Float[np.ndarray, " n"], *, theta: float, dimensions: int, length: int | None
) -> dict[str, Any]:
    """The scaling of Llama 3 that gives these divisors. Raises BadModel where there is none."""
    factor = float(divisors[-1])
    usual = {"rope_type": "llama3", "factor": _round(factor), **_LLAMA3}
    usual["original_max_position_embeddings"] = int(length or _LLAMA3["original_max_position_embeddings"])
    candidates = [usual, *_fitted(divisors, usual, theta, dimensions)]
    for candidate in candidates:
        again = llama3_divisors(candidate, theta=theta, dimensions=dimensions)
        if again.shape == divisors.shape and np.allclose(again, divisors, rtol=_CLOSE, atol=0):
            return candidate
    raise BadModel(
        f"{file.path}: {FREQUENCIES} holds divisors that are not those of Llama 3's scaling, and Transformers has no other; give "
        "the original model's folder"
    )


def _fitted(
    divisors: Float[np.ndarray, " n"], usual: dict[str, Any], theta: float, dimensions: int
) -> list[dict[str, Any]]:
    """Low and high factor by least squares, from the divisors between 1 and the factor; none where there are under two."""
    factor, length = usual["factor"], usual["original_max_position_embeddings"]
    between = (divisors > 1 + 1e-6) & (divisors < factor * (1 - 1e-6))
    if between.sum() < 2 or factor <= 1 or len(divisors) != dimensions // 2:
        return []
    turns = length / _wavelengths(theta, dimensions)[between]
    smooth = (1 / divisors[between] - 1 / factor) / (1 - 1 / factor)
    slope, offset = np.polyfit(turns, smooth, 1)
    low, high = _round(-offset / slope), _round((1 - offset) / slope)
    return [usual | {"low_freq_factor": low, "high_freq_factor": high}]


def _round(value: float) -> float:
    """The number as people write it, where it is within the error of float32 of that."""
    short = float(f"{value:.4g}")
    return short if math.isclose(short, value, rel_tol=1e-4) else float(value)


def _wavelengths(theta: float, dimensions: int) -> Float[np.ndarray, " n"]:
    found: Float[np.ndarray, " n"] = 2 * np.pi * theta ** (np.arange(0, dimensions, 2) / dimensions)
    return found


def llama3_divisors(rope: dict[str, Any], *, theta: float, dimensions: int) -> Float[np.ndarray, " n"]:
    """What Llama 3's scaling divides each frequency by."""
    factor, low, high = (float(rope[name]) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    length = float(rope["original_max_position_embeddings"])
    wavelengths = _wavelengths(theta, dimensions)
    smooth = np.clip((length / wavelengths - low) / (high - low), 0, 1)
    found: Float[np.ndarray, " n"] = 1 / ((1 - smooth) / factor + smooth)
    return found


def write_rope(rope: dict[str, Any], *, head_dim: int, context: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The keys, named as behind the architecture, and the tensors of ``rope_parameters``.

    Raises BadModel for a kind of scaling that llama.cpp does not have.
    """
    theta, kind = float(rope.get("rope_theta", 10_000.0)), rope.get("rope_type", "default")
    dimensions = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    keys: dict[str, Any] = {"rope.freq_base": theta, "rope.dimension_count": dimensions}
    if kind == "default":
        return keys, {}
    if kind == "llama3":
        return keys, {FREQUENCIES: llama3_divisors(rope, theta=theta, dimensions=dimensions).astype(np.float32)}
    if kind == "linear":
        return keys | {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}, {}
    length = rope.get("original_max_position_embeddings") or context
    if kind == "longrope":
        factor = context / length
        magnitude = rope.get("attention_factor") or longrope_magnitude(factor, length)
        keys |= {"rope.scaling.original_context_length": int(length), "rope.scaling.attn_factor": float(magnitude)}
        return keys, {
            LONG: np.array(rope["long_factor"], np.float32),
            SHORT: np.array(rope["short_factor"], np.float32),
        }
    if kind == "yarn" and not {"mscale", "mscale_all_dim"} & rope.keys() and rope.get("truncate", True):
        factor = float(rope["factor"])
        keys |= {"rope.scaling.type": "yarn", "rope.scaling.factor": factor}
        keys |= {"rope.scaling.original_context_length": int(length)}
        for name in ("beta_fast", "beta_slow"):
            if rope.get(name) is not None:
                keys[f"rope.scaling.yarn_{name}"] = float(rope[name])
        if rope.get("attention_factor") is not None:
            keys["rope.scaling.attn_factor"] = float(rope["attention_factor"]) / (0.1 * math.log(factor) + 1)
        return keys, {}
    raise BadModel(f"rotary positions of kind {kind!r} have no place in a GGUF file; export another format")

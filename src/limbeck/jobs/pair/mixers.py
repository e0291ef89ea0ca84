"""A decoder of any mixture of layers, from a pattern with a width and layers, or with a parameter budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from limbeck.errors import BadModel, BadSetting, BadShape
from limbeck.models.decoder import LimbeckConfig, LimbeckLayer
from limbeck.models.mixers.attention import SlidingWindow
from limbeck.models.mixers.pattern import pattern_of
from limbeck.planning.cost.mixers import Mixture

CONTEXT = 1024  # positions of a new model; with rotary embeddings, unused ones cost nothing
_HEADS = (64, 32, 16)  # channels of a head
_FEW = 4  # heads at least; narrower heads are preferred to fewer
_WIDTHS = (*range(32, 512, 16), *range(512, 16_385, 64))
_DEEP, _SHALLOW = 24, 128  # channels of the width for each layer, as of the Llamas that `pretrain` makes


@dataclass(frozen=True)
class Mixed:
    """A decoder whose layers repeat a pattern of mixers. ``context``: the longest text, in tokens."""

    pattern: tuple[str, ...]
    width: int
    layers: int
    context: int

    def config(self, vocab: int, *, special: Mapping[str, Any] | None = None) -> LimbeckConfig:
        """Its configuration for a vocabulary: SwiGLU of 8/3 of the width, a head tied to the embedding."""
        return LimbeckConfig(
            vocab_size=vocab,
            hidden_size=self.width,
            intermediate_size=max(16, round(self.width * 8 / 3 / 16) * 16),
            mixers=list(self.pattern),
            num_hidden_layers=self.layers,
            num_attention_heads=heads_of(self.width),
            max_position_embeddings=self.context,
            tie_word_embeddings=True,
            **(special or {}),
        )


def parse_mixers(mixers: str) -> tuple[str, ...]:
    """The pattern in the value of --mixers. Raises BadModel, naming the flag, for a faulty one."""
    try:
        return tuple(pattern_of(mixers))
    except BadModel as error:
        raise BadModel(f"--mixers {mixers!r}: {error}") from None


def context_of(length: int | None) -> int:
    """The longest text, in tokens, of a new decoder that is trained on rows of this length; the same for plan and training."""
    return max(CONTEXT, length or 0)


def mixed(mixers: str, *, width: int | None, layers: int | None, params: int | None, vocab: int, context: int) -> Mixed:
    """The decoder of a pattern with a width and layers, or the largest within a budget of parameters.

    Raises BadSetting or BadModel for a faulty pattern or sizes that do not fit, BadShape if no decoder is within the budget.
    """
    pattern = parse_mixers(mixers)
    if (width is not None or layers is not None) == (params is not None):
        raise BadSetting(
            "--mixers needs the size of the decoder: give --width and --layers, or a budget with --params; not both"
        )
    if params is not None:
        return _within(params, pattern, vocab=vocab, context=context)
    if width is None or layers is None:
        raise BadSetting(
            f"--mixers: expected --width and --layers, got only --{'width' if layers is None else 'layers'}"
        )
    if layers % len(pattern):
        below = layers - layers % len(pattern)
        fitting = " or ".join(str(n) for n in (below, below + len(pattern)) if n)
        raise BadSetting(
            f"--layers {layers}: expected a multiple of the {len(pattern)} mixers of --mixers, which are repeated until the "
            f"layers are full: give {fitting}, or another pattern"
        )
    found = Mixed(pattern, width, layers, context)
    a_pattern(pattern, width, context)  # some mixers restrict the width
    return found


def heads_of(width: int) -> int:
    """Heads for a width: of 64 channels, or of 32 or 16 where those would be fewer than 4. Raises BadSetting if none fits."""
    for head in _HEADS:
        if width % head == 0 and (width >= _FEW * head or head == _HEADS[-1]):
            return width // head
    raise BadSetting(
        f"--width {width}: expected a multiple of {_HEADS[-1]}, so that heads of {', '.join(map(str, _HEADS))} channels fill "
        f"it: give {max(1, round(width / _HEADS[-1])) * _HEADS[-1]}"
    )


@cache
def a_pattern(pattern: tuple[str, ...], width: int, context: int) -> tuple[int, ...]:
    """Parameters of each layer of a pattern, built where tensors have shapes and no storage."""
    config = Mixed(pattern, width, len(pattern), context).config(vocab=1)
    with torch.device("meta"):
        built = {
            text: sum(p.numel() for p in LimbeckLayer(config, pattern.index(text)).parameters())
            for text in set(pattern)
        }
    return tuple(built[text] for text in pattern)


def _within(budget: int, pattern: tuple[str, ...], *, vocab: int, context: int) -> Mixed:
    """The decoder of at most ``budget`` parameters that has between 24 and 128 channels a layer, or nearly, and of those the
    largest: within these bounds the loss hardly changes (Kaplan et al., arXiv 2001.08361, sec. 3.2)."""
    found: list[tuple[float, int, Mixed]] = []
    smallest, refused = 0, BadModel("")
    for width in _WIDTHS:
        try:
            layers = sum(a_pattern(pattern, width, context))
        except BadModel as error:  # such as a width that does not make whole heads of a mixer's own
            refused = error
            continue
        outside = vocab * width + width  # the embedding, which is the head too, and the last norm
        times = min((budget - outside) // layers, max(1, width // (_DEEP * len(pattern))))
        if times < 1:
            smallest = outside + layers
            break
        per_layer = width / (times * len(pattern))
        astray = max(0.0, math.log(_DEEP / per_layer), math.log(per_layer / _SHALLOW))
        found.append((astray, -(outside + times * layers), Mixed(pattern, width, times * len(pattern), context)))
    if found:
        return min(found, key=lambda one: one[:2])[2]
    if not smallest:
        raise refused
    raise BadShape(
        f"no decoder of the {len(pattern)} layers of --mixers has {budget:,} parameters or fewer with a vocabulary of "
        f"{vocab:,}: the narrowest has {smallest:,}; give more --params, or a smaller --vocab"
    )


def shown_pattern(pattern: Sequence[str], layers: int) -> str:
    """The pattern for display, with its number of repeats."""
    return ", ".join(pattern) + (f" ({layers // len(pattern)} times)" if layers > len(pattern) else "")


def shown_bytes(count: float) -> str:
    """Bytes for display, in the largest unit that fits."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"


def remarks(mixture: Mixture, length: int) -> list[str]:
    """Notes on settings that are legal but may not be intended: windows longer than the rows, of ``length`` tokens."""
    windows = {
        text: mixer.window
        for layer, text in enumerate(mixture.layers)
        if isinstance(mixer := mixture.mixer(layer), SlidingWindow)
    }
    return [
        f"{text} has a window larger than the {length:,} tokens of a row, so it equals full attention"
        for text, window in windows.items()
        if window > length
    ]

"""The memory budget of a streamed model: layers, activations of a micro-batch, hidden states, chunks of logits.

Only one of three things is in memory at a time: the embedding, the layers, or the head. Memory of Python and its libraries
does not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from limbeck.errors import BadSetting
from limbeck.models.micro_batch import MICRO_TOKENS
from limbeck.units import binary_size

# Tokens that go through all layers before the first layer is read again, by device type. Reading a layer is then little
# beside computing with it, and little is lost when a capture is killed.
BLOCK_TOKENS = {"cpu": 2**15, "cuda": 2**19}
MAX_CHUNK_LOGITS = 2**22
# Bytes for each logit of a chunk while outcomes are sampled from it in float64, or objectives certified on it. Ours, measured.
_BYTES_PER_LOGIT = 72

# The share of a limit that is divided. The rest is lost between the allocator's blocks. Ours: 7 % were, at 100 MiB.
_USABLE = 0.9


@dataclass(frozen=True)
class MemoryNeeds:
    """Bytes of a model's parts on the device: ``rest`` always stays there; ``layer`` is the largest layer.

    ``token`` is the memory of one token inside a layer, ``hidden`` that of its hidden state. ``rows`` is the number of rows
    of the head. ``caller`` is what the caller keeps on the host while it reads the logits.
    """

    rest: int
    embedding: int
    layer: int
    head: int
    token: int
    hidden: int
    rows: int
    caller: int = 0


@dataclass(frozen=True)
class MemoryBudget:
    """The division of a streamed model's memory limit.

    ``micro_tokens`` and ``block_tokens`` are the tokens of a micro-batch and of a block, ``chunk_logits`` the logits of a
    chunk. ``prefetch``: the next layer is read while one computes. ``spill``: hidden states of a block lie on disk.
    ``peak`` is the largest sum in bytes.
    """

    micro_tokens: int
    block_tokens: int
    chunk_logits: int
    prefetch: bool
    spill: bool
    peak: int

    def slowdown(self, rows: int) -> float:
        """Roughly the time relative to that with unlimited memory. ``rows`` is the number of rows of the head.

        A matrix product of few positions waits for its weights. Without prefetch it sometimes waits for the disk.
        """
        few = (1 + 32 / self.micro_tokens) * (1 + 32 * rows / self.chunk_logits)
        return few * (1.0 if self.prefetch else 1.2) * (1.05 if self.spill else 1.0)

    @classmethod
    def of(cls, needs: MemoryNeeds, *, limit: float, length: int, kind: str, free: float) -> MemoryBudget:
        """The fastest budget within a limit in bytes, for sequences of ``length`` tokens on a "cpu" or "cuda" device.

        On "cuda", waiting layers and hidden states lie in the host's memory, of which ``free`` bytes are free.

        Raises BadSetting where even the smallest budget exceeds the limit.
        """
        budgets = list(_candidates(needs, length=length, kind=kind, free=free))
        fitting = [budget for budget in budgets if budget.peak <= limit * _USABLE]
        if fitting:
            return min(fitting, key=lambda budget: budget.slowdown(needs.rows))
        least = min(budget.peak for budget in budgets) / _USABLE
        caller = f", {binary_size(needs.caller)} for the logits to keep" if needs.caller else ""
        raise BadSetting(
            f"--device-memory {binary_size(limit)}: expected at least {binary_size(least, up=True)}, which the largest layer "
            f"({binary_size(needs.layer)}), the embedding ({binary_size(needs.embedding)}), the head "
            f"({binary_size(needs.head)}{caller}) and sequences of {length} tokens need one after the other; give that much, "
            "shorter sequences with --seq-len, or --dtype bfloat16"
        )


def _candidates(needs: MemoryNeeds, *, length: int, kind: str, free: float) -> Iterator[MemoryBudget]:
    """All ways to divide memory. A GPU always prefetches, because the next layer waits on the host."""
    block = max(length, BLOCK_TOKENS[kind] // length * length)
    for micro, prefetch, spill, logits in product(
        _halves(max(length, MICRO_TOKENS[kind] // length * length), length),
        (True,) if kind == "cuda" else (True, False),
        (False, True),
        _halves(MAX_CHUNK_LOGITS, needs.rows),
    ):
        waiting = 0 if spill else block * needs.hidden
        if kind == "cuda" and waiting > free / 2:
            continue
        embedding = needs.embedding + 4 * micro * needs.hidden
        layers = needs.layer * (2 if prefetch and kind == "cpu" else 1) + micro * needs.token
        head = needs.head + logits * _BYTES_PER_LOGIT + 2 * micro * needs.hidden
        peak = needs.rest + max(embedding, layers, head)
        if kind == "cpu":
            peak = needs.rest + waiting + max(embedding, layers, head + needs.caller)
        yield MemoryBudget(micro, block, logits, prefetch, spill, peak)


def _halves(most: int, least: int) -> Iterator[int]:
    """Multiples of ``least``: the largest up to ``most``, then half as many each time, down to one."""
    count = max(1, most // least)
    while count:
        yield count * least
        count //= 2

"""How a streamed model shares out the memory it may take: layers, a micro-batch's activations, hidden states, chunks of logits.

Only one of three things is in memory at a time: the embedding, the layers, or the head. What is counted is what a model takes
beyond Python and its libraries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from limbeck.errors import BadSetting

# Tokens of a micro-batch, of trainings too: enough for efficient products, few enough for small memory.
MICRO_TOKENS = {"cpu": 1024, "cuda": 16384}
# Tokens that go through all layers before the first is read again: enough that reading a layer is little beside computing with
# it, and few enough that little is lost when a capture is killed.
BLOCK_TOKENS = {"cpu": 2**15, "cuda": 2**19}
MOST_CELLS = 2**22  # logits of a chunk
# Bytes for each logit of a chunk while outcomes are drawn from it in float64, or objectives certified on it. Ours, measured.
_CELL_BYTES = 72

# Of a limit, what is shared out: the rest is lost between the allocator's blocks. Ours: 7 % were, at 100 MiB.
_USABLE = 0.9


@dataclass(frozen=True)
class Needs:
    """Bytes of a model's parts on the device: what always stays there, the embedding, the largest layer, the head.

    ``token`` is what a token takes while it goes through a layer, ``hidden`` its hidden state; ``rows`` of the head. ``beside``
    is what whoever reads the answers keeps on the host meanwhile.
    """

    rest: int
    embedding: int
    layer: int
    head: int
    token: int
    hidden: int
    rows: int
    beside: int = 0


@dataclass(frozen=True)
class MemoryBudget:
    """What a streamed model does with its limit.

    Tokens of a micro-batch and of a block, logits of a chunk, whether the next layer is read while one computes (``ahead``),
    whether the hidden states of a block are on disk (``spilled``), and the bytes that all takes at its peak.
    """

    micro_tokens: int
    block_tokens: int
    cells: int
    ahead: bool
    spilled: bool
    peak: int

    def slowness(self, rows: int) -> float:
        """Roughly how much longer all takes than with any amount of memory; ``rows`` of the head.

        A product of few positions waits for its weights; one that is not read ahead waits for the disk now and then.
        """
        few = (1 + 32 / self.micro_tokens) * (1 + 32 * rows / self.cells)
        return few * (1.0 if self.ahead else 1.2) * (1.05 if self.spilled else 1.0)

    @classmethod
    def of(cls, needs: Needs, *, limit: float, length: int, kind: str, free: float) -> MemoryBudget:
        """The quickest way that keeps to a limit in bytes, for rows of this length, on a "cpu" or "cuda".

        On "cuda" layers wait and hidden states lie in the host's memory, of which ``free`` bytes are. Raises BadSetting where
        the least is more than the limit.
        """
        ways = list(_ways(needs, length=length, kind=kind, free=free))
        fitting = [way for way in ways if way.peak <= limit * _USABLE]
        if fitting:
            return min(fitting, key=lambda way: way.slowness(needs.rows))
        least = min(way.peak for way in ways) / _USABLE
        beside = f", {in_bytes(needs.beside)} kept of the answers" if needs.beside else ""
        raise BadSetting(
            f"--device-memory {in_bytes(limit)}: expected at least {in_bytes(least, up=True)}, which the largest layer "
            f"({in_bytes(needs.layer)}), the embedding ({in_bytes(needs.embedding)}), the head ({in_bytes(needs.head)}{beside}) "
            f"and rows of {length} tokens need one after the other: give that much, shorter rows with --length, or --dtype "
            "bfloat16"
        )


def _ways(needs: Needs, *, length: int, kind: str, free: float) -> Iterator[MemoryBudget]:
    """All ways to share memory out. What is read ahead on a GPU waits on the host, so there it is always."""
    block = max(length, BLOCK_TOKENS[kind] // length * length)
    for micro, ahead, spilled, cells in product(
        _halves(max(length, MICRO_TOKENS[kind] // length * length), length),
        (True,) if kind == "cuda" else (True, False),
        (False, True),
        _halves(MOST_CELLS, needs.rows),
    ):
        waiting = 0 if spilled else block * needs.hidden
        if kind == "cuda" and waiting > free / 2:
            continue
        entering = needs.embedding + 4 * micro * needs.hidden
        layers = needs.layer * (2 if ahead and kind == "cpu" else 1) + micro * needs.token
        reading = needs.head + cells * _CELL_BYTES + 2 * micro * needs.hidden
        peak = needs.rest + max(entering, layers, reading)
        if kind == "cpu":
            peak = needs.rest + waiting + max(entering, layers, reading + needs.beside)
        yield MemoryBudget(micro, block, cells, ahead, spilled, peak)


def _halves(most: int, least: int) -> Iterator[int]:
    """From ``most`` down by halves, in whole multiples of ``least`` and at least that."""
    count = max(1, most // least)
    while count:
        yield count * least
        count //= 2


def in_bytes(size: float, *, up: bool = False) -> str:
    """A size as people write it; rounded ``up`` where it is a minimum."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            value = size / scale
            return f"{-(-value * 100 // 1) / 100 if up else value:.2f} {unit}"
    return f"{size:.0f} B"

"""Assigns the tokens of a store to rows (sequences): short documents whole, by best fit, long ones in pieces.

A document of n tokens has n - 1 predictions, so it takes n - 1 places of a row. A text longer than a row is split into pieces
of a row's length; the last is shorter. A longer conversation is split between turns, so that an answer keeps its question; a
piece repeats at most half a row (`_conversations`). Pieces are packed by best fit decreasing: the longest first, each into the
fullest row with enough room (Ding et al., "Fewer Truncations Improve Language Modeling", arXiv 2404.10830). Where this leaves
much room, as with documents of slightly more than half a row, some texts are split to fill it (`_filled`). Conversations that
fit into a row are never split. Documents are packed in blocks, which bounds memory and keeps the first documents in the first
rows. Inside a block the order of rows depends only on their number, so that the first rows are a fair sample.

The layout depends only on the documents, the sequence length and the name of the packing, so it is the same in all ranks, runs
and captures. Files about rows contain that name.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int64, Integer

from limbeck.errors import BadCorpus, BadSetting

BEST_FIT = "best-fit-3"  # the number is the version of the layout
WITHOUT_LONG = "best-fit-3-drop"  # the same without conversations longer than a row
STREAM = "stream"  # of earlier versions: the stream of all documents, split at multiples of the length
PACKINGS = {"split": BEST_FIT, "drop": WITHOUT_LONG}

_BLOCK_ROWS = 2**14  # rows of a block, about

LearnedOf = Callable[[int, int], np.ndarray]
Numbers = Int64[np.ndarray, " n"]


@dataclass(frozen=True)
class Packed:
    """Counts of a layout.

    ``learned`` tokens are predicted; for ``lacking`` of them a part of their document's earlier tokens is not in the row.
    ``read`` places are not padding; ``repeated`` of them are context that is learned elsewhere or not at all. ``cut`` documents
    are split over several rows. ``left_out`` conversations, with ``left_out_tokens`` to learn, are in no row.
    """

    learned: int = 0
    lacking: int = 0
    read: int = 0
    repeated: int = 0
    cut: int = 0
    left_out: int = 0
    left_out_tokens: int = 0

    def __add__(self, other: Packed) -> Packed:
        return Packed(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def share_lacking(self) -> float:
        """The share of learned tokens without all of their document's earlier tokens in the row."""
        return self.lacking / max(1, self.learned)


@dataclass(frozen=True)
class Layout:
    """Rows of ``length`` places as segments, which are parts of the stream of all documents.

    Segment i is the ``size[i]`` tokens from ``begin[i]`` on; the first has the position ``position[i]`` in its document's piece.
    Where ``fresh[i]`` is true, their next tokens are learned as the store's mask permits; otherwise the segment is context for
    the next one. Row r consists of the segments from ``first[r]`` to ``first[r + 1]``, followed by padding.

    The arrays are as narrow as their numbers allow (`_narrow`): 9 bytes a segment and 4 a row below 2**32 tokens in rows shorter
    than 2**16. What is computed from them is 64 bits wide.
    """

    length: int
    begin: Integer[np.ndarray, " segments"]
    size: Integer[np.ndarray, " segments"]
    position: Integer[np.ndarray, " segments"]
    fresh: Bool[np.ndarray, " segments"]
    first: Integer[np.ndarray, " rows_and_one"]
    packed: Packed

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.first) - 1

    @property
    def padding(self) -> float:
        """The share of padding among all places."""
        return 1 - self.packed.read / (self.rows * self.length)

    def read(self, start: int, stop: int) -> int:
        """The number of tokens in the rows from ``start`` to ``stop``, without padding."""
        return int(self.size[self.first[start] : self.first[stop]].sum())

    def places(self, rows: Int64[np.ndarray, " B"]) -> Places:
        """The token, position and segment at every place of some rows."""
        first = self.first[rows].astype(np.int64)
        count = self.first[rows + 1] - first
        segment = np.repeat(first - _before(count), count) + np.arange(count.sum())
        row = np.repeat(np.arange(len(rows)), count)
        size = self.size[segment].astype(np.int64)
        filled = np.bincount(row, weights=size, minlength=len(rows)).astype(np.int64)
        moved = row * self.length - _before(filled)[row]  # from a place among all that are read to one of the rows
        which = np.repeat(np.arange(len(size)), size)
        inside = np.arange(len(which)) - _before(size)[which]
        where = np.arange(len(which)) + moved[which]
        found = np.full((3, len(rows) * self.length), -1)
        found[1] = (np.arange(self.length) - filled[:, None]).reshape(-1)
        found[:, where] = self.begin[segment][which] + inside, self.position[segment][which] + inside, segment[which]
        return Places(*found.reshape(3, len(rows), self.length))

    def predicted(self, start: int, stop: int) -> tuple[Numbers, Numbers]:
        """(place that predicts each of the tokens from ``start`` to ``stop``, its segment); -1 for tokens never predicted.

        A place is the row times ``length``, plus the position in the row.
        """
        number, begin, place = self._by_token
        token = np.arange(start, stop) - 1  # that is read there
        found = np.searchsorted(begin, token, side="right") - 1
        inside = token - begin[found]
        there = (found >= 0) & (inside < self.size[number[found]])
        return np.where(there, place[found] + inside, -1), np.where(there, number[found], -1)

    @cached_property
    def _by_token(self) -> tuple[Numbers, Numbers, Numbers]:
        """Number, first token and first place of the segments with learned tokens, in order of their tokens."""
        size = self.size.astype(np.int64)
        row = np.repeat(np.arange(self.rows), np.diff(self.first))
        place = row * self.length + _before(size) - np.append(_before(size), size.sum())[self.first[:-1]][row]
        number = np.flatnonzero(self.fresh)
        number = number[np.argsort(self.begin[number], kind="stable")]
        return number, self.begin[number].astype(np.int64), place[number]


@dataclass(frozen=True)
class Places:
    """For each place of some rows (B, T): its token in the stream, its position in its piece, and its segment.

    Padding has the token and the segment -1, and its own positions from 0 on.
    """

    token: Int64[np.ndarray, "B T"]
    position: Int64[np.ndarray, "B T"]
    segment: Int64[np.ndarray, "B T"]


def lay_out(
    starts: Int64[np.ndarray, " documents_and_one"],
    learned: LearnedOf | None,
    *,
    length: int,
    packing: str = BEST_FIT,
    apart: Sequence[int] | Numbers = (0,),
) -> Layout:
    """The layout of documents in a stream of tokens. ``starts`` holds their first positions, and the end of the stream.

    The documents from each number in ``apart`` on share no row with those before, and have the rows that they have alone.

    ``learned(start, stop)`` is the mask of learned tokens of a part of the stream; None where all are. Where no token is
    learned, the layout is that with all tokens learned.

    Raises BadSetting for an unknown packing, and BadCorpus where all learned tokens are left out.
    """
    if packing == STREAM:
        return _stream(starts, learned, length=length)
    if packing not in PACKINGS.values():
        raise BadSetting(
            f"expected rows packed by {', '.join(PACKINGS.values())} or {STREAM}, got {packing!r}: another version of limbeck "
            "made this; continue with that version, or start in another folder"
        )
    parts, packed, rows = [], Packed(), 0
    edges = [*apart, len(starts) - 1]
    blocks = [
        (first + low, first + high)
        for first, last in pairwise(edges)
        if first < last
        for low, high in _blocks(starts[first : last + 1], length)
    ]
    for low, high in blocks:
        own = starts[low : high + 1]
        marks = None if learned is None else learned(int(own[0]), int(own[-1]))
        found = _Block.of(own, marks, length=length, split=packing == BEST_FIT)
        pieces, row, count = _filled(found.pieces, found.texts, *best_fit(found.pieces.size, length), length)
        parts.append(_segments(pieces, in_mixed_order(row, count), count, length=length, tokens=int(starts[-1])))
        rows, packed = rows + count, packed + found.did(pieces)
    if packed.left_out and not packed.learned:
        raise BadCorpus(
            f"all {packed.left_out:,} conversations with something to learn are longer than a row of {length} tokens, and "
            "--long-conversations drop leaves those out: give a larger --seq-len, or --long-conversations split"
        )
    if learned is not None and not packed.learned:
        return lay_out(starts, None, length=length, packing=packing, apart=apart)
    return _Segments.together(parts).layout(length, packed)


@dataclass
class _Segments:
    """Segments in the order of their rows, and how many each row has."""

    begin: Integer[np.ndarray, " n"]
    size: Integer[np.ndarray, " n"]
    position: Integer[np.ndarray, " n"]
    fresh: Bool[np.ndarray, " n"]
    count: Integer[np.ndarray, " rows"]

    @classmethod
    def together(cls, parts: list[_Segments]) -> _Segments:
        """All of these, one behind the other; ``parts`` is emptied, so that no more than one column is held twice."""
        columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(cls)}
        parts.clear()
        return cls(**{name: np.concatenate(columns.pop(name)) for name in list(columns)})

    def layout(self, length: int, packed: Packed) -> Layout:
        """The layout of these; it has a row also where there are none."""
        first = np.zeros(max(1, len(self.count)) + 1, np.int64)
        np.cumsum(self.count, out=first[1 : len(self.count) + 1])
        narrow = _narrow(first, len(self.begin))
        return Layout(length, self.begin, self.size, self.position, self.fresh, narrow, packed)


@dataclass(frozen=True)
class _Pieces:
    """Pieces of documents. Each has up to three parts, one after another in its row.

    These are ``heads`` tokens from ``head`` on, context from ``context`` to ``fresh``, and learned tokens from ``fresh`` to
    ``stop``. ``start`` is the beginning of the document.
    """

    start: Numbers
    fresh: Numbers
    stop: Numbers
    context: Numbers
    head: Numbers
    heads: Numbers

    @classmethod
    def of(
        cls,
        start: Numbers,
        fresh: Numbers,
        stop: Numbers,
        *,
        context: Numbers | None = None,
        head: Numbers | None = None,
        heads: Numbers | None = None,
    ) -> _Pieces:
        """Pieces without the parts that are not given."""
        none = np.zeros(len(start), np.int64)
        parts = (none if part is None else part for part in (head, heads))
        return cls(start, fresh, stop, fresh if context is None else context, *parts)

    @classmethod
    def together(cls, parts: list[_Pieces]) -> _Pieces:
        """All of these."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    @property
    def size(self) -> Numbers:
        """The number of places of each piece."""
        return self.heads + self.stop - self.context

    def some(self, chosen: Bool[np.ndarray, " n"]) -> _Pieces:
        """The chosen pieces."""
        return _Pieces(*(getattr(self, f.name)[chosen] for f in fields(_Pieces)))

    @property
    def complete(self) -> Bool[np.ndarray, " n"]:
        """Whether each piece contains all of its document up to the piece's end."""
        return (self.context == self.start) & (self.heads == 0)


@dataclass(frozen=True)
class _Block:
    """A block of documents in pieces. ``texts`` marks pieces of texts.

    ``total[i]`` counts the learned ones among its first i tokens (None: all except the first of each document). ``left_out``
    holds the same counts for the conversations that are in no row.
    """

    pieces: _Pieces
    texts: Bool[np.ndarray, " pieces"]
    low: int
    total: Numbers | None
    left_out: Numbers

    @classmethod
    def of(cls, starts: Numbers, marks: np.ndarray | None, *, length: int, split: bool) -> _Block:
        """The block of the documents with these ``starts``, and ``marks`` of learned tokens (None: all)."""
        low, sizes = int(starts[0]), np.diff(starts)
        counts, total = np.maximum(sizes - 1, 0), None
        if marks is not None:
            marks = marks.copy()
            marks[starts[:-1][sizes > 0] - low] = False  # the first token of a document is never predicted
            total = np.concatenate([[0], np.cumsum(marks)])
            counts = total[starts[1:] - low] - total[starts[:-1] - low]
        plain = (counts > 0) & (counts == sizes - 1)
        texts = _texts(starts[:-1][plain], sizes[plain] - 1, length)
        parts, left_out = [texts], np.zeros(0, np.int64)
        if marks is not None and (talks := (counts > 0) & ~plain).any():
            found, long = _conversations(starts[:-1], marks, talks, low=low, length=length)
            parts += found if split else found[:1]
            left_out = left_out if split else counts[long]
        pieces = _Pieces.together(parts)
        return cls(pieces, np.arange(len(pieces.start)) < len(texts.start), low, total, left_out)

    def did(self, pieces: _Pieces) -> Packed:
        """The counts of the block, whose documents are in these pieces."""
        learned = pieces.stop - pieces.fresh
        if self.total is not None:
            learned = self.total[pieces.stop + 1 - self.low] - self.total[pieces.fresh + 1 - self.low]
        return Packed(
            learned=int(learned.sum()),
            lacking=int(learned[~pieces.complete].sum()),
            read=int(pieces.size.sum()),
            repeated=int((pieces.size - (pieces.stop - pieces.fresh)).sum()),
            cut=len(np.unique(pieces.start[~pieces.complete])),
            left_out=len(self.left_out),
            left_out_tokens=int(self.left_out.sum()),
        )


def _texts(start: Numbers, inputs: Numbers, length: int) -> _Pieces:
    """The pieces of texts with ``inputs`` input tokens each: whole texts, or pieces of which all but the last fill a row."""
    number = -(-inputs // length)
    which = np.repeat(np.arange(len(start)), number)
    fresh = start[which] + (np.arange(len(which)) - _before(number)[which]) * length
    return _Pieces.of(start[which], fresh, np.minimum(fresh + length, (start + inputs)[which]))


def _conversations(
    starts: Numbers, marks: np.ndarray, talks: Bool[np.ndarray, " d"], *, low: int, length: int
) -> tuple[list[_Pieces], Numbers]:
    """([conversations that fit into a row, pieces of the others], documents of the others).

    A turn is an answer (a run of learned tokens) with everything since the answer before. Tokens after the last answer are not
    read. A piece of a longer conversation has as many whole turns as fit; the rest of its row repeats earlier turns, for at
    most half a row. A turn longer than a row is split in its answer (`_long_turns`).
    """
    edges = np.diff(np.concatenate([[False], marks, [False]]).astype(np.int8))
    run, end = np.flatnonzero(edges == 1) + low, np.flatnonzero(edges == -1) + low
    owner = np.searchsorted(starts, run, side="right") - 1
    run, end, owner = (x[talks[owner]] for x in (run, end, owner))
    first = np.flatnonzero(np.diff(owner, prepend=-1))  # the first turn of each conversation
    last = np.append(first[1:], len(owner)) - 1
    document = owner[first]
    start, stop = starts[document], end[last] - 1
    fits = stop - start <= length
    short = _Pieces.of(start[fits], start[fits], stop[fits])
    kept = ~np.repeat(fits, last - first + 1)
    run, end, owner = run[kept], end[kept], owner[kept]
    long = document[~fits]
    if not len(long):
        return [short, _Pieces.of(long, long, long)], long
    begin = np.where(np.diff(owner, prepend=-1) != 0, starts[owner], np.concatenate([[0], end[:-1]]))
    group = _groups(begin, end, owner, length)
    return [short, _cut(starts, run, begin, end, owner, group, length=length)], long


def _groups(begin: Numbers, end: Numbers, owner: Numbers, length: int) -> tuple[Numbers, Numbers]:
    """(first turn, turn after the last) of each group of turns that are learned in one piece."""
    opens = np.diff(owner, prepend=-1) != 0
    behind = np.searchsorted(owner, owner, side="right")  # the first turn of the next conversation
    after = np.searchsorted(end, begin + length + 1, side="right").clip(np.arange(len(begin)) + 1, behind)
    firsts, turn = [], np.flatnonzero(opens)
    while len(turn):
        firsts.append(turn)
        turn = after[turn][after[turn] < behind[turn]]
    group = np.sort(np.concatenate(firsts))
    return group, after[group]


def _cut(
    starts: Numbers,
    run: Numbers,
    begin: Numbers,
    end: Numbers,
    owner: Numbers,
    group: tuple[Numbers, Numbers],
    *,
    length: int,
) -> _Pieces:
    """The pieces of conversations longer than a row, from their groups of turns."""
    turn, after = group
    start, fresh, stop = starts[owner[turn]], begin[turn], end[after - 1] - 1
    fits = stop - fresh <= length
    earliest = np.maximum(np.maximum(stop - length, fresh - length // 2), start)
    context = begin[np.minimum(np.searchsorted(begin, earliest), turn)]  # a turn's beginning, or a conversation's
    whole = _Pieces.of(*(x[fits] for x in (start, fresh, stop)), context=context[fits])
    alone = turn[~fits]  # a turn that is longer than a row is a group by itself
    return _Pieces.together([whole, _long_turns(start[~fits], begin[alone], run[alone], stop[~fits], length)])


def _long_turns(start: Numbers, begin: Numbers, run: Numbers, stop: Numbers, length: int) -> _Pieces:
    """The pieces of turns longer than a row. A turn begins at ``begin``, its answer at ``run``, and both end at ``stop``.

    The first piece is the question, where it leaves a quarter of the row, and as much of the answer as fits. Every other piece
    has a quarter of a row from the beginning of the question, a quarter from just before its learned tokens, and these tokens.
    """
    quarter = length // 4
    short = run - begin <= length - quarter
    split = np.where(short, np.minimum(begin + length, stop), run - 1)  # where the pieces that are all alike begin
    heads = np.minimum(quarter, run - begin)
    each = length - heads - quarter
    number = -(-(stop - split) // each)
    which = np.repeat(np.arange(len(start)), number)
    fresh = split[which] + (np.arange(len(which)) - _before(number)[which]) * each[which]
    later = _Pieces.of(
        start[which],
        fresh,
        np.minimum(fresh + each[which], stop[which]),
        context=fresh - quarter,
        head=begin[which],
        heads=heads[which],
    )
    opens = _Pieces.of(start[short], begin[short], split[short])
    return _Pieces.together([opens, later])


def _filled(
    pieces: _Pieces, texts: Bool[np.ndarray, " n"], row: Numbers, rows: int, length: int
) -> tuple[_Pieces, Numbers, int]:
    """(pieces, the row of each, number of rows) after the emptiest rows were dissolved into the room of the others.

    A row is dissolved if it contains only texts, and if the remaining rows with an eighth of a row or more of room can hold its
    tokens. The pieces of texts are laid end to end along that room, and split to fit.
    """
    size = pieces.size
    room = length - np.bincount(row, weights=size, minlength=rows).astype(np.int64)
    space = np.where(room >= max(16, length // 8), room, 0)
    emptiest = np.argsort(-room, kind="stable")
    giving = emptiest[np.bincount(row, weights=~texts, minlength=rows)[emptiest] == 0]
    number = int((np.cumsum(length - room[giving]) <= space.sum() - np.cumsum(space[giving])).sum())
    if not number:
        return pieces, row, rows
    gone = np.zeros(rows, bool)
    gone[giving[:number]] = True
    moved = np.flatnonzero(gone[row])
    moved = moved[np.lexsort((pieces.fresh[moved], -room[row[moved]]))]
    hosts = emptiest[(space > 0)[emptiest] & ~gone[emptiest]]
    piece_at, host_at, total = _before(size[moved]), _before(space[hosts]), size[moved].sum()
    edges = np.union1d(piece_at, host_at[host_at < total])
    piece, host = (np.searchsorted(at, edges, side="right") - 1 for at in (piece_at, host_at))
    fresh = pieces.fresh[moved[piece]] + edges - piece_at[piece]
    cut = _Pieces.of(pieces.start[moved[piece]], fresh, fresh + np.diff(np.append(edges, total)))
    where = np.concatenate([row[~gone[row]], hosts[host]])
    return _Pieces.together([pieces.some(~gone[row]), cut]), (np.cumsum(~gone) - 1)[where], rows - number


def in_mixed_order(row: Numbers, rows: int) -> Numbers:
    """The row of each piece after a permutation of all rows that depends only on their number."""
    place = np.empty(rows, np.int64)
    place[np.argsort(_scattered(rows), kind="stable")] = np.arange(rows)
    return place[row]


def _segments(pieces: _Pieces, row: Numbers, rows: int, *, length: int, tokens: int) -> _Segments:
    """The segments of pieces in rows of ``length``, with the row of each piece, of a stream of ``tokens`` tokens."""
    sizes = np.stack([pieces.heads, pieces.fresh - pieces.context, pieces.stop - pieces.fresh], 1)
    begins = np.stack([pieces.head, pieces.context, pieces.fresh], 1)
    positions = np.cumsum(sizes, 1) - sizes
    piece = np.lexsort((pieces.fresh, row))
    there = (sizes[piece] > 0).reshape(-1)
    fresh = np.tile([False, False, True], len(piece))
    count = np.bincount(np.repeat(row[piece], 3)[there], minlength=rows)
    both = ((begins, tokens), (sizes, length), (positions, length))
    flat = [_narrow(values[piece].reshape(-1)[there], most) for values, most in both]
    return _Segments(flat[0], flat[1], flat[2], fresh[there], _narrow(count, 3 * length))


def _narrow(values: Numbers, most: int) -> Integer[np.ndarray, " n"]:
    """Numbers from 0 to ``most`` in 16, 32 or 64 bits. None is an unsigned one of 64, which NumPy adds to others as floats."""
    return values.astype(np.uint16 if most < 2**16 else np.uint32 if most < 2**32 else np.int64)


def best_fit(sizes: Numbers, length: int) -> tuple[Numbers, int]:
    """(the row of each piece, number of rows) by best fit decreasing, for sizes from 1 to ``length``.

    Pieces of one size are placed together, and so are rows with the same room. So the time depends on the number of different
    sizes.
    """
    row = np.empty(len(sizes), np.int64)
    order = np.argsort(-sizes, kind="stable")
    room: dict[int, list[np.ndarray]] = {}  # rows by their free places
    rooms: list[int] = []  # in ascending order
    rows, place = 0, 0
    widths, counts = np.unique(sizes, return_counts=True)
    for width, left in zip(widths[::-1].tolist(), counts[::-1].tolist(), strict=True):
        while left:
            fitting = bisect_left(rooms, width)
            free = rooms[fitting] if fitting < len(rooms) else length
            each = free // width
            wanted = -(-left // each)
            if fitting < len(rooms):
                chosen = room[free].pop()
                if len(chosen) > wanted:
                    room[free].append(chosen[wanted:])
                    chosen = chosen[:wanted]
                if not room[free]:
                    del room[free], rooms[fitting]
            else:
                chosen = np.arange(rows, rows + wanted)
                rows += wanted
            taken = min(left, len(chosen) * each)
            row[order[place : place + taken]] = np.repeat(chosen, each)[:taken]
            full, rest = divmod(taken, each)
            for some, now in ((chosen[:full], free - each * width), (chosen[full : full + 1], free - rest * width)):
                if len(some) and now:
                    if now not in room:
                        insort(rooms, now)
                    room.setdefault(now, []).append(some)
            place, left = place + taken, left - taken
    return row, rows


def _blocks(starts: Numbers, length: int) -> Iterator[tuple[int, int]]:
    """(first document, document after the last) of each block."""
    block = (starts[:-1] - starts[0]) // (_BLOCK_ROWS * length)
    edges = np.flatnonzero(np.diff(block)) + 1
    yield from zip([0, *edges.tolist()], [*edges.tolist(), len(block)], strict=True)


def _stream(starts: Numbers, learned: LearnedOf | None, *, length: int) -> Layout:
    """The layout of earlier versions: row r begins at token r times the length. Rows without learned tokens are dropped."""
    tokens = int(starts[-1])
    rows = np.arange(max(1, -(-(tokens - 1) // length)))
    edges = np.union1d(rows * length, starts[:-1])
    begin = edges[edges < min(tokens, len(rows) * length)]
    size = np.diff(np.append(begin, min(tokens, len(rows) * length)))
    document = np.searchsorted(starts, begin, side="right") - 1
    predicted = np.minimum(size, starts[document + 1] - 1 - begin)
    if learned is None:
        marked = predicted
    else:
        marked = np.array([learned(b + 1, b + 1 + n).sum() for b, n in zip(begin, predicted, strict=True)], np.int64)
    row = begin // length
    some = np.bincount(row, weights=marked, minlength=len(rows)) > 0
    kept = some[row] if learned is not None and some.any() else np.ones(len(row), bool)
    lacking = int(marked[begin > starts[document]].sum())
    begin, size, row = begin[kept], size[kept], row[kept]
    packed = Packed(learned=int(marked.sum()), lacking=lacking, read=int(size.sum()), cut=_several(document))
    first = _narrow(np.searchsorted(row, np.append(np.unique(row), len(rows))), len(row))
    begin, size, zeros = _narrow(begin, tokens), _narrow(size, length), _narrow(np.zeros_like(begin), length)
    return Layout(length, begin, size, zeros, np.ones(len(begin), bool), first, packed)


def _several(document: Numbers) -> int:
    """How many numbers occur more than once."""
    return int((np.unique(document, return_counts=True)[1] > 1).sum())


def _before(count: Numbers) -> Numbers:
    """For each count the sum of all earlier ones."""
    return np.cumsum(count) - count


def _scattered(count: int) -> np.ndarray:
    """A fixed pseudo-random number of 64 bits for each of 0 to ``count`` - 1 (SplitMix64)."""
    with np.errstate(over="ignore"):
        x = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))

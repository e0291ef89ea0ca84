"""Completion of the table of sums M_ij = i + j from some of its entries by rules, without learning.

The table has rank 2. *By sums* also uses that an entry is a number of its row plus a number of its column: three corners of a
rectangle give the fourth, D = B + C - A, and all entries connected by known ones follow. *By rank two* uses the rank only: an
entry follows if it completes a 3 x 3 block, whose determinant is 0. (The rule D = B C / A, of rank 1, is wrong for sums.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import combinations

import numpy as np
from jaxtyping import Int64

Pairs = Int64[np.ndarray, "n 2"]
Entry = tuple[int, int]
Block = tuple[set[int], set[int]]  # rows and columns with all entries known


def by_sums(known: Pairs, unknown: Pairs) -> int:
    """The number of test entries that follow, and are correct, if each is a number of its row plus one of its column."""
    neighbours: dict[Entry, list[tuple[Entry, int]]] = defaultdict(list)  # from rows (0, i) and columns (1, j)
    for i, j in known.tolist():
        neighbours[0, i].append(((1, j), i + j))
        neighbours[1, j].append(((0, i), i + j))
    part: dict[Entry, int] = {}
    number: dict[Entry, int] = {}
    for start in neighbours:
        if start in part:
            continue
        part[start], number[start], waiting = len(part), 0, [start]
        while waiting:
            line = waiting.pop()
            for other, total in neighbours[line]:
                if other not in part:
                    part[other], number[other] = part[start], total - number[line]
                    waiting.append(other)
    found = 0
    for i, j in unknown.tolist():
        row, column = (0, i), (1, j)
        if row in part and column in part and part[row] == part[column]:
            found += number[row] + number[column] == i + j
    return found


def by_rank_two(known: Pairs, unknown: Pairs) -> int:
    """The number of test entries that follow from 3 x 3 blocks with eight known others.

    A complete 2 x 2 block grows by each row and column with two known entries in it, until there is none. In a table of sums no
    2 x 2 block is singular, since its determinant is (i - k) (l - j). So each result is correct, and which entries follow
    depends on places only. Combinations of two blocks are not searched.
    """
    entries = {(i, j) for i, j in known.tolist()}
    rows, columns = _lines(entries), _lines((j, i) for i, j in entries)
    blocks: list[Block] = []
    for block in _squares(rows):
        if not any(block[0] <= other[0] and block[1] <= other[1] for other in blocks):
            blocks.append(_grown(block, rows, columns))
    wanted = {(i, j) for i, j in unknown.tolist()}
    return sum(any(i in block[0] and j in block[1] for block in blocks) or (i, j) in entries for i, j in wanted)


def _lines(entries: Iterable[Entry]) -> dict[int, set[int]]:
    found: dict[int, set[int]] = defaultdict(set)
    for i, j in entries:
        found[i].add(j)
    return found


def _squares(rows: Mapping[int, set[int]]) -> list[Block]:
    """Complete blocks of at least two rows and two columns, one for each two columns that have rows in common."""
    shared: dict[Entry, set[int]] = defaultdict(set)
    for i, columns in rows.items():
        for two in combinations(sorted(columns), 2):
            shared[two].add(i)
    return [(common, set(two)) for two, common in shared.items() if len(common) > 1]


def _grown(block: Block, rows: Mapping[int, set[int]], columns: Mapping[int, set[int]]) -> Block:
    """A complete block with all rows and columns by which it can grow."""
    inside = (set(block[0]), set(block[1]))
    across = (rows, columns)  # the columns of each row, the rows of each column
    met: tuple[dict[int, int], dict[int, int]] = (defaultdict(int), defaultdict(int))  # known entries in the block
    waiting = [(side, line) for side in (0, 1) for line in inside[side]]
    while waiting:
        side, line = waiting.pop()
        other = 1 - side
        for crossing in across[side].get(line, ()):
            met[other][crossing] += 1
            if met[other][crossing] == 2 and crossing not in inside[other]:
                inside[other].add(crossing)
                waiting.append((other, crossing))
    return inside

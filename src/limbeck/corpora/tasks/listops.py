"""ListOps: evaluation of nested lists of digits under MIN, MAX, MED (the median, rounded down) and SM (the sum modulo 10).

[MAX 2 9 [MIN 4 7 ] 0 ] is 9. The grammar is that of Long Range Arena (Tay et al., arXiv 2011.04006, sec. 2.2.1). Above the
greatest depth, a node is a list with probability 1/4, else a digit. A list has 2 to 10 items. Expressions have more than 500 and
fewer than 2,000 tokens, with brackets. Trees are sampled level by level, many at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from limbeck.corpora.tasks.spelled import Question
from limbeck.corpora.tasks.synthetic import Drawing
from limbeck.errors import BadTask

OPERATORS = ("MIN", "MAX", "MED", "SM")
SIGNS = ("", *"0123456789", *(f"[{name}" for name in OPERATORS), "]")  # by token; 0 is padding
_DIGIT, _OPERATOR, _CLOSE = 1, 11, 15
_LIST = 0.25  # probability that a node is a list
_FEWEST = 2  # least number of items of a list
_TREES = 4096  # sampled at once
_ATTEMPTS = 2000  # limit of samples of as many trees, after which the lengths are too rare
_FRUITLESS = 50  # limit of such samples without any expression, which take some seconds

Expression = int | tuple[str, tuple["Expression", ...]]


@dataclass(frozen=True)
class Expressions:
    """Expressions as concatenated tokens, with the end and the value of each."""

    tokens: Int64[np.ndarray, " tokens"]
    ends: Int64[np.ndarray, " n"]
    values: Int64[np.ndarray, " n"]

    def __getitem__(self, number: int) -> Int64[np.ndarray, " length"]:
        """The tokens of the expression ``number``."""
        return self.tokens[(self.ends[number - 1] if number else 0) : self.ends[number]]


@dataclass(frozen=True)
class ListOps:
    """Expressions of more than ``shortest`` and fewer than ``longest`` tokens. Raises BadTask for limits that none can keep.

    A row has padding, then the expression. The value is the target at the last bracket.
    """

    depth: int = 10
    items: int = 10
    shortest: int = 500
    longest: int = 2000
    name: str = "listops"

    def __post_init__(self) -> None:
        if self.depth < 2 or self.items < _FEWEST or self.shortest + 1 >= self.longest:
            raise BadTask(
                f"listops: expected depth >= 2, items >= {_FEWEST} and longest > shortest + 1, got {self.depth}, {self.items}, "
                f"{self.longest} and {self.shortest}"
            )
        if not self._can_be_kept():
            raise BadTask(
                f"listops: no expression of depth {self.depth} with up to {self.items} items has more than {self.shortest} and "
                f"fewer than {self.longest} tokens: take other limits"
            )

    def _can_be_kept(self) -> bool:
        """Whether a list can have a length within the limits. Bits of an integer represent a set of lengths."""
        allowed, digit = (1 << self.longest) - 1, 1 << 1
        lists = 0  # there are none at the greatest depth
        for _ in range(self.depth - 1):
            items, above = 1, 0
            for count in range(1, self.items + 1):
                items = _sums(items, lists | digit) & allowed
                if count >= _FEWEST:
                    above |= items << 2 & allowed  # with an operator and a bracket
            if above == lists:
                break
            lists = above
        return lists >> (self.shortest + 1) != 0

    @property
    def length(self) -> int:
        """Tokens of the longest expression."""
        return self.longest - 1

    @property
    def vocab(self) -> int:
        """The vocabulary size: padding, ten digits, four operators and a bracket."""
        return len(SIGNS)

    def draw(self, generator: np.random.Generator, rows: int) -> Drawing:
        """Samples rows, each with an expression at its end."""
        found = self.expressions(generator, rows)
        tokens = np.zeros((rows, self.length), dtype=np.int64)
        answers, asked = np.zeros_like(tokens), np.zeros(tokens.shape, dtype=bool)
        for row in range(rows):
            expression = found[row]
            tokens[row, self.length - len(expression) :] = expression
        answers[:, -1], asked[:, -1] = _DIGIT + found.values, True
        return Drawing(tokens, answers, asked)

    def questions(self, generator: np.random.Generator, n: int) -> list[Question]:
        """Samples n expressions as text. An equals sign ends each question."""
        found = self.expressions(generator, n)
        return [Question(f"{spell(found[i])}=", str(found.values[i])) for i in range(n)]

    def expressions(self, generator: np.random.Generator, n: int) -> Expressions:
        """Samples n expressions, all of them lists. Raises BadTask if expressions of these lengths are too rare."""
        parts: list[Expressions] = []
        have = 0
        for draws in range(1, _ATTEMPTS + 1):
            part = _grow(generator, self).some(n - have)
            have += len(part.values)
            parts.append(part)
            if have == n:
                return _joined(parts)
            if draws == _FRUITLESS and not have:
                break
        raise BadTask(
            f"listops: {have} of {n} expressions after {draws * _TREES:,} draws of depth {self.depth}, {self.items} "
            f"items, {self.shortest} to {self.longest} tokens: take other limits"
        )


def _sums(some: int, others: int) -> int:
    """The sums of one number from each of two sets, which are the bits of integers."""
    found = 0
    while others:
        lowest = others & -others
        found |= some << (lowest.bit_length() - 1)
        others ^= lowest
    return found


def spell(tokens: Int64[np.ndarray, " length"]) -> str:
    """Tokens as text."""
    return " ".join(SIGNS[token] for token in tokens)


def render(expression: Expression) -> str:
    """An expression as text."""
    if isinstance(expression, int):
        return str(expression)
    operator, items = expression
    return f"[{operator} {' '.join(map(render, items))} ]"


def parse(text: str) -> Expression:
    """Parses the text of an expression. Raises BadTask if it is not one."""
    lists: list[tuple[str, list[Expression]]] = [("", [])]
    for sign in text.split(" "):
        if sign.startswith("[") and sign[1:] in OPERATORS:
            lists.append((sign[1:], []))
        elif sign == "]" and len(lists) > 1 and lists[-1][1]:
            operator, items = lists.pop()
            lists[-1][1].append((operator, tuple(items)))
        elif len(sign) == 1 and sign in "0123456789":
            lists[-1][1].append(int(sign))
        else:
            raise _not_spelled(text, f"at {sign!r}")
    if len(lists) != 1 or len(lists[0][1]) != 1:
        raise _not_spelled(text, "brackets do not match")
    return lists[0][1][0]


def value_of(expression: Expression) -> int:
    """The value of an expression."""
    if isinstance(expression, int):
        return expression
    operator, items = expression
    return _VALUE[operator]([value_of(item) for item in items])


def _median(values: Sequence[int]) -> int:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) // 2


_VALUE: Mapping[str, Callable[[Sequence[int]], int]] = {
    "MIN": min,
    "MAX": max,
    "MED": _median,
    "SM": lambda values: sum(values) % 10,
}


def _not_spelled(text: str, why: str) -> BadTask:
    return BadTask(f"listops: expected an expression such as '[MAX 2 9 [MIN 4 7 ] 0 ]', got {text[:80]!r} ({why})")


@dataclass(frozen=True)
class _Level:
    """The nodes of one depth of all trees, in the order of their parents."""

    tree: Int64[np.ndarray, " nodes"]
    parent: Int64[np.ndarray, " nodes"]
    is_list: Bool[np.ndarray, " nodes"]
    items: Int64[np.ndarray, " nodes"]
    sign: Int64[np.ndarray, " nodes"]  # the digit, or the number of the operator

    def of(self, kept: Bool[np.ndarray, " trees"], parents: Int64[np.ndarray, " parents"]) -> tuple[_Level, np.ndarray]:
        """The nodes of some trees, and the new index of each old node. ``parents`` has the new indices of the level above."""
        stays = kept[self.tree]
        level = _Level(
            self.tree[stays], parents[self.parent[stays]], self.is_list[stays], self.items[stays], self.sign[stays]
        )
        return level, np.cumsum(stays) - 1


@dataclass(frozen=True)
class _Forest:
    """Trees as levels from the roots, and which of them have a length within the limits."""

    levels: tuple[_Level, ...]
    fits: Bool[np.ndarray, " trees"]

    def some(self, n: int) -> Expressions:
        """Up to n of the trees that fit, in order, as tokens with their values."""
        kept = self.fits & (np.cumsum(self.fits) <= n)
        levels, parents = [], np.zeros(1, dtype=np.int64)
        for level in self.levels:
            smaller, parents = level.of(kept, parents)
            levels.append(smaller)
        if not kept.any():
            nothing = np.zeros(0, dtype=np.int64)
            return Expressions(nothing, nothing, nothing)
        values, lengths = _upwards(levels)
        return _tokens(levels, values[0], lengths)


def _grow(generator: np.random.Generator, task: ListOps) -> _Forest:
    """Samples trees whose roots are lists. Other trees are single digits, which are too short."""
    tree, parent = np.arange(_TREES), np.zeros(_TREES, dtype=np.int64)
    levels, tokens = [], np.zeros(_TREES, dtype=np.int64)
    for depth in range(1, task.depth + 1):
        is_list = np.full(len(tree), depth == 1)
        if 1 < depth < task.depth:
            is_list = generator.random(len(tree)) < _LIST
        items = np.where(is_list, generator.integers(_FEWEST, task.items + 1, size=len(tree)), 0)
        sign = np.where(
            is_list, generator.integers(len(OPERATORS), size=len(tree)), generator.integers(10, size=len(tree))
        )
        levels.append(_Level(tree, parent, is_list, items, sign))
        np.add.at(tokens, tree, 1 + is_list)
        going = items * (tokens[tree] < task.longest)  # trees that are too long need not grow
        parent = np.repeat(np.arange(len(tree)), going)
        tree = tree[parent]
        if not len(tree):
            break
    return _Forest(tuple(levels), (tokens > task.shortest) & (tokens < task.longest))


def _upwards(levels: Sequence[_Level]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Values and lengths in tokens of all nodes, level by level."""
    values, lengths = [level.sign.copy() for level in levels], [1 + level.is_list.astype(np.int64) for level in levels]
    for depth in range(len(levels) - 2, -1, -1):
        lists = np.flatnonzero(levels[depth].is_list)
        if len(lists):
            values[depth][lists] = _evaluated(values[depth + 1], levels[depth].items[lists], levels[depth].sign[lists])
        np.add.at(lengths[depth], levels[depth + 1].parent, lengths[depth + 1])
    return values, lengths


def _evaluated(
    below: Int64[np.ndarray, " items"], counts: Int64[np.ndarray, " lists"], operator: Int64[np.ndarray, " lists"]
) -> Int64[np.ndarray, " lists"]:
    """The values of lists whose items are contiguous."""
    starts = np.cumsum(counts) - counts
    owner = np.repeat(np.arange(len(counts)), counts)
    ordered = below[np.lexsort((below, owner))]
    low, high = ordered[starts + (counts - 1) // 2], ordered[starts + counts // 2]
    by_operator = (
        ordered[starts],
        ordered[starts + counts - 1],
        (low + high) // 2,
        np.add.reduceat(below, starts) % 10,
    )
    return np.choose(operator, by_operator)


def _tokens(levels: Sequence[_Level], values: np.ndarray, lengths: Sequence[np.ndarray]) -> Expressions:
    """The tokens of all trees. A node follows the sign of its parent and its earlier siblings."""
    ends = np.cumsum(lengths[0])
    tokens = np.zeros(ends[-1], dtype=np.int64)
    start = ends - lengths[0]
    for depth, level in enumerate(levels):
        tokens[start] = level.sign + np.where(level.is_list, _OPERATOR, _DIGIT)
        tokens[(start + lengths[depth] - 1)[level.is_list]] = _CLOSE
        if depth + 1 < len(levels) and len(levels[depth + 1].parent):
            parent, length = levels[depth + 1].parent, lengths[depth + 1]
            before = np.cumsum(length) - length  # of all siblings and of the children of earlier parents
            first = np.concatenate([[True], parent[1:] != parent[:-1]])
            start = start[parent] + 1 + before - np.maximum.accumulate(np.where(first, before, 0))
    return Expressions(tokens, ends, values)


def _joined(parts: Sequence[Expressions]) -> Expressions:
    offsets = np.cumsum([0, *(len(part.tokens) for part in parts[:-1])])
    return Expressions(
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([part.ends + offset for part, offset in zip(parts, offsets, strict=True)]),
        np.concatenate([part.values for part in parts]),
    )

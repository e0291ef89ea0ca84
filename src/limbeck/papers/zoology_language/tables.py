"""The tables of the recipe's page, from the numbers in its reproduction.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.papers.zoology_language.readings import ALL, ELSEWHERE, HITS
from limbeck.report.words import count, share, size

Numbers = Mapping[str, Any]


def tables(numbers: Numbers) -> Sequence[str]:
    """All models with their perplexity, recall, state and speed, then nats and gaps on hits by training count and distance."""
    return (
        "## All models",
        "A gap is in nats per token more than attention of the same size and seeds; ± is half a 95 % interval over documents "
        "and seeds. A row's state is in float32. Tokens/s are those of a CPU second of one thread where the run was on a CPU, in "
        "training and in generation of one text.",
        _table(
            ("model", "size", "seeds", "perplexity", "gap", "on hits", "elsewhere", "of the gap on hits", "state of a row",
             "tokens/s, trained", "generated"),
            [_model(arm, name, one) for arm, sizes in numbers["arms"].items() for name, one in sizes.items()],
        ),
        "## Recall hits by training count and by distance",
        "Nats per token of hits, by the count of their bigram in the training text and by the tokens back to where it occurred "
        f"last, at {numbers['smallest']} parameters.",
        _table(
            ("model", *_bins(numbers, "by_count", "seen "), *_bins(numbers, "by_distance", "back ")),
            [
                (arm, *(_nats(found) for key in ("by_count", "by_distance") for found in _cells(numbers, one, key)))
                for arm, one in _smallest(numbers).items()
            ],
        ),
    )  # fmt: skip


def _model(arm: str, name: str, one: Numbers) -> tuple[str, ...]:
    gaps = one["gap"]
    lies = one["share_on_hits"]
    return (
        arm,
        f"{name} ({count(one['without_embeddings'])})",
        str(one["seeds"]),
        _nats(one["perplexity"], digits=2),
        *(_nats(gaps[part]) if gaps else "" for part in (ALL, HITS, ELSEWHERE)),
        f"{share(lies['value'])} ({share(lies['low'])} to {share(lies['high'])})" if lies else "",
        size(one["state_bytes"]),
        _speed(one["tokens_per_s"]),
        _speed(one["generated_per_s"]),
    )


def _smallest(numbers: Numbers) -> dict[str, Numbers]:
    return {arm: sizes[numbers["smallest"]] for arm, sizes in numbers["arms"].items() if numbers["smallest"] in sizes}


def _names(numbers: Numbers, key: str) -> list[str]:
    """The bins that have tokens. All models were measured on the same text."""
    return list(next(iter(_smallest(numbers).values()))[key])


def _bins(numbers: Numbers, key: str, word: str) -> list[str]:
    return [f"{word}{name}" for name in _names(numbers, key)]


def _cells(numbers: Numbers, one: Numbers, key: str) -> list[Numbers]:
    return [one[key][name] for name in _names(numbers, key)]


def _nats(found: Numbers, *, digits: int = 3) -> str:
    """A value with half its interval; without one where documents were too few for it."""
    if found["low"] is None or found["high"] is None:
        return f"{found['value']:.{digits}f}"
    return f"{found['value']:.{digits}f} ± {(found['high'] - found['low']) / 2:.{digits}f}"


def _speed(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))

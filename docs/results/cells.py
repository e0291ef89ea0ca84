"""How numbers of committed files are written in the cells of tables."""

from collections.abc import Callable, Sequence
from statistics import median

from study_rows import bounds, read

Lines = Sequence[Sequence[str]]
Tables = dict[str, dict[str, Callable[[], str]]]  # by page, in its order


def table(head: str, lines: Lines) -> str:
    """A table with a head of cells between bars."""
    columns = head.split("|")
    rows = [[one.strip() for one in columns], ["---"] * len(columns), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def spread(values: Sequence[float], digits: int = 0) -> str:
    """The median with the least and the most."""
    middle, least, most = (f"{one:,.{digits}f}" for one in (median(values), min(values), max(values)))
    return f"{middle} ({least} to {most})"


def within(found: dict, digits: int = 3, *, sign: str = "") -> str:
    """A value with its interval."""
    value, low, high = (f"{one:{sign}.{digits}f}" for one in bounds(found))
    return f"{value} ({low} to {high})"


def readings(folder: str) -> dict[tuple[str, str], dict]:
    """By model and name; all seeds together where there are several."""
    found = sorted(read(f"{folder}/readings.jsonl"), key=lambda one: one["seed"] is None)
    return {(one["model"], one["name"]): one for one in found}

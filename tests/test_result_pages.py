"""Every decimal figure in the prose of a study's page is a number of its committed files, at its printed precision.

Tables are compared in test_headlines.py, and pages of reproductions are written whole by limbeck. What is derived from several
numbers is in ``DERIVED``, computed. Whole numbers, as of sizes and seeds, are not looked for.
"""

import json
import re
from itertools import chain

import pyarrow.parquet as pq
import pytest
from scipy.stats import t

from tests.test_headlines import RESULTS, TEXTS, at

PAGES = sorted(
    page.parent.name for page in RESULTS.glob("*/README.md") if not (page.parent / "reproduction.json").exists()
)
FREE = re.compile(r"```.*?```|`[^`]*`|\]\([^)]*\)|<!--.*?-->|^\|[^\n]*$|arXiv [\d.]+", re.DOTALL | re.MULTILINE)
DECIMAL = re.compile(r"(?<![\w.])\d[\d,]*\.(\d+)(?!\d)")
SCALES = (1, 100, 1e-3, 1e-6, 1 / 1024)  # as it is, in percent, thousands, millions, KiB


def leaves(value):
    """All numbers in a JSON value, those of its texts and keys too."""
    if isinstance(value, dict):
        yield from chain.from_iterable(leaves(one) for pair in value.items() for one in pair)
    elif isinstance(value, list):
        yield from chain.from_iterable(map(leaves, value))
    elif isinstance(value, str):
        yield from (float(one.replace(",", "")) for one in re.findall(r"\d[\d,]*(?:\.\d+)?", value))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield abs(float(value))


def numbers_of(page):
    found = set()
    for file in (RESULTS / page).rglob("*"):
        if file.suffix == ".json":
            found |= set(leaves(json.loads(file.read_text(encoding="utf-8"))))
        elif file.suffix == ".jsonl":
            found |= set(leaves([json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]))
        elif file.suffix == ".parquet":
            found |= set(leaves(pq.read_table(file).to_pylist()))
    return found


def chunk_tokens():
    """Tokens of the student in a chunk that is aligned, on both texts, chunks merged or not."""
    found = chain.from_iterable(at(f"alignment/{text}.json", "aligned").values() for text in TEXTS)
    return [one["student_tokens"] / one["chunks"] for one in found]


DERIVED = {
    "alignment": chunk_tokens,
    "caches": lambda: [
        1 - at(f"caches/{text}.json", "certificates", "coarse", "exact_mass", "value") for text in TEXTS
    ],
    "law-coverage": lambda: [0.005],  # the noise of the pilots, a setting
    "verdicts": lambda: [t.ppf(1 - 0.05 / 4 / 2, 2)],
}


@pytest.mark.parametrize("page", PAGES)
def test_every_figure_of_the_prose_is_one_of_the_files(page):
    text = FREE.sub("", (RESULTS / page / "README.md").read_text(encoding="utf-8"))
    known = [scale * number for number in {*numbers_of(page), *DERIVED.get(page, list)()} for scale in SCALES]
    missing = []
    for found in DECIMAL.finditer(text):
        value, digits = float(found[0].replace(",", "")), len(found[1])
        if not any(abs(number - value) <= 0.5000001 * 10**-digits for number in known):
            missing.append(text[max(0, found.start() - 40) : found.end() + 20])
    assert missing == []


@pytest.mark.parametrize("page", ["performance.md", *(f"{page}/README.md" for page in PAGES)])
def test_no_table_is_typed_by_hand(page):
    text = (RESULTS / page).read_text(encoding="utf-8")
    left = re.sub(r"<!-- (made by index\.py|table \S+): begin -->.*?<!-- \1: end -->", "", text, flags=re.DOTALL)
    assert [line for line in left.splitlines() if line.startswith("|")] == []

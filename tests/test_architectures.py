"""The architectures that pages list are those that the code knows."""

import re
from pathlib import Path

import pytest

from limbeck.models.anatomy import SUPPORTED
from limbeck.models.experts import DENSE
from limbeck.models.gguf.families import FAMILIES, GGUF_MODEL_TYPES

ROOT = Path(__file__).parents[1]
PRUNED = {"gemma3" if name == "gemma3_text" else name for name in SUPPORTED}
WRITTEN = {"gemma3" if name == "gemma3_text" else name for name in GGUF_MODEL_TYPES}


@pytest.mark.parametrize(
    ("page", "listed", "known"),
    [
        ("README.md", r"Pruning knows ([^.;]+)[.;]", PRUNED),
        ("docs/explain/pruning-by-table.md", r"These have one: ([^.;]+)[.;]", PRUNED),
        ("README.md", r"Mixtures of experts of ([^.]+) become dense", set(DENSE)),
        ("docs/explain/pruning-by-table.md", r"They become dense before they are pruned: ([^.]+)[.]", set(DENSE)),
        ("docs/how-to/export.md", r"\n\| ([a-z0-9_, ]+) \| yes \|", WRITTEN),
        ("docs/how-to/gguf.md", r"\n\| limbeck \| ([^|]+) \|", set(FAMILIES)),
    ],
)
def test_a_list_of_architectures_names_what_the_code_knows(page, listed, known):
    text = (ROOT / page).read_text(encoding="utf-8")
    (found,) = re.findall(listed, text)
    assert set(re.split(r", | and ", re.sub(r" \([^)]*\)", "", found))) == known

"""The figures of recipes: PNG files in one style, whole or not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORS = ("#1d4ed8", "#c2410c", "#047857", "#7c3aed", "#b45309", "#0e7490", "#475569")
_STYLE = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9, "legend.frameon": False}


@contextmanager
def drawn(file: Path) -> Iterator[Axes]:
    """Axes to draw on; what is on them is then written."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained", dpi=110)
        yield figure.subplots()
        beside = file.with_name(f".{file.name}.partial")
        figure.savefig(beside, format="png")
        beside.replace(file)

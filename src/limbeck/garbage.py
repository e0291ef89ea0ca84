"""When Python searches for garbage: not while modules load, and not while memory is measured.

A search follows every object that the process holds. Loading torch and Transformers makes half a million of them, next to none of
which become garbage, and would be interrupted by about a thousand searches.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unsearched() -> Iterator[None]:
    """No search for garbage begins by itself in the block."""
    searches = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searches:
            gc.enable()


@contextmanager
def loading() -> Iterator[None]:
    """The same for a block that imports; what it made counts as old from there on, which only a full search looks at."""
    with unsearched():
        yield
        if not gc.get_freeze_count():  # otherwise what the process froze itself would be unfrozen too
            gc.freeze()
            gc.unfreeze()  # into the oldest generation

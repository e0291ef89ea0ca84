"""Silences Transformers while limbeck calls it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers import logging as transformers_logging


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Turns off Transformers' log, progress bars and warnings meanwhile. limbeck checks and reports what matters."""
    level, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    if level != transformers_logging.ERROR:  # a change empties the caches of all loggers
        transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if level != transformers_logging.ERROR:
            transformers_logging.set_verbosity(level)
        if bar:
            transformers_logging.enable_progress_bar()

"""A training that is stopped, as by Ctrl-C, before one of its steps."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from limbeck.run.run import Run


@contextmanager
def stopped_before(number: int) -> Iterator[None]:
    """Stops the first training within that gets to step ``number``, and fails where none does."""
    step = Run._step

    def stopping(self, here, *given):
        if here == number:
            raise KeyboardInterrupt
        return step(self, here, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            yield

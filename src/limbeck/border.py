"""Faults of what was given, however deep in a library they show, become one message.

A reader of ours says itself what is wrong with a file. What is left are faults that any of them may meet: a name that the system
refuses, a text nested too deeply for a parser, more memory than there is. Anything else is a fault of limbeck's and keeps its
traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from limbeck.errors import BadFolder, BadSetting, OutOfMemory


@contextmanager
def explained() -> Iterator[None]:
    """Raises a LimbeckError in the place of what the system, a parser or an allocator raised."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        raise BadFolder(
            f"{where}{error.strerror or error}. Give a file or folder that is there and that you may read or write"
        ) from error
    except RecursionError as error:
        raise BadSetting(
            "something that was given is nested too deeply to be read: an objective, a TOML or JSON file, or a file's header. "
            "Flatten it"
        ) from error
    except MemoryError as error:
        raise OutOfMemory(_MEMORY) from error
    except RuntimeError as error:
        if not _is_allocation(error):
            raise
        raise OutOfMemory(f"{_MEMORY} ({str(error).strip().splitlines()[0]})") from error


_MEMORY = (
    "there is not enough memory for this. What was saved is kept; limbeck doctor says beforehand what a run takes: give a "
    "smaller --batch-tokens, --seq-len or student"
)


def _is_allocation(error: RuntimeError) -> bool:
    """Whether torch could not allocate: its class on a GPU, its words on a CPU."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)

"""Turns faults of the input that surface in the system, a parser or an allocator into one message.

limbeck's readers report what is wrong with a file. Three faults can occur in any of them: the system refuses a name, a text is
nested too deeply for a parser, memory runs out. Every other exception is a fault of limbeck and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from limbeck.errors import BadFolder, BadSetting, OutOfMemory, first_line, is_allocation


@contextmanager
def explained() -> Iterator[None]:
    """Raises BadFolder for an OSError, BadSetting for a RecursionError, OutOfMemory for a failed allocation.

    All other exceptions pass unchanged, and so does a broken pipe.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        raise BadFolder(
            f"{where}{error.strerror or error}. Give a file or folder that exists and that you may read or write"
        ) from error
    except RecursionError as error:
        raise BadSetting(
            "an input is nested too deeply to be read: an objective, a TOML or JSON file, or a file's header. Flatten it"
        ) from error
    except MemoryError as error:
        raise OutOfMemory(_MEMORY) from error
    except RuntimeError as error:
        if not is_allocation(error):
            raise
        raise OutOfMemory(f"{_MEMORY} ({first_line(error)})") from error


_MEMORY = (
    "there is not enough memory. What was saved is kept. Give a smaller --micro-batch, --seq-len or student; limbeck doctor "
    "estimates the memory of a run beforehand"
)

"""The errors of limbeck, one class for each kind of remedy.

Every message has four parts: what was expected, what came, where from, and what to do. The command line prints the message
without a traceback and exits with ``status``.
"""


class LimbeckError(Exception):
    """An error that the user can act on; the base class of all others here. ``status`` is the command line's exit status."""

    status = 2


class BadSetting(LimbeckError):
    """A setting of a run (a key, a flag or its value) is not allowed."""


class BadCorpus(LimbeckError):
    """A dataset or text file is missing, empty, unreadable, or too short."""


class BadRecord(BadCorpus):
    """One record of a dataset cannot be read. The others can, so that a few may be skipped."""


class BadModel(LimbeckError):
    """A model folder cannot be loaded, or limbeck does not support its architecture."""


class BadShape(LimbeckError):
    """No student shape meets the requested size."""


class BadObjective(LimbeckError):
    """An objective is unknown, or its parameters are not allowed."""


class BadPlugin(LimbeckError):
    """A package adds something to limbeck that cannot be imported or used, or a name that is taken."""


class BadTask(LimbeckError):
    """A task is unknown, or its file does not hold prompts and answers."""


class Mismatch(LimbeckError):
    """Teacher, student, tokenizer or dataset do not belong together."""


class BadServer(LimbeckError):
    """A server cannot be reached, does not return what is needed, or fails too many requests."""


class BadPoints(LimbeckError):
    """A table or folder of measurements cannot be read, or does not determine a scaling law."""


class BadFolder(LimbeckError):
    """An output folder cannot be written, or contains another run."""


class NothingToLearn(LimbeckError):
    """All tokens of an optimiser step have weight 0."""


class NonFiniteLoss(LimbeckError):
    """The loss or a gradient is NaN or infinite. No parameter was updated."""

    status = 1


class OutOfMemory(LimbeckError):
    """The machine or a GPU has too little memory."""

    status = 1


class OtherRankStopped(LimbeckError):
    """Another process of the same run ended, so that sums over all processes are no longer possible."""

    status = 1


class NotConverged(LimbeckError):
    """A fit found no optimum. ``best`` is the law with the smallest loss found: to inspect, not to plan with."""

    status = 1

    def __init__(self, message: str, best: object) -> None:
        super().__init__(message)
        self.best = best


class Interrupted(BaseException):
    """A signal stopped the run, and the state was saved. ``status`` is 128 + the signal's number.

    It is no `Exception`, so that code which catches a library's exceptions does not catch it.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.status = 128 + signal_number


def is_allocation(error: BaseException) -> bool:
    """Whether an exception says that memory could not be allocated: a class of its own on a GPU, a text on a CPU."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(part in text for part in ("can't allocate memory", "out of memory", "ALLOC_FAILED"))
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

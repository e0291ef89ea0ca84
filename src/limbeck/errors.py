"""What a user can do wrong, one class per thing the user could do about it.

Every message says what was expected, what came, where from, and what to do. The command line prints it alone, without a
traceback, and exits with ``status``.
"""


class LimbeckError(Exception):
    """A stop with a reason the user can act on. ``status`` is the exit status of the command line."""

    status = 2


class BadSetting(LimbeckError):
    """A key, flag or value of a run is not one of those allowed."""


class BadCorpus(LimbeckError):
    """A source of text is missing, empty, unreadable, or too short."""


class BadRecord(BadCorpus):
    """One record of a text cannot be read; those around it can, so that a few may be skipped."""


class BadModel(LimbeckError):
    """A model folder cannot be loaded, or the model is of a kind limbeck cannot handle."""


class BadShape(LimbeckError):
    """No legal student fits what was asked for."""


class BadObjective(LimbeckError):
    """An objective's text or parameters are not understood."""


class BadPlugin(LimbeckError):
    """A package adds something to limbeck that cannot be imported or used, or a name that is taken."""


class BadTask(LimbeckError):
    """A task is unknown, or its file does not hold prompts and answers."""


class Mismatch(LimbeckError):
    """Teacher, student, tokenizer or data do not belong together."""


class BadServer(LimbeckError):
    """A model's server cannot be reached, does not give what is needed, or leaves too much unanswered."""


class BadPoints(LimbeckError):
    """A table or folder of what was measured cannot be read, or does not determine a law."""


class BadFolder(LimbeckError):
    """An output folder cannot be written, or holds another run's state."""


class NothingToLearn(LimbeckError):
    """A whole optimiser step has no token of weight > 0."""


class NonFiniteLoss(LimbeckError):
    """The loss or a gradient is NaN or infinite; nothing was updated."""

    status = 1


class OutOfMemory(LimbeckError):
    """The machine or a GPU has not the memory that was asked for."""

    status = 1


class OtherRankStopped(LimbeckError):
    """Another process of the same run ended, so that nothing can be summed over them any more."""

    status = 1


class NotConverged(LimbeckError):
    """A fit found no optimum. ``best`` is the law with the least loss it saw, to look at, not to plan with."""

    status = 1

    def __init__(self, message: str, best: object) -> None:
        super().__init__(message)
        self.best = best


class Interrupted(BaseException):
    """A signal asked for an end; the state was saved. ``status`` is 128 + the signal's number.

    No `Exception`: whoever catches what a library raises would take it for a fault of that library.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.status = 128 + signal_number


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

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


class BadModel(LimbeckError):
    """A model folder cannot be loaded, or the model is of a kind limbeck cannot handle."""


class BadShape(LimbeckError):
    """No legal student fits what was asked for."""


class BadObjective(LimbeckError):
    """An objective's text or parameters are not understood."""


class BadTask(LimbeckError):
    """A task is unknown, or its file does not hold prompts and answers."""


class BadPoints(LimbeckError):
    """What was measured does not determine a law: a folder without results, or with too few sizes of model."""


class Mismatch(LimbeckError):
    """Teacher, student, tokenizer or data do not belong together."""


class BadFolder(LimbeckError):
    """An output folder cannot be written, or holds another run's state."""


class NothingToLearn(LimbeckError):
    """A whole optimiser step has no token of weight > 0."""


class NonFiniteLoss(LimbeckError):
    """The loss or a gradient is NaN or infinite; nothing was updated."""

    status = 1


class Interrupted(LimbeckError):
    """A signal asked for an end; the state was saved. ``status`` is 128 + the signal's number."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.status = 128 + signal_number

"""The context of a probe beside the models: seed, task, and the held-out text in rows of a suitable length."""

from __future__ import annotations

from limbeck.config import ProbeSettings
from limbeck.corpora import TokenStore
from limbeck.jobs.common.environment import Environment, row_length
from limbeck.jobs.common.held_out import HeldOut
from limbeck.jobs.probe.text import Text, Texts
from limbeck.models.language_model import LanguageModel
from limbeck.run.log import console


class Context:
    """The context of one probe. ``measured_on`` describes its text, ``counted_in`` its training text; "" if it reads none."""

    def __init__(
        self, probe: str, settings: ProbeSettings, environment: Environment, texts: Texts, shortest: LanguageModel
    ) -> None:
        """``shortest`` is the model with the shorter context."""
        self.seed, self.task, self.tasks = settings.seed, settings.task, settings.tasks
        self.target, self.guard, self.styles = settings.target, settings.guard, settings.styles
        self.measured_on = self.counted_in = ""
        self._probe, self._settings, self._environment = probe, settings, environment
        self._texts, self._shortest = texts, shortest

    def held_out(self) -> HeldOut:
        """The held-out text. Sets its description."""
        return self._rows_of(self._texts.whole)

    def split(self) -> tuple[TokenStore, str, HeldOut]:
        """The training part, its description, and the held-out part of the text."""
        train, self.counted_in, text = self._texts.for_slices()
        return train, self.counted_in, self._rows_of(text)

    def note(self, text: str) -> None:
        """Prints a note beside readings."""
        console.print(text)

    def _rows_of(self, text: Text) -> HeldOut:
        model = self._shortest
        length = row_length(self._settings, model.context, self._environment.world.device, name=model.name)
        held_out = HeldOut(text.store, length=length, environment=self._environment, without=text.without)
        self.measured_on = text.description + held_out.description
        console.print(f"{self._probe} {'are' if self._probe.endswith('s') else 'is'} measured on {self.measured_on}")
        return held_out

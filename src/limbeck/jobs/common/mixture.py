"""The mixture of a training's text: which rows are of which source, and what is said about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from limbeck.config import Settings, TeacherSettings
from limbeck.corpora import Rows, TokenStore
from limbeck.corpora.mixture import Mixture
from limbeck.corpora.pack import Blend
from limbeck.errors import BadSetting
from limbeck.jobs.common.environment import batch_rows
from limbeck.report.words import share
from limbeck.run.log import console
from limbeck.run.optim import Schedule, falls_from

_FALLS = 0.8  # of a training with the schedule wsd, about, where its steps are not known yet


@dataclass(frozen=True)
class Length:
    """How long a training is: ``steps`` steps of ``rows`` rows of ``length`` tokens."""

    steps: int
    rows: int
    length: int


def blend_of(data: str, *, steps: int, rows: int, schedule: Schedule) -> Blend | None:
    """How ``steps`` steps of ``rows`` rows are shared among the sources of --data; None for one without weights.

    A stage begins with a step. Raises BadCorpus for a mixture that is wrong, or whose stages do not fit the schedule.
    """
    mixture = Mixture.of(data)
    if mixture is None:
        return None
    begins = mixture.begins(falls_from(steps) / steps if schedule == "wsd" else None)
    first = {round(begin * steps) * rows: stage.shares for begin, stage in zip(begins, mixture.stages, strict=True)}
    return Blend(tuple(first), tuple(first.values()))  # of two stages that begin with one step the later one


def check_frequent(settings: TeacherSettings) -> None:
    """Raises BadSetting for a number of tokens to keep of a mixture: the most frequent ones depend on its weights."""
    if isinstance(settings.vocab, int) and Mixture.of(settings.data) is not None:
        raise BadSetting(
            f"--vocab {settings.vocab}: the most frequent tokens are counted without weights of sources in --data: give --vocab "
            "auto, which keeps all that the sources use, or leave it out"
        )


def wanted_tokens(settings: Settings, *, length: int | None = None, ranks: int = 1) -> tuple[int, ...]:
    """The training tokens of each source of --data after which one that is streamed is read no further; none for all of it.

    ``length``: tokens of a row, of ``ranks`` processes, which say when each stage of a mixture begins; about, where it is not
    known.
    """
    training = None
    if length is not None and settings.tokens is not None:
        rows, steps = batch_rows(settings, length, ranks)
        training = Length(steps, rows, length)
    return wanted_of(settings.data, settings.tokens, getattr(settings, "text_tokens", None), training)


def wanted_of(
    data: str, tokens: int | None, text_tokens: int | None, training: Length | None = None
) -> tuple[int, ...]:
    """`wanted_tokens` of the values of --data, --tokens and --text-tokens, for a training."""
    mixture = Mixture.of(data)
    if mixture is None:
        return tuple(filter(None, (text_tokens or tokens,)))
    if tokens is None:
        return ()
    if training is None:
        return tuple(mixture.budgets(tokens, _FALLS))
    blend = blend_of(data, steps=training.steps, rows=training.rows, schedule="wsd")  # which a stage "annealed" needs
    assert blend is not None, "of a mixture"
    return blend.tokens(training.steps * training.rows, length=training.length)


def mixture_facts(store: TokenStore, rows: Rows, taken: int) -> dict[str, Any]:
    """What run.json holds of a mixture, of which a training reads ``taken`` rows; nothing where there is none."""
    if "sources" not in store.manifest:
        return {}
    passes = rows.passes(taken).tolist()
    return {
        "mixture": [one | {"passes": number} for one, number in zip(store.manifest["sources"], passes, strict=True)]
    }


def print_mixture(facts: dict[str, Any]) -> None:
    """Prints how often each source of a mixture is read, and which of them run out."""
    found = facts.get("mixture", ())
    read = [one["passes"] * one["tokens"] for one in found]
    for one, tokens in zip(found, read, strict=True):
        often = (
            f"{one['passes']:.2f} of its {one['tokens']:,} tokens"
            if one["passes"] <= 1
            else f"{one['tokens']:,} tokens"
        )
        again = f", read {one['passes']:.1f} times: it runs out, and begins again" if one["passes"] > 1 else ""
        console.print(f"text: {share(tokens / sum(read))} of {one['source']}: {often}{again}")

"""The probe ``style``: whether a model answers each kind of task in the style that its teacher was told to use.

A student of answers whose instructions were erased has to choose the style by itself (Orca 2, arXiv 2311.11045, sec. 3). Styles
are told apart by a regular expression for each strategy (`corpora.strategies`); no instruction is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from limbeck.corpora import Columns, Prompt, prompts_of
from limbeck.corpora.prompt import repeats
from limbeck.corpora.records import STRATEGY
from limbeck.corpora.strategies import Strategy, strategies_of
from limbeck.corpora.tasks.checked import Checked
from limbeck.corpora.tasks.checked_prompts import checked_of
from limbeck.errors import BadCorpus, BadSetting
from limbeck.generation.served import STOP, Completion
from limbeck.models.language_model import LanguageModel
from limbeck.probes.constraints.answers import greedy_answers
from limbeck.probes.interval import Interval, bootstrap, mean_interval, paired_shares, share_interval, uncertain
from limbeck.probes.named import ProbeContext, probe
from limbeck.types import Reading

MOST = 512  # tokens of an answer
_TOKENS, _BY_CHANCE = "style_tokens", "style_by_chance"
_MEANS = (_TOKENS, _BY_CHANCE)  # numbers of an answer that are not 0 or 1

Numbers = Float[np.ndarray, " prompts"]


@dataclass(frozen=True)
class _Asked:
    """Prompts, the strategies by name, and the index of that of each prompt. ``checks`` are () where not all have one."""

    prompts: Sequence[Prompt]
    strategies: Mapping[str, Strategy]
    fitting: np.ndarray
    checks: Sequence[Checked]


@probe("style", reads=("task", "styles", "teacher"))
def probe_style(model: LanguageModel, teacher: LanguageModel | None, context: ProbeContext) -> Iterator[Reading]:
    """Shares of greedy answers in the fitting style, over all prompts and by strategy, and what they would be by chance.

    Beside them the shares in any known style, that ended, that repeat words of a message, and, where every prompt has an answer,
    that are right; tokens an answer; with a teacher, which reads no message either, paired differences. Prompts are the sampling
    unit. Raises BadSetting without prompts or styles, BadCorpus for a strategy without a pattern and a prompt without one of
    them.
    """
    asked = _asked(context)
    context.note(
        f"{len(asked.prompts):,} prompts of {len(asked.strategies)} strategies, answered without an instruction"
    )
    mine, fits = _measured(model, asked)
    for name, numbers in mine.items():
        yield _reading(model, name, _level(name, numbers))
    fitting = mine["style_fitting"]
    for index, strategy in enumerate(asked.strategies):
        own = fitting[asked.fitting == index]
        if len(own):
            yield _reading(model, f"style_fitting_of_{strategy}", _level("", own))
    if len(fitting) > 1:
        yield _reading(model, "style_fitting_minus_chance", _beyond_chance(fits, asked.fitting))
    if teacher is not None:
        for name, numbers in _measured(teacher, asked)[0].items():
            ones, mean = np.ones_like(numbers), name in _MEANS
            found = mean_interval(mine[name] - numbers, ones) if mean else paired_shares(mine[name], numbers, ones)
            yield _reading(teacher, f"teacher_{name}", _level(name, numbers))
            yield _reading(model, f"{name}_minus_teacher", found)


def _asked(context: ProbeContext) -> _Asked:
    if context.task is None or context.styles is None:
        lacks = "--task answered.jsonl" if context.task is None else "--styles strategies.toml"
        raise BadSetting(
            f"--probe style needs prompts with a '{STRATEGY}' beside each, and a pattern for each strategy: give {lacks}"
        )
    strategies = _with_patterns(context.styles)
    prompts = prompts_of(context.task, columns=Columns(prompts=True))
    names = list(strategies)
    for prompt in prompts:
        if (named := prompt.document.strategy) not in names:
            raise BadCorpus(
                f"{prompt.name}: expected a '{STRATEGY}' that --styles has a pattern for ({', '.join(names)}), got "
                f"{'none' if named is None else repr(named)}: add it, or the strategy to {context.styles}"
            )
    if not prompts:
        raise BadCorpus(
            f"{context.task}: expected prompts with a '{STRATEGY}' beside each, got none: name another file"
        )
    checks = [check for prompt in prompts if (check := checked_of(prompt)) is not None]
    fitting = np.array([names.index(prompt.document.strategy) for prompt in prompts])
    return _Asked(prompts, strategies, fitting, checks if len(checks) == len(prompts) else ())


def _with_patterns(file: str) -> dict[str, Strategy]:
    """The strategies of a file. Raises BadCorpus where one has no pattern."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadCorpus(f"--styles {file}: expected a text file in UTF-8: {error}") from error
    found = strategies_of(text, f"--styles {file}")
    if bare := [name for name, one in found.items() if one.pattern is None]:
        raise BadCorpus(
            f"--styles {file}: expected a pattern of each strategy, by which its answers are told from others, got none of "
            f"{bare[0]}: add lines such as [{bare[0]}], system = \"...\", pattern = '####'"
        )
    return found


def _measured(model: LanguageModel, asked: _Asked) -> tuple[dict[str, Numbers], Bool[np.ndarray, "prompts strategies"]]:
    """Numbers of each prompt's answer, by the name of a reading, and which patterns it matches."""
    answers = greedy_answers(model, [prompt.tokens(model.tokenizer) for prompt in asked.prompts], most=MOST)
    fits = _fits(answers, asked.strategies)
    every = np.arange(len(answers))
    fitting = fits[every, asked.fitting].astype(float)
    found = {"style_fitting": fitting}
    if len(answers) > 1:  # answers to other prompts, in the style that fits this one
        found[_BY_CHANCE] = (fits.sum(0)[asked.fitting] - fitting) / (len(answers) - 1)
    found["style_known"] = fits.any(1).astype(float)
    if asked.checks:
        pairs = zip(asked.checks, answers, strict=True)
        found["style_right"] = np.array(
            [check.passes(one.text, ended=one.finish == STOP) is True for check, one in pairs], float
        )
    messages = [one.system for one in asked.strategies.values()]
    found["style_repeats_message"] = np.array(
        [any(repeats(one.text, message) for message in messages) for one in answers], float
    )
    found["style_ended"] = np.array([one.finish == STOP for one in answers], float)
    found[_TOKENS] = np.array([one.tokens for one in answers], float)
    return found, fits


def _beyond_chance(fits: Bool[np.ndarray, "prompts strategies"], fitting: np.ndarray) -> Interval:
    """How many more answers fit their prompt than fit another one, with an interval over prompts, by which both are counted."""
    wanted = np.eye(fits.shape[1])[fitting]
    own = (fits * wanted).sum(1, keepdims=True)
    columns = np.concatenate([np.ones_like(own), own, wanted, fits], 1)

    def statistic(total: np.ndarray) -> np.ndarray:
        n, own, rest = total[..., :1], total[..., 1:2], total[..., 2:]
        of_strategy, matching = np.split(rest, 2, axis=-1)
        others = (of_strategy * matching).sum(-1, keepdims=True) - own
        return own / n - others / (n * (n - 1))

    return uncertain(bootstrap(statistic, columns[None])[0])[0]


def _fits(answers: Sequence[Completion], strategies: Mapping[str, Strategy]) -> Bool[np.ndarray, "answers strategies"]:
    """Which answers match the pattern of which strategy."""
    return np.array([[strategy.fits(one.text) for strategy in strategies.values()] for one in answers])


def _level(name: str, numbers: Numbers) -> Interval:
    return (mean_interval if name in _MEANS else share_interval)(numbers, np.ones_like(numbers))


def _reading(model: LanguageModel, name: str, found: Interval) -> Reading:
    unit = "tokens/answer" if _TOKENS in name else "share"
    return Reading(model.name, "style", name, found.value, unit, found.n, found.low, found.high)

"""State spaces by their initial spectrum: how well each reproduces a delayed signal, and its loss on text.

The two halves may disagree. Delays need frequencies, so a real spectrum should fail there. On text, Mamba's ablation (arXiv
2312.00752, table 8) has the real spectrum better than a complex one.

    limbeck reproduce s4d --scale smoke | small | gpu        half a minute | 20 minutes of a core | not yet timed
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from limbeck.errors import NonFiniteLoss
from limbeck.papers.lab.paired import gain, mean, with_interval
from limbeck.papers.lab.plots import draw_delays
from limbeck.papers.lab.rates import TUNING, best_rates
from limbeck.papers.lab.recipe import ClaimResult, Outcome, Recipe, RecipeContext, Short, Verdict, of_seeds
from limbeck.papers.lab.search import doubtful
from limbeck.papers.lab.text import KEPT, text_of
from limbeck.papers.lab.trainings import Trainings
from limbeck.papers.s4d.delay import DelayCell, train_delay, tune_delay
from limbeck.papers.s4d.text import TextCell, train_text, tune_text
from limbeck.probes.interval import Interval, bootstrap
from limbeck.report.words import interval

# The register, criteria.json, has the date of each.
NAMED = ("legs", "inv", "lin")  # the spectra with spread frequencies
LEAST = 0.05  # share of variance: a smaller difference does not matter
HOLDS = 0.9  # share of variance at the shortest delay, which every arm should learn
LEAST_NATS = 0.01  # on text: one per cent of perplexity

Errors = Float[np.ndarray, "seeds rows 2"]  # the squared error and the squared target of each row
Losses = Float[np.ndarray, "seeds documents 2"]  # nats and tokens


@dataclass(frozen=True)
class Arm:
    """A spectrum and a method of discretisation."""

    spectrum: str
    method: str = "zoh"


BILINEAR = "legs, bilinear"
ARMS = {name: Arm(name) for name in (*NAMED, "real", "random")} | {BILINEAR: Arm("legs", "bilinear")}


@dataclass(frozen=True)
class Delays:
    """The trainings on delays. Delays of at least ``long`` are judged, the others are controls."""

    delays: tuple[int, ...]
    long: int
    length: int
    channels: int
    state: int
    band: float
    steps: int
    tuning_steps: int
    rows: int
    tested: int


@dataclass(frozen=True)
class Text:
    """The trainings on text."""

    vocab: int
    width: int
    layers: int
    state: int
    length: int
    steps: int
    tuning_steps: int
    rows: int
    measured: int


@dataclass(frozen=True)
class Scale:
    """Both halves, and the candidate learning rates of each arm."""

    delays: Delays
    text: Text
    delay_rates: tuple[float, ...]
    text_rates: tuple[float, ...]


SCALES = {
    "smoke": Scale(
        Delays((2, 8), 8, 16, 2, 8, 0.25, 5, 0, 4, 10), Text(259, 16, 1, 8, 16, 3, 0, 2, 8), (1e-2,), (5e-3,)
    ),
    "small": Scale(
        Delays((16, 64, 256, 900), 256, 1024, 16, 64, 0.0625, 300, 100, 8, 100),
        Text(1024, 64, 2, 64, 256, 300, 100, 8, 128),
        (1e-2, 3e-3),
        (1e-2, 3e-3),
    ),
    "gpu": Scale(
        Delays((64, 256, 1024, 3600), 1024, 4096, 64, 64, 0.0625, 2000, 500, 32, 500),
        Text(4096, 256, 4, 64, 1024, 3000, 500, 32, 512),
        (1e-2, 3e-3, 1e-3),
        (1e-2, 3e-3, 1e-3),
    ),
}  # fmt: skip


def run(context: RecipeContext) -> Outcome:
    """Trains both halves and judges the claims."""
    scale = SCALES[context.scale]
    delays, delay_rates, spent = _delays(context, scale)
    losses, text_rates, spent_on_text = _text(context, scale)
    long = [delay for delay in scale.delays.delays if delay >= scale.delays.long]
    judged = (
        *(judge_behind(name, delays, long) for name in ("real", "random")),
        judge_same("S4D-Inv", "inv", delays, "S4D-Inv holds what S4D-LegS does, of which it is the closed form."),
        judge_same("the bilinear rule", BILINEAR, delays, "The zero-order hold and the bilinear rule do not differ."),
        judge_text("lin", losses),
        judge_method(losses),
    )
    figure = context.out / "delays.png"
    explained = {arm: {delay: held(found) for delay, found in rows.items()} for arm, rows in delays.items()}
    draw_delays(explained, figure)
    return Outcome(
        _ours(scale, context) + ends(delay_rates, text_rates, scale),
        tuple(of_seeds(one, context.seeds) for one in judged),
        {
            "rates": {"delays": delay_rates, "text": text_rates},
            "explained": {
                arm: {str(delay): vars(found) for delay, found in row.items()} for arm, row in explained.items()
            },
            "text": {arm: vars(mean(found)) for arm, found in losses.items()},
            "text_by_seed": {
                arm: (found[..., 0].sum(1) / found[..., 1].sum(1)).tolist() for arm, found in losses.items()
            },
        },
        {
            figure: "Variance of the delayed input that is explained, by delay; bars are 95 % intervals over rows and seeds."
        },
        spent + spent_on_text,
    )


def ends(delay_rates: Mapping[str, float], text_rates: Mapping[str, float], scale: Scale) -> str:
    """The arms of both halves whose best rate is at an end of the candidates."""
    on_delays = doubtful({f"{arm} (delays)": rate for arm, rate in delay_rates.items()}, scale.delay_rates)
    return on_delays + doubtful({f"{arm} (text)": rate for arm, rate in text_rates.items()}, scale.text_rates)


def held(rows: Errors) -> Interval:
    """The share of explained variance, over rows and seeds. A constant output of 0 has 0."""
    return bootstrap(lambda total: 1 - total[..., :1] / total[..., 1:], rows)[0]


def held_more(more: Errors, less: Errors) -> Interval:
    """The paired difference in explained variance on the same rows and seeds."""
    columns = np.stack([less[..., 0] - more[..., 0], more[..., 1]], -1)
    return bootstrap(lambda total: total[..., :1] / total[..., 1:], columns)[0]


def judge_behind(name: str, delays: Mapping[str, Mapping[int, Errors]], long: Sequence[int]) -> ClaimResult:
    """Judges whether all named spectra are better than another on long delays, while it learns the shortest delay as well."""
    gains = {(arm, delay): held_more(delays[arm][delay], delays[name][delay]) for arm in NAMED for delay in long}
    shortest = min(delays[name])
    control = held(delays[name][shortest])
    verdict: Verdict = "inconclusive"
    if any(found.high < LEAST for found in gains.values()):
        verdict = "refuted"
    elif min(found.low for found in gains.values()) > LEAST and control.value >= HOLDS:
        verdict = "confirmed"
    return ClaimResult(
        f"On long delays the named spectra (LegS, Inv, Lin) hold more than a {name} one.",
        f"Confirmed: each explains at least {LEAST:.0%} more of the variance at each delay of {min(long)} or more, by the whole "
        f"95 % interval over rows and seeds, and the {name} one explains {HOLDS:.0%} at the shortest delay, so that it can be "
        f"trained. Refuted: one of them, at one of these delays, is surely less than {LEAST:.0%} better. Inconclusive otherwise.",
        verdict,
        "; ".join(f"{arm} at {delay} {interval(found, '+.1%')} more" for (arm, delay), found in gains.items())
        + f"; {name} at {shortest} explains {interval(control, '.1%')}; {_size(delays[name][shortest], 'rows')}.",
    )


def judge_same(title: str, name: str, delays: Mapping[str, Mapping[int, Errors]], claim: str) -> ClaimResult:
    """Judges whether an arm explains as much variance as LegS at every delay."""
    gains = {delay: held_more(delays[name][delay], delays["legs"][delay]) for delay in delays["legs"]}
    first = next(iter(delays["legs"].values()))
    return ClaimResult(
        claim,
        f"Confirmed: at every delay {title} is within {LEAST:.0%} of the variance of S4D-LegS with the zero-order hold, by the "
        "whole 95 % interval. Refuted: at one it is further off, by the whole of it. Inconclusive otherwise.",
        _within(list(gains.values()), LEAST),
        "; ".join(f"at {delay} {interval(found, '+.1%')}" for delay, found in gains.items())
        + f"; {_size(first, 'rows')}.",
    )


def judge_text(against: str, losses: Mapping[str, Losses]) -> ClaimResult:
    """Judges whether the real spectrum is better than a complex one on text."""
    found = gain(losses[against], losses["real"])
    verdict: Verdict = "inconclusive"
    if found.low > 0:
        verdict = "confirmed"
    elif found.high < 0:
        verdict = "refuted"
    others = "; ".join(f"{arm} {interval(mean(rows), '.3f')}" for arm, rows in losses.items())
    return ClaimResult(
        "On text the order is another: a real spectrum predicts better than the complex S4D-Lin.",
        "Confirmed: it needs fewer nats per held-out token, by the whole 95 % interval over documents and seeds. Refuted: more, "
        "by the whole of it. Inconclusive otherwise.",
        verdict,
        f"{with_interval(found)} nats better than {against}; nats per token: {others}; {_size(losses['real'], 'documents')}.",
    )


def judge_method(losses: Mapping[str, Losses]) -> ClaimResult:
    """Judges whether the method of discretisation matters on text."""
    found = gain(losses["legs"], losses[BILINEAR])
    return ClaimResult(
        "On text, too, the zero-order hold and the bilinear rule do not differ.",
        f"Confirmed: the difference is within {LEAST_NATS} nats per token by the whole 95 % interval over documents and seeds. "
        "Refuted: it is beyond, by the whole of it. Inconclusive otherwise.",
        _within([found], LEAST_NATS),
        f"{with_interval(found)} nats better than the zero-order hold; {_size(losses['legs'], 'documents')}.",
    )


def _within(found: Sequence[Interval], least: float) -> Verdict:
    if any(one.low > least or one.high < -least for one in found):
        return "refuted"
    return "confirmed" if all(-least < one.low and one.high < least for one in found) else "inconclusive"


def _size(rows: np.ndarray, what: str) -> str:
    return f"n = {rows.shape[1]:,} {what}, {len(rows)} seeds"


def _delays(context: RecipeContext, scale: Scale) -> tuple[dict[str, dict[int, Errors]], dict[str, float], float]:
    """Errors by arm and delay, the rates chosen at the shortest judged delay, and the CPU seconds of all trainings."""
    size, folder = scale.delays, context.out / "delays"
    trainings = Trainings(replace(context, out=folder), train_delay)
    tuning = Trainings(replace(context, out=folder / "tuning"), tune_delay)
    seeds = range(context.seed, context.seed + context.seeds)
    tuned = {
        arm: {
            rate: _delay_cell(size, arm, size.long, rate, context.seed + TUNING, size.tuning_steps)
            for rate in scale.delay_rates
        }
        for arm in ARMS
    }
    rates = best_rates(tuning, tuned, lambda result: math.fsum(result["error"]))
    cells = {
        (arm, delay): [_delay_cell(size, arm, delay, rates[arm], seed, size.steps) for seed in seeds]
        for arm in ARMS
        for delay in size.delays
    }
    results = _results(trainings, cells)
    found: dict[str, dict[int, Errors]] = {arm: {} for arm in ARMS}
    for (arm, delay), rows in results.items():
        found[arm][delay] = np.array([[one["error"], one["wanted"]] for one in rows]).swapaxes(1, 2)
    return found, rates, trainings.cpu_seconds() + tuning.cpu_seconds()


def _text(context: RecipeContext, scale: Scale) -> tuple[dict[str, Losses], dict[str, float], float]:
    """Nats and tokens by arm, the chosen rates, and the CPU seconds of all trainings."""
    size, folder = scale.text, context.out / "text"
    vocab = text_of(folder, context.data or "python:stdlib", vocab=size.vocab, length=size.length)
    readers = context.out / "readers"
    trainings = Trainings(replace(context, out=readers), partial(train_text, folder=folder))
    tuning = Trainings(replace(context, out=readers / "tuning"), partial(tune_text, folder=folder))
    seeds = range(context.seed, context.seed + context.seeds)
    cell = partial(_text_cell, size, vocab)
    tuned = {
        arm: {rate: cell(arm, rate, context.seed + TUNING, size.tuning_steps) for rate in scale.text_rates}
        for arm in ARMS
    }
    rates = best_rates(tuning, tuned, lambda result: math.fsum(result["nats"]))
    results = _results(trainings, {arm: [cell(arm, rates[arm], seed, size.steps) for seed in seeds] for arm in ARMS})
    losses = {
        arm: np.array([[one["nats"], one["tokens"]] for one in rows]).swapaxes(1, 2) for arm, rows in results.items()
    }
    return losses, rates, trainings.cpu_seconds() + tuning.cpu_seconds()


def _results(trainings: Trainings, cells: Mapping[Any, Sequence[Any]]) -> dict[Any, list[dict[str, Any]]]:
    """The results of cells, after training them. Raises NonFiniteLoss if one diverged, since its arm has no result then."""
    trainings.do(cell for row in cells.values() for cell in row)
    found = {key: [trainings.result(cell) for cell in row] for key, row in cells.items()}
    for key, row in found.items():
        if any(one["failed"] for one in row):
            raise NonFiniteLoss(
                f"s4d, {key}: a training with the rate that was best for another seed ended in a loss that is no number: give "
                "another --seed"
            )
    return found


def _delay_cell(size: Delays, arm: str, delay: int, rate: float, seed: int, steps: int) -> DelayCell:
    chosen = ARMS[arm]
    return DelayCell(
        name=f"{_slug(arm)}-delay{delay}-rate{rate:.0e}-seed{seed}",
        spectrum=chosen.spectrum,
        method=chosen.method,
        delay=delay,
        length=size.length,
        channels=size.channels,
        state=size.state,
        band=size.band,
        steps=steps,
        rate=rate,
        seed=seed,
        rows=size.rows,
        tested=size.tested,
    )


def _text_cell(size: Text, vocab: int, arm: str, rate: float, seed: int, steps: int) -> TextCell:
    chosen = ARMS[arm]
    return TextCell(
        name=f"{_slug(arm)}-rate{rate:.0e}-seed{seed}",
        spectrum=chosen.spectrum,
        method=chosen.method,
        vocab=vocab,
        width=size.width,
        layers=size.layers,
        state=size.state,
        length=size.length,
        steps=steps,
        rate=rate,
        seed=seed,
        rows=size.rows,
        measured=size.measured,
    )


def _slug(arm: str) -> str:
    return arm.replace(", ", "-")


def _ours(scale: Scale, context: RecipeContext) -> str:
    delays, text = scale.delays, scale.text
    return (
        f"Delays of {', '.join(map(str, delays.delays))} steps in rows of {delays.length:,}, noise with the lowest "
        f"{delays.band:.0%} of all frequencies; one linear layer of {delays.channels} state spaces of {delays.state} dimensions, "
        f"{delays.steps:,} steps of {delays.rows} fresh rows. Text: decoders of {text.layers} S4D layers with MLPs, width "
        f"{text.width}, a vocabulary of {text.vocab:,}, {text.steps:,} steps of {text.rows} rows of {text.length} tokens of "
        f"{context.data or 'python:stdlib'}, measured on its held-out documents. {context.seeds} seeds of each; rates of "
        f"{', '.join(f'{rate:.0e}' for rate in scale.delay_rates)} (delays) and "
        f"{', '.join(f'{rate:.0e}' for rate in scale.text_rates)} (text), the best for each arm on another seed, in fewer "
        f"steps, by rows (delays) or one in {KEPT} of the training documents (text) that these trainings did not "
        "read; A and the step of time at most at 0.001, without decay."
    )


RECIPE = Recipe(
    name="s4d",
    title="State spaces by their spectrum",
    paper="On the Parameterization and Initialization of Diagonal State Space Models, arXiv 2206.11893",
    claim="A diagonal state space works as well as one that is not, if it starts with the right complex eigenvalues: those of "
    "HiPPO-LegS without its low-rank part, or closed forms near them. Real or random ones remember less. How time is made "
    "discrete does not matter. On language a real spectrum was later found better (Mamba, arXiv 2312.00752).",
    differences=(
        "Delays of noise and a small language model, there Long Range Arena, images and speech; the delay task is that of a "
        "companion paper (arXiv 2206.12037).",
        "The random spectrum is ours: real parts -exp(N(0, 1)) / 2, imaginary parts N(0, 1).",
        "The real spectrum has N real states where the complex ones have N / 2 conjugate pairs, and stays real.",
        "B is 1 and is not trained; filters read the past alone, there both directions.",
        "The comparison on text is Mamba's, there inside a selective state space; here the state spaces select nothing.",
        "Learning rates are chosen at one delay and on another seed, with the same rates for all arms.",
    ),
    run=run,
    scales=SCALES,
    short={
        "than a real one": Short("Named spectra hold longer delays than a real one", "legs at [^;]+"),
        "than a random one": Short("Named spectra hold longer delays than a random one", "legs at [^;]+"),
        "S4D-Inv holds": Short("S4D-Inv equals S4D-LegS", "[^;]+; [^;]+(?=; n =)"),
        "On text, too": Short("On text, too, the bilinear rule equals the zero-order hold"),
        "hold and the bilinear rule do not differ.": Short(
            "The bilinear rule equals the zero-order hold", "[^;]+; [^;]+(?=; n =)"
        ),
        "the order is another": Short("On text a real spectrum is better than S4D-Lin"),
    },
)

"""Open-MOPD: what routing rows to several teachers leaves of their headroom, and weights of domains that recover it.

The paper is "Open-MOPD" (arXiv 2608.19098), on multi-teacher on-policy distillation (MOPD, arXiv 2606.30406): a student's own
answers in each domain are judged by the specialist of that domain. Routing alone recovered 35.6 % of the headroom there, since
short answers have hardly any of the tokens; three changes recovered 83.4 %. Ours are small decoders on two domains of checked
tasks: chains of operations with long derivations, and letters of which the last in the alphabet is answered at once.

    limbeck reproduce open-mopd --scale smoke | small | gpu        half a minute | an hour of a core, not yet timed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from limbeck.papers.lab.plots import draw_by_arm
from limbeck.papers.lab.rates import TUNING, searched_rates
from limbeck.papers.lab.recipe import ClaimResult, Outcome, Recipe, RecipeContext, Short, of_seeds, with_failures
from limbeck.papers.lab.right import Right
from limbeck.papers.lab.search import BestRates
from limbeck.papers.lab.trainings import Trainings
from limbeck.papers.open_mopd.judging import (
    judge_all,
    judge_gaps,
    judge_naive,
    judge_on_policy,
    judge_refreshed,
    judge_shares,
    recovered,
)
from limbeck.papers.open_mopd.training import (
    ALL,
    ARMS,
    DOMAINS,
    GAPS,
    INNER,
    NAIVE,
    NAIVE_EACH,
    SEPARATE,
    SHARES,
    SHARES_EACH,
    SHORT,
    SPECIALIST,
    START,
    TAUGHT,
    TUNED,
    Cell,
    answer_tokens,
    train_cell,
)
from limbeck.probes.interval import Interval, share_interval
from limbeck.report.words import interval, share

JOINT = tuple(arm for arm in ARMS if arm != SEPARATE)  # students of all domains


@dataclass(frozen=True)
class Scale:
    """Decoders on chains of ``length`` operations and letters, ``rows`` of each in an update.

    The start learns ``steps`` steps and a specialist ``own_steps``, its domain's, of ``learned_rows``; a distillation learns
    ``tokens``. Separate students share these as their domains do. Of ``rates`` each arm has its best.
    """

    length: int
    rows: tuple[int, ...]
    width: int
    layers: int
    heads: int
    learned_rows: tuple[int, ...]
    steps: int
    own_steps: tuple[int, ...]
    rate: float
    tokens: int
    tested: int
    rates: tuple[float, ...]


SCALES = {
    "smoke": Scale(1, (2, 2), 16, 1, 2, (2, 2), 3, (3, 3), 3e-3, 200, 4, (1e-3,)),
    "small": Scale(3, (32, 8), 48, 2, 4, (32, 4), 800, (1200, 600), 3e-3, 500_000, 400, (3e-4, 1e-3, 3e-3)),
    "gpu": Scale(
        10, (128, 32), 512, 6, 8, (256, 64), 2000, (4000, 2000), 1e-3, 20_000_000, 2000, (1e-4, 3e-4, 1e-3)
    ),
}  # fmt: skip

Results = Mapping[str, Sequence[Mapping[str, Any]]]  # of an arm, one a seed


def run(context: RecipeContext) -> Outcome:
    """Trains starts, specialists and students, and judges all claims."""
    scale = SCALES[context.scale]
    trainings = Trainings(context, partial(train_cell, folder=context.out / "nets"))
    rates, found = _found(trainings, scale, context)
    figure = context.out / "open-mopd.png"
    draw_by_arm(
        {domain: {name: _of(found, name, domain).mean(1).tolist() for name in READINGS} for domain in DOMAINS},
        guess=0.1,
        file=figure,
    )
    return Outcome(
        _ours(scale, rates, found, context),
        tuple(of_seeds(one, context.seeds) for one in judged(found)),
        _numbers(found, rates),
        {
            figure: "Share of test items of each domain whose greedy answer is right, by arm; a point for each seed. Dotted: "
            "one of ten, a guess of a chain's value."
        },
        trainings.cpu_seconds(),
    )


def judged(found: Results) -> list[ClaimResult]:
    """The result of each claim, from the results of all arms."""
    start, ceiling = right(found, START), right(found, SPECIALIST)
    arm = {name: right(found, name) for name in (*JOINT, SEPARATE)}
    short, short_anew = (
        _of(found, ours, SHORT) - _of(found, theirs, SHORT)
        for ours, theirs in ((SHARES, NAIVE), (SHARES_EACH, NAIVE_EACH))
    )
    late = {name: right(found, name, -1) for name in (TAUGHT, TUNED)}
    judgements = {
        (NAIVE, SEPARATE): judge_naive(arm[NAIVE], arm[SEPARATE], start, ceiling),
        (SHARES, NAIVE): judge_shares(arm[SHARES], arm[NAIVE], start, ceiling, short),
        (GAPS, SHARES): judge_gaps(arm[GAPS], arm[SHARES], start, ceiling),
        (ALL, GAPS): judge_refreshed(arm[ALL], arm[GAPS], start, ceiling),
        (ALL, NAIVE): judge_all(arm[ALL], arm[NAIVE], start, ceiling),
        (SHARES_EACH, NAIVE_EACH): judge_shares(
            arm[SHARES_EACH], arm[NAIVE_EACH], start, ceiling, short_anew, anew=True
        ),
        (SHARES_EACH, TAUGHT, TUNED): judge_on_policy(
            arm[SHARES_EACH], (arm[TAUGHT], late[TAUGHT]), (arm[TUNED], late[TUNED])
        ),
    }
    return [with_failures(one, {name: _trained(found, name) for name in names}) for names, one in judgements.items()]


def right(found: Results, reading: str, mark: int = 0) -> Right:
    """The right answers to the items of all domains in turn, by seed, of a model or of the one that each domain has."""
    return np.concatenate([_of(found, reading, domain, mark) for domain in DOMAINS], 1)


def _of(found: Results, reading: str, domain: str, mark: int = 0) -> Right:
    """The right answers to the items of one domain, by seed."""
    own = reading in (SPECIALIST, SEPARATE)
    rows = found[_own(reading, domain) if own else reading]
    answers = np.array([one["right"][mark] for one in rows], dtype=float)
    return answers if own else np.split(answers, len(DOMAINS), 1)[[*DOMAINS].index(domain)]


def _trained(found: Results, name: str) -> list[Mapping[str, Any]]:
    """All trainings of an arm."""
    if name == SEPARATE:
        return [one for domain in DOMAINS for one in found[_own(name, domain)]]
    return [*found[name]]


def _own(name: str, domain: str) -> str:
    return f"{name} {domain}"


def _found(trainings: Trainings, scale: Scale, context: RecipeContext) -> tuple[BestRates, Results]:
    """The rate of each arm, and all results."""
    seeds, tuning = range(context.seed, context.seed + context.seeds), context.seed + TUNING
    before = {START: [_start(scale, seed) for seed in seeds]} | {
        _own(SPECIALIST, domain): [_specialist(scale, domain, seed) for seed in seeds] for domain in DOMAINS
    }
    prepared = [cell for row in before.values() for cell in row]
    if len(scale.rates) > 1:
        prepared += [_start(scale, tuning), *(_specialist(scale, domain, tuning) for domain in DOMAINS)]
    trainings.do(cell for cell in prepared if cell.arm == START)
    trainings.do(prepared)
    arms = {name: (name, [*DOMAINS]) for name in JOINT} | {
        _own(SEPARATE, domain): (SEPARATE, [domain]) for domain in DOMAINS
    }
    rates = searched_rates(
        trainings,
        arms,
        scale.rates,
        lambda name, rate: _student(scale, *arms[name], tuning, rate, tuning=True),
        lambda result: 1 - float(np.mean(result["right"][0])),
    )
    students = {name: [_student(scale, *arm, seed, rates[name]) for seed in seeds] for name, arm in arms.items()}
    return rates, trainings.results(before | students)


def _start(scale: Scale, seed: int) -> Cell:
    return _cell(
        scale, f"start-seed{seed}", START, [*DOMAINS], seed, scale.rate, rows=scale.learned_rows, steps=scale.steps
    )


def _specialist(scale: Scale, domain: str, seed: int) -> Cell:
    return _cell(
        scale,
        f"specialist-{domain}-seed{seed}",
        SPECIALIST,
        [domain],
        seed,
        scale.rate,
        rows=scale.learned_rows,
        steps=scale.own_steps[[*DOMAINS].index(domain)],
        start=f"start-seed{seed}",
    )


def _student(scale: Scale, arm: str, domains: Sequence[str], seed: int, rate: float, *, tuning: bool = False) -> Cell:
    lengths = (answer_tokens(domain, scale.length) for domain in DOMAINS)
    spent = {domain: rows * length for domain, rows, length in zip(DOMAINS, scale.rows, lengths, strict=True)}
    name = arm.replace(",", "").replace(" ", "-") + ("" if len(domains) > 1 else f"-{domains[0]}")
    return _cell(
        scale,
        f"{name}-rate{rate:.1e}-seed{seed}",
        arm,
        domains,
        seed,
        rate,
        start=f"start-seed{seed}",
        teachers=tuple(f"specialist-{domain}-seed{seed}" for domain in domains),
        tokens=round(scale.tokens * sum(spent[domain] for domain in domains) / sum(spent.values())),
        tuning=tuning,
    )


def _cell(
    scale: Scale,
    name: str,
    arm: str,
    domains: Sequence[str],
    seed: int,
    rate: float,
    *,
    rows: Sequence[int] = (),
    **others: Any,
) -> Cell:
    of = dict(zip(DOMAINS, rows or scale.rows, strict=True))
    return Cell(
        name=name,
        arm=arm,
        seed=seed,
        rate=rate,
        domains=tuple(domains),
        rows=tuple(of[domain] for domain in domains),
        length=scale.length,
        width=scale.width,
        layers=scale.layers,
        heads=scale.heads,
        tested=scale.tested,
        **others,
    )


READINGS = (START, SPECIALIST, SEPARATE, *JOINT)


def _ours(scale: Scale, rates: BestRates, found: Results, context: RecipeContext) -> str:
    """What was done here, in a few sentences."""
    shares = ", ".join(f"{domain} {share(one, digits=1)}" for domain, one in _mean(found[NAIVE], "shares").items())
    prompts = ", ".join(f"{domain} {rows}" for domain, rows in zip(DOMAINS, scale.rows, strict=True))
    return (
        f"Decoders of {scale.layers} layers and width {scale.width} learned chains of {scale.length} operations and letters for "
        f"{scale.steps:,} steps; a specialist of each domain was tuned from that on its own. Students began "
        f"as the start and learned {scale.tokens:,} tokens each ({prompts} rows an update, {shares} of the tokens); a batch of "
        f"answers served {INNER} updates where not said otherwise, and {context.seeds} seeds. The ceiling is that of routed "
        f"specialists. Of {rates.number} rates each arm had its best, with another seed.{rates.doubt}"
    )


def _numbers(found: Results, rates: Mapping[str, float]) -> dict[str, Any]:
    """The figures as JSON, an entry for each reading."""
    start, ceiling = right(found, START), right(found, SPECIALIST)

    def of_reading(name: str, mark: int = 0) -> dict[str, Any]:
        answers = right(found, name, mark)
        rows = [] if name in (START, SPECIALIST, SEPARATE) else found[name]
        return {
            "reading": name + (" at equal FLOPs" if mark else ""),
            "accuracy": asdict(share_interval(answers.sum(0), np.full(answers.shape[1], float(len(answers))))),
            "recovered": None if name == START else asdict(recovered(answers, start, start, ceiling)),
            "by_domain": {domain: float(_of(found, name, domain, mark).mean()) for domain in DOMAINS},
            "shares": _mean(rows, "shares"),
            "weights": _mean(rows, "weights"),
            "tokens": [one["tokens"][mark] for one in rows],
            "flops": [one["flops"][mark] for one in rows],
        }

    late = [of_reading(name, -1) for name in (TAUGHT, TUNED)]
    return {"rates": dict(rates), "readings": [of_reading(name) for name in READINGS] + late}


def _mean(rows: Sequence[Mapping[str, Any]], what: str) -> dict[str, float]:
    """Means over seeds by domain; none of no rows."""
    return {domain: float(np.mean([one[what][domain] for one in rows])) for domain in DOMAINS} if rows else {}


def tables(numbers: Mapping[str, Any]) -> list[str]:
    """A table of all readings."""
    head = (
        f"| arm | headroom recovered | {' | '.join(DOMAINS)} | tokens: {', '.join(DOMAINS)} | weights |\n"
        f"|---|---|{'---|' * len(DOMAINS)}---|---|"
    )
    return ["\n".join([head, *(_row(one) for one in numbers["readings"])])]


def _row(one: Mapping[str, Any]) -> str:
    found, shares, weights = one["recovered"], one["shares"], one["weights"]
    cells = [
        one["reading"],
        "" if found is None or found["value"] is None else interval(Interval(**found), ".2f"),
        *(share(one["by_domain"][domain], digits=1) for domain in DOMAINS),
        ", ".join(share(shares[domain], digits=1) for domain in DOMAINS) if shares else "",
        ", ".join(f"{weights[domain]:.2f}" for domain in DOMAINS) if weights else "",
    ]
    return f"| {' | '.join(cells)} |"


RECIPE = Recipe(
    name="open-mopd",
    title="Weights of domains in distillation from several teachers",
    paper="Open-MOPD, arXiv 2608.19098",
    claim="Routing each row of a student's own answers to the teacher of its domain recovers 35.6 % of the headroom of these "
    "teachers, since a domain of short answers has hardly any of the tokens. Weights of domains by target over observed token "
    "share and by the remaining gap, and a reward with the student's present log-probabilities, recover 83.4 %.",
    differences=(
        "Small decoders trained here on two domains, chains and letters, where the paper has mathematics, code and instructions.",
        "Specialists are tuned on right answers; the paper's are trained by reinforcement.",
        "The ceiling is that of routed specialists, as in the paper. Its headroom was 6.7 points, ours is many times that, so "
        "effects are compared as shares of the headroom.",
        "The reward is of all tokens in place of the student's most probable ones, without the clipped ratio of probabilities; "
        "with present log-probabilities its gradient is that of KL(student || teacher).",
        "As in the released code, weights are of a batch of answers and have mean 1 over its tokens; the factor of the gap is a "
        f"domain's mean divergence over the mean of all, clipped; {INNER} updates take a part of a batch each.",
        "Equal weights of domains are the target; one prompt in five has a short answer, as in the paper.",
        "New answers for each update, as limbeck distil has them, one teacher for all rows, students of one domain each, and the "
        "teachers' answers with the same weights, at equal tokens and FLOPs, are ours to compare with. Learning rates are "
        "constant, the best of a few.",
    ),
    run=run,
    scales=SCALES,
    tables=tables,
    short={
        "leaves headroom": Short(
            "Routing alone leaves headroom that separate students recover", "separate students [^;]+ more"
        ),
        "with new answers": Short("So it does with new answers for each update", "[^;]+ more"),
        "target over the observed": Short("Target over observed token share recovers more", "[^;]+ more"),
        "remaining divergence": Short("Following the remaining gap recovers more", "[^;]+ more"),
        "anew in each": Short("A reward computed anew recovers more", "[^;]+ more"),
        "All three": Short("All three recover much more", "[^;]+ more"),
        "own answers teach": Short("The student's own answers teach more than the teachers'", "difference [^;]+"),
    },
)

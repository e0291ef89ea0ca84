"""Light-IF: whether tuning that spares a model's entropy leaves more to a reward for instructions with several constraints.

The paper is "Light-IF: Endowing LLMs with Generalizable Reasoning via Preview and Self-Checking for Complex Instruction
Following" (Wang et al., arXiv 2508.03178). A model is first tuned on the tokens whose loss is large beside the entropy of its own
prediction (`objectives.EntropySelect`), then trained by a reward that counts each constraint. Ours are short strings with rules
(`corpora.tasks.ruled_strings`): a decoder knows single rules, is tuned on strings with three, and samples for a reward. Beside
the selection stand tuning on all tokens, on as many tokens at random, and one that is stopped at the same entropy.

    limbeck reproduce light-if --scale smoke | small | gpu        half a minute | half an hour of a core | not yet timed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from limbeck.papers.lab.plots import draw_by_arm
from limbeck.papers.lab.rates import TUNING, best_rates
from limbeck.papers.lab.recipe import ClaimResult, Outcome, Recipe, RecipeContext, Short, of_seeds, with_failures
from limbeck.papers.lab.right import Right
from limbeck.papers.lab.search import doubtful
from limbeck.papers.lab.trainings import Trainings
from limbeck.papers.light_if.judging import judge_entropy, judge_plain, judge_reward, judge_selection
from limbeck.papers.light_if.training import ALL, DROP, EACH, EARLY, SELECT, SPARSE, START, Cell, train_cell
from limbeck.probes.interval import share_interval
from limbeck.report.words import share

ARMS = (SELECT, DROP, EARLY, ALL, SPARSE)
TUNED = (SELECT, DROP, ALL)  # arms that have a learning rate of their own; the others have that of all tokens


@dataclass(frozen=True)
class Scale:
    """Strings with so many ``rules``, and the decoder that writes them.

    The start has ``start_steps`` on single rules; a tuning ``steps`` on ``shown`` strings, ``rows`` a step; the reward
    ``reward_steps`` of ``prompts``, each sampled ``samples`` times. Of ``rates`` and ``reward_rates`` the best is taken.
    """

    rules: int
    shown: int
    width: int
    layers: int
    heads: int
    rows: int
    start_steps: int
    start_rate: float
    steps: int
    rates: tuple[float, ...]
    reward_steps: int
    reward_rates: tuple[float, ...]
    prompts: int
    samples: int
    tested: int


SCALES = {
    "smoke": Scale(2, 40, 16, 1, 2, 4, 4, 3e-3, 3, (1e-3,), 2, (3e-4,), 2, 2, 8),
    "small": Scale(3, 1000, 64, 3, 4, 64, 1500, 1e-3, 300, (3e-4, 1e-3, 3e-3), 80, (1e-4, 3e-4, 1e-3), 16, 8, 400),
    "gpu": Scale(
        5, 20_000, 768, 8, 12, 256, 5000, 3e-4, 500, (3e-5, 1e-4, 3e-4), 300, (1e-5, 3e-5, 1e-4), 64, 16, 1000
    ),
}

Results = Mapping[str, Sequence[Mapping[str, Any]]]  # of an arm, one a seed


def run(context: RecipeContext) -> Outcome:
    """Trains the starts and all arms, and judges all claims."""
    scale = SCALES[context.scale]
    trainings = Trainings(context, partial(train_cell, folder=context.out / "nets"))
    rates, found = _found(trainings, scale, context)
    right = {arm: _by_prompt(rows, "rewarded", "right") for arm, rows in found.items()}
    entropy = {arm: _by_prompt(rows, "shown", "entropy") for arm, rows in found.items()}
    alike = {kind: float(np.mean([one["shown"]["alike"][kind] for one in found[ALL]])) for kind in ("dense", "sparse")}
    judged: list[ClaimResult] = [
        with_failures(result, {arm: found[arm] for arm in arms})
        for result, arms in (
            (judge_selection(right[SELECT], {arm: right[arm] for arm in (DROP, EARLY)}), (SELECT, DROP, EARLY)),
            (judge_plain(right[SELECT], right[ALL]), (SELECT, ALL)),
            (judge_entropy(entropy[SELECT], entropy[DROP]), (SELECT, DROP)),
            (judge_reward(right[ALL], right[SPARSE], alike), (ALL, SPARSE)),
        )
    ]
    figure = context.out / "light-if.png"
    panels = {
        "before the reward": {arm: _by_prompt(rows, "shown", "right").mean(1).tolist() for arm, rows in found.items()},
        "after the reward": {arm: one.mean(1).tolist() for arm, one in right.items()},
    }
    draw_by_arm(panels, guess=0.0, file=figure)
    return Outcome(
        _ours(scale, rates, context),
        tuple(of_seeds(one, context.seeds) for one in judged),
        _numbers(found, rates),
        {figure: "Share of samples for test prompts that follow all rules, by arm; a point for each seed."},
        trainings.cpu_seconds(),
    )


def _found(trainings: Trainings, scale: Scale, context: RecipeContext) -> tuple[dict[str, float], Results]:
    """The learning rates, and the results of all arms."""
    seeds, tuning = range(context.seed, context.seed + context.seeds), context.seed + TUNING
    several = len(scale.rates) > 1 or len(scale.reward_rates) > 1
    trainings.do(_start(scale, seed) for seed in (*seeds, *([tuning] if several else [])))
    usual = scale.rates[len(scale.rates) // 2]
    tried = {"reward": {rate: _cell(scale, ALL, tuning, usual, rate, tuning=True) for rate in scale.reward_rates}}
    rates = best_rates(trainings, tried, _wrong)
    reward = rates["reward"]
    tried = {arm: {rate: _cell(scale, arm, tuning, rate, reward, tuning=True) for rate in scale.rates} for arm in TUNED}
    rates |= best_rates(trainings, tried, _wrong)
    first = {arm: [_cell(scale, arm, seed, rates[arm], reward) for seed in seeds] for arm in TUNED}
    found = trainings.results(first)
    entropies = [one["shown"]["uncertainty"] for one in found[SELECT]]
    others = {
        EARLY: [
            _cell(scale, EARLY, seed, rates[ALL], reward, entropy=entropy)
            for seed, entropy in zip(seeds, entropies, strict=True)
        ],
        SPARSE: [_cell(scale, SPARSE, seed, rates[ALL], reward) for seed in seeds],
    }
    found |= trainings.results(others)
    return rates, {arm: found[arm] for arm in ARMS}


def _wrong(result: Mapping[str, Any]) -> float:
    return 1 - float(np.mean(result["rewarded"]["right"]))


def _start(scale: Scale, seed: int) -> Cell:
    return Cell(
        name=f"start-seed{seed}",
        arm=START,
        start="",
        seed=seed,
        rate=scale.start_rate,
        steps=scale.start_steps,
        rows=scale.rows,
        shown=0,
        rules=1,
        width=scale.width,
        layers=scale.layers,
        heads=scale.heads,
    )


def _cell(
    scale: Scale,
    arm: str,
    seed: int,
    rate: float,
    reward_rate: float,
    *,
    entropy: float | None = None,
    tuning: bool = False,
) -> Cell:
    name = f"{arm.replace(' ', '-').replace(',', '')}-rate{rate:.1e}-reward{reward_rate:.1e}-seed{seed}"
    return Cell(
        name=name,
        arm=arm,
        start=f"start-seed{seed}",
        seed=seed,
        rate=rate,
        steps=scale.steps,
        rows=scale.rows,
        shown=scale.shown,
        rules=scale.rules,
        width=scale.width,
        layers=scale.layers,
        heads=scale.heads,
        reward_rate=reward_rate,
        reward_steps=scale.reward_steps,
        prompts=scale.prompts,
        samples=scale.samples,
        tested=scale.tested,
        entropy=entropy,
        tuning=tuning,
    )


def _by_prompt(rows: Sequence[Mapping[str, Any]], when: str, what: str) -> Right:
    """What was measured of each prompt, (seeds, prompts), before the reward ("shown") or after it ("rewarded")."""
    return np.array([one[when][what] for one in rows], dtype=float)


def _ours(scale: Scale, rates: Mapping[str, float], context: RecipeContext) -> str:
    """What was done here, in a few sentences."""
    doubt = doubtful({arm: rates[arm] for arm in TUNED}, scale.rates)
    doubt += doubtful({"the reward": rates["reward"]}, scale.reward_rates)
    return (
        f"Decoders of {scale.layers} layers, width {scale.width}, one token a character, learned single rules "
        f"({scale.start_steps:,} steps), were tuned on {scale.shown:,} strings with {scale.rules} rules ({scale.steps} steps of "
        f"{scale.rows}), and trained by a reward ({scale.reward_steps} steps of {scale.prompts} prompts with {scale.samples} "
        f"samples each); {context.seeds} seeds. Of {len(scale.rates)} learning rates each tuning had its best after the reward, "
        f"with another seed, and of {len(scale.reward_rates)} rates all rewards that of tuning on all tokens.{doubt}"
    )


def _numbers(found: Results, rates: Mapping[str, float]) -> dict[str, Any]:
    """The figures as JSON, an entry for each arm."""

    def share_of(rows: Sequence[Mapping[str, Any]], when: str, what: str) -> dict[str, Any]:
        values = _by_prompt(rows, when, what)
        return asdict(share_interval(values.sum(0), np.full(values.shape[1], float(len(values)))))

    def of_arm(arm: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            "arm": arm,
            "rate": rates.get(arm, rates[ALL]),
            "steps": [one["steps"] for one in rows],
            **{
                when: {
                    "right": share_of(rows, when, "right"),
                    "any": share_of(rows, when, "any"),
                    "entropy_nats": float(_by_prompt(rows, when, "entropy").mean()),
                }
                for when in ("shown", "rewarded")
            },
        }

    return {"reward_rate": rates["reward"], "arms": [of_arm(arm, rows) for arm, rows in found.items()]}


def tables(numbers: Mapping[str, Any]) -> list[str]:
    """A table of all arms, before the reward and after it."""
    head = (
        "| arm | steps of tuning | right, before the reward | one of the samples right | entropy, nats | right, after the reward "
        "| one of the samples right | entropy, nats |\n|---|---|---|---|---|---|---|---|"
    )
    rows = []
    for one in numbers["arms"]:
        both = " | ".join(
            f"{share(part['right']['value'], digits=1)} | {share(part['any']['value'], digits=1)} | {part['entropy_nats']:.2f}"
            for part in (one["shown"], one["rewarded"])
        )
        rows.append(f"| {one['arm']} | {np.mean(one['steps']):,.0f} | {both} |")
    return ["\n".join([head, *rows])]


RECIPE = Recipe(
    name="light-if",
    title="Tuning that spares entropy, before a reward for instructions",
    paper="Light-IF: Endowing LLMs with Generalizable Reasoning via Preview and Self-Checking for Complex Instruction "
    "Following, arXiv 2508.03178",
    claim="Tuning on tokens with a large loss for their entropy keeps a model able to explore, and a dense reward then teaches "
    "it to follow several constraints at once.",
    differences=(
        "Small decoders trained here on short strings with rules, where the paper has reasoning models of 1.7B to 32B parameters "
        "and instructions in words. There are no thoughts, so nothing is said of previews and self-checking.",
        "Tokens are chosen by a threshold that keeps the published share (0.8) of those of the last steps, where the paper takes "
        "that share of each micro-batch.",
        f"The reward is 1 for all rules and {EACH:g} for each; it has no term for length. The leave-one-out baseline is that of "
        "RLOO, where the paper has GRPO, and the bonus for the entropy of some tokens is left out: in the published code it is "
        "never reached.",
        "The control of dropped tokens, that of the same entropy, and the sparse reward are ours to compare with.",
    ),
    run=run,
    scales=SCALES,
    tables=tables,
    short={
        "leaves more to a reward": Short(
            "Selection beats dropping at random and stopping early", "difference from [^;]+"
        ),
        "than tuning on all tokens": Short("Selection beats all tokens", "difference [^;]+"),
        "keeps the entropy": Short("Selection keeps entropy", "difference [^;]+"),
        "counts each rule": Short("A reward for each rule beats one for all", "difference [^;]+"),
    },
)

"""PassUntil: unbiased estimates of low pass rates, and the score of a larger model predicted from them.

The answers of the tasks have only one spelling. So each pass probability is known exactly, and estimators and intervals can be
compared with the true values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from limbeck.errors import BadPoints, BadSetting
from limbeck.jobs.predict.job import law_row, point_of
from limbeck.jobs.probe.pass_until import Result
from limbeck.papers.lab.recipe import ClaimResult, Outcome, Recipe, RecipeContext, Short, Verdict
from limbeck.papers.pass_until.estimators import judge_estimators, try_on
from limbeck.papers.pass_until.task_ladder import LADDERS, SUCCESSES, climb
from limbeck.planning.laws.task import TaskLaw, fit, same_size
from limbeck.probes.pass_rate import mean_pass
from limbeck.probes.tasks import MAKERS
from limbeck.report.task_law import draw_estimators, draw_task_law
from limbeck.report.words import interval

ERROR = 0.2  # relative, of a predicted pass rate


def run(context: RecipeContext) -> Outcome:
    """Trains the ladder, counts passes, simulates the estimators, and predicts the largest model of each task.

    Raises BadSetting if ``context`` has data, since the tasks generate their text.
    """
    if context.data is not None:
        raise BadSetting(f"--data {context.data}: pass-until writes its own text, that of its tasks. Leave --data out.")
    results, ladder = climb(context), LADDERS[context.scale]
    trials = try_on(results[ladder.tasks[0]], smoke=context.scale == "smoke")
    judged, figures = [*judge_estimators(trials)], {}
    numbers: dict[str, Any] = {"estimators": [asdict(trial) for model in trials for trial in model]}
    if trials:
        draw_estimators(trials, file := context.out / "estimators.png")
        figures[file] = "Bias of the mean rate by estimator, and how often exact intervals hold the truth."
    for task, found in results.items():
        law = law_of(found)
        judged.append(judge_law(task, law, found))
        numbers[task] = _numbers(law, found)
        if isinstance(law, TaskLaw):
            measured = [(result.parameters, mean_pass(result.counts).value) for result in found]
            draw_task_law(law, measured, found[-1].parameters, file := context.out / f"law-{task}.png")
            figures[file] = f"{task}: measured pass rates by size, both laws, and the model that was held out."
    ours = (
        f"{len(found)} Llamas of {found[0].parameters:,} to {found[-1].parameters:,} parameters, one token a byte, were trained "
        f"on {', '.join(results)}, with {context.seeds} seeds, the largest with one; {len(found[0].counts)} instances a task "
        f"were asked until {SUCCESSES} answers passed or {ladder.max_samples:,} samples were drawn."
    )
    return Outcome(ours, tuple(judged), numbers, figures)


def law_of(results: Sequence[Result]) -> TaskLaw | str:
    """The law of all models except those of the last one's size, or the reason why there is none."""
    try:
        return fit([point_of(r) for r in results if not same_size(r.parameters, results[-1].parameters)])
    except BadPoints as error:
        return str(error)


def judge_law(task: str, law: TaskLaw | str, results: Sequence[Result]) -> ClaimResult:
    """Judges whether the law of the other models predicts the last result."""
    held_out = results[-1]
    found = mean_pass(held_out.counts)
    verdict: Verdict = "inconclusive"
    seen = f"no law was fitted: {law}"
    if isinstance(law, TaskLaw):
        mean, each = law.predict(held_out.parameters)
        far = not (1 - ERROR) * found.low <= each.value <= (1 + ERROR) * found.high
        near = abs(each.value - found.value) <= ERROR * found.value and each.low <= found.value <= each.high
        if law.curvature.kind in ("convex", "concave") or far:
            verdict = "refuted"
        elif near and law.curvature.kind == "linear" and abs(each.value - found.value) < abs(mean.value - found.value):
            verdict = "confirmed"
        seen = (
            f"measured {interval(found, '.3g')}; predicted by instances {interval(each, '.3g')}, by the mean "
            f"{interval(mean, '.3g')}; curvature {interval(law.curvature, '.2g')}, {law.curvature.kind}"
        )
    return ClaimResult(
        f"{task}: the pass rate of a larger model follows from those of smaller ones by PU(N) = exp(-c N^-alpha), fitted to each "
        "instance better than to the mean.",
        f"Confirmed: the prediction by instances is within {ERROR:.0%} of the largest model's measured mean, its interval "
        "holds it, the prediction by the mean is further off, and the curvature of F in log N holds 0. Refuted: it is off by "
        f"more than {ERROR:.0%} from all of the measured interval, or F bends. Inconclusive otherwise.",
        verdict,
        f"{seen}; n = {len(results) - 1} models fitted, 1 held out, {found.n} instances.",
    )


def _numbers(law: TaskLaw | str, results: Sequence[Result]) -> dict[str, Any]:
    rows = [{"parameters": r.parameters, "file": r.path.name, **asdict(mean_pass(r.counts))} for r in results]
    if isinstance(law, str):
        return {"measured": rows, "law": law}
    predictions = [asdict(prediction) for prediction in law.predict(results[-1].parameters)]
    return {"measured": rows, "law": law_row(law), "predictions": predictions}


RECIPE = Recipe(
    name="pass-until",
    title="A score predicted before training",
    paper="Predicting Emergent Abilities with Infinite Resolution Evaluation, arXiv 2310.03262",
    claim="Sampled until they pass, even tasks that a model hardly ever solves have a rate above 0; the rates follow a law in "
    "the number of parameters, so that small models predict a large one.",
    differences=(
        "The paper's models have 0.03 to 2.4 billion parameters and tasks such as HumanEval; here they have thousands to "
        "millions, and tasks with a single answer.",
        "The paper waits for one or two passes and takes r/K; here it is four, and (r-1)/(K-1).",
        "Instances are fitted by the likelihood of their counts and a common distribution, not each alone with the help of its "
        "loss, for which the paper gives no formula.",
        "One model is held out, of one seed; a model's seed can matter more than its size.",
    ),
    run=run,
    scales=LADDERS,
    short={
        "estimate r/K": Short("r/K is too high, (r-1)/(K-1) has no bias", "^[^;]+"),
        "Exact 95 % intervals": Short("Exact 95 % intervals hold the truth in 95 % of cases", "^[^;]+"),
        **{
            f"{task}: ": Short(
                f"{task}: smaller models predict the pass rate of a larger one",
                "^no law[^;]+|^measured [^;]+; [^;]+(?=, by the mean)",
            )
            for task in MAKERS
        },
    },
)

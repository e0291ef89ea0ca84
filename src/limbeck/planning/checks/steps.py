"""Whether a training has enough optimiser steps for its result to mean anything.

AdamW's average of squared gradients (beta 0.95) reaches over 1 / (1 - 0.95) = 20 steps, warm-up takes 5 % of the steps, and the
schedule "wsd" falls over the last fifth. In 100 steps these are 20, 5 and 20: the fewest at which the average is settled before
the rate falls and most steps are taken at the peak rate. Below that a result shows the schedule and not the objective.
"""

from __future__ import annotations

from limbeck.planning.checks.finding import Finding

FEW_STEPS = 100


def too_few_steps(steps: int) -> str:
    """A warning against a training of so few optimiser steps; "" if there are enough."""
    if steps >= FEW_STEPS:
        return ""
    return (
        f"{steps:,} optimiser step{'' if steps == 1 else 's'}: too few to judge the result by; with fewer than {FEW_STEPS} it "
        "depends on the warm-up and on how AdamW's averages begin"
    )


def step_findings(steps: int, *, batch_tokens: int) -> list[Finding]:
    """A warning where a training of ``steps`` steps of ``batch_tokens`` tokens is too short to judge by; else nothing."""
    if not (message := too_few_steps(steps)):
        return []
    remedy = f"give --tokens {FEW_STEPS * batch_tokens} or more" + (
        ", or a smaller --batch-tokens" if steps > 1 else ""
    )
    return [Finding("steps", "warning", message, remedy)]

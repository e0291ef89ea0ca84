"""Whether a training has enough optimiser steps for a verdict."""

import pytest

from limbeck.planning.checks.steps import FEW_STEPS, step_findings, too_few_steps
from limbeck.run.optim import learning_rate


@pytest.mark.parametrize(("steps", "message"), [(1, "1 optimiser step:"), (99, "99 optimiser steps:")])
def test_a_training_of_few_steps_is_warned_of_by_their_number(steps, message):
    (found,) = step_findings(steps, batch_tokens=1024)
    assert (found.level, found.check) == ("warning", "steps")
    assert found.message.startswith(message)
    assert found.remedy.startswith("give --tokens 102400 or more")


def test_enough_steps_are_not_warned_of():
    assert step_findings(FEW_STEPS, batch_tokens=1024) == []
    assert too_few_steps(FEW_STEPS) == ""


def test_the_threshold_is_where_most_steps_are_at_the_peak_and_adamws_average_is_settled_before_the_rate_falls():
    rates = [learning_rate(step, steps=FEW_STEPS, peak=1.0, schedule="wsd") for step in range(FEW_STEPS)]
    at_peak = [step for step, rate in enumerate(rates) if rate == 1.0]
    assert len(at_peak) > FEW_STEPS / 2
    assert at_peak[-1] > 3 / (1 - 0.95)  # three times the reach of beta 0.95

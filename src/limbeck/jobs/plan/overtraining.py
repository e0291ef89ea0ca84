"""`limbeck plan --samples --trainable --snr`: whether a read-out over-trains, when to stop, and the ridge that does as well.

The answer is for a linear read-out of many inputs, alike in variance and independent (`planning.overtraining`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console

from limbeck.config import Base, PlanSettings
from limbeck.config.flag import flag_of
from limbeck.disk import finite
from limbeck.ending import Ending
from limbeck.errors import BadSetting
from limbeck.planning.overtraining import Readout, Spectrum

MATTERS = 0.05  # a share by which the error rises after the best stop, from which over-training is expected
_QUESTION = {"samples": "--samples", "trainable": "--trainable", "snr": "--snr"}
_ASSUMED = (
    "a linear read-out, which starts at 0, of inputs of variance 1 that are independent of each other; hidden states "
    "are not, and differ",
    "gradient descent on half the mean squared error; others, such as Adam, have other times: go by the training error",
    "labels of variance 1, of which the signal has snr/(1 + snr) and noise the rest",
)


def plan_overtraining(settings: PlanSettings) -> dict[str, Any]:
    """Gives ``{"samples", "trainable", "snr", "ratio", "expected", "rise", "held_out", "training", "stop", ...}``.

    Errors are shares of the labels' variance; ``held_out`` has them at the best stop, at the best ridge, and after training to
    the end, None where they grow without bound. ``stop`` is the learning rate times the number of steps, ``weight_decay`` the
    best ridge.
    """
    _complete(settings)
    assert settings.samples is not None
    assert settings.trainable is not None
    assert settings.snr is not None
    ratio = settings.samples / settings.trainable
    found = Readout(Spectrum.isotropic(ratio), settings.snr)
    time, labels = np.array([found.best_time]), 1 + settings.snr
    best, end = float(found.held_out(time)[0]), found.without_end
    rise = end / best - 1
    facts = {
        "samples": settings.samples,
        "trainable": settings.trainable,
        "snr": settings.snr,
        "ratio": ratio,
        "expected": rise > MATTERS,
        "rise": rise,
        "held_out": {"stop": best / labels, "ridge": found.ridge(found.best_ridge) / labels, "end": end / labels},
        "training": {
            "stop": float(found.training(time)[0]) / labels,
            "end": max(0.0, 1 - 1 / ratio) / labels,
        },
        "stop": found.best_time * ratio,  # the mean error of inputs of variance 1 has eigenvalues ratio times smaller
        "weight_decay": found.best_ridge / ratio,
        "assumptions": list(_ASSUMED),
    }
    return {"overtraining": finite(facts)}


def _complete(settings: PlanSettings) -> None:
    """Raises BadSetting for a question without all three numbers, and for flags of other questions."""
    missing = [flag for name, flag in _QUESTION.items() if getattr(settings, name) is None]
    given = [flag for flag in _QUESTION.values() if flag not in missing]
    if missing:
        raise BadSetting(
            f"{' and '.join(given)} without {' and '.join(missing)}: whether training goes too far depends on samples, numbers "
            "that are trained, and signal over noise of the labels; give all three"
        )
    others = [
        flag_of(PlanSettings, name)
        for name in sorted(settings.model_fields_set - Base.model_fields.keys() - _QUESTION.keys())
    ]
    if others:
        raise BadSetting(
            f"{', '.join(given)} ask about over-training, {', '.join(others)} about a student, teacher or device: leave these "
            "or those out"
        )


def show_overtraining(result: dict[str, Any], console: Console) -> None:
    """Prints what was assumed. The answer is the last screen."""
    for said in result["overtraining"]["assumptions"]:
        console.print(f"assumed: {said}", style="dim", markup=False)


def overtraining_ending(result: dict[str, Any], settings: PlanSettings) -> Ending:
    """The answer: whether over-training is expected, and the errors at the best stop, at the best ridge and at the end."""
    found = result["overtraining"]
    rise = "without bound" if found["rise"] is None else f"by {found['rise']:.1%}"
    said = "over-training is expected" if found["expected"] else "over-training hardly matters"
    held_out, training = found["held_out"], found["training"]
    end = "without bound" if held_out["end"] is None else f"{held_out['end']:.3g}"
    rows = [
        ["", "held-out error", "training error", "by"],
        ["best stop", f"{held_out['stop']:.3g}", f"{training['stop']:.3g}", f"rate × steps = {found['stop']:.3g}"],
        ["best ridge", f"{held_out['ridge']:.3g}", "", f"weight decay {found['weight_decay']:.3g}, to the end"],
        ["to the end", end, f"{training['end']:.3g}", "no stop, no weight decay"],
    ]
    return Ending(
        f"{found['ratio']:.3g} samples for each number that is trained: {said}, held-out error rises {rise} after the best stop",
        rows,
    )

"""Arms of a study on the same held-out documents: their levels, differences, and the verdict on a claim about them."""

import json
from dataclasses import asdict

import numpy as np

from limbeck.probes import Measurements
from limbeck.probes.interval import difference_interval


def measured(run, arm):
    """The measurements of an arm, one a seed."""
    return [Measurements.load(file) for file in sorted(run.glob(f"measurements/{arm}-seed*.safetensors"))]


def level(runs):
    """Nats per token over seeds."""
    found = difference_interval(
        np.stack([r.nats for r in runs]), np.zeros((len(runs), len(runs[0].nats))), runs[0].tokens
    )
    return asdict(found)


def require_same_tokens(*arms):
    """Raises ValueError unless all seeds of all arms were measured on the same tokens of each document."""
    first = arms[0][0].tokens
    if not all(np.array_equal(one.tokens, first) for runs in arms for one in runs):
        raise ValueError(
            "expected measurements on the same held-out tokens: how many are read follows from what is trained"
        )


def gain(student, other):
    """By how many nats per token the student is better."""
    require_same_tokens(student, other)
    return difference_interval(
        np.stack([r.nats for r in other]), np.stack([r.nats for r in student]), student[0].tokens
    )


def judged(*gains):
    """Confirmed where all are above 0, refuted where one is below."""
    if any(one.high < 0 for one in gains):
        return "refuted"
    return "confirmed" if all(one.low > 0 for one in gains) else "inconclusive"


def facts(run):
    """What a run's record says of its student and its training, for its page."""
    found = json.loads((run / "run.json").read_text())
    asked, plan, student = found["signature"], found["plan"], found["student"]
    return {
        "seeds": [asked["seed"] + number for number in range(asked["seeds"])],
        "parameters": student["parameters"],
        "shape": student["shape"],
        "tokens": plan["tokens"],
    }

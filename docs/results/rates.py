"""The peak learning rate of students that are cut out of a real teacher, at two sizes: judges the runs and writes the page.

usage: rates.py RUNS OUT reads the runs of rates.sh and writes OUT/results.json and OUT/README.md; rates.py alone writes the page.

The criterion, fixed before the first run. All losses are nats per token of the trimmed vocabulary on the same held-out stories,
which no arm was trained on; a difference has a 95 % interval over held-out stories and three seeds (200 to 202). One seed of
three rates at the smaller size was seen before: seed 90, which is not among them.

20M: at a peak of 1e-3, about the rate that is suggested for a fresh model of that size, the student has fewer nats per token than
at 5e-4; the rate suggested for students of a model was 3.6e-4.
40M: likewise.

Each is confirmed, refuted (decided the other way) or inconclusive. What follows: if both are confirmed, a student of a model gets
the rate of a fresh one up to 40M parameters. Without a claim: the other rates.
"""

import sys
from dataclasses import asdict
from pathlib import Path

from arms import facts, gain, judged, level, measured
from cells import table, within
from effects import Axis, picture
from index import BEGIN, END, cells, counted
from study_rows import HERE, rates, read

from limbeck.disk import write_json

RUNS = {"20m": ("5e-4", "1e-3", "2e-3", "4e-3"), "40m": ("5e-4", "1e-3", "2e-3")}
AXIS = Axis("The peak learning rate of pruned students", "nats per token, 95 % intervals")
LOWER, UPPER = "5e-4", "1e-3"  # of the claims


def judge(runs, out):
    """What came out of the runs of rates.sh."""
    found = {
        size: {rate: measured(runs / f"{size}-{rate}", "student") for rate in rates_of}
        for size, rates_of in RUNS.items()
    }
    assert all(len(arm) == 3 for one in found.values() for arm in one.values())
    about = {size: facts(runs / f"{size}-{UPPER}") for size in RUNS}
    gains = {size: gain(one[UPPER], one[LOWER]) for size, one in found.items()}
    result = {
        "verdicts": {size: judged(one) for size, one in gains.items()},
        "gains": {size: asdict(one) for size, one in gains.items()},
        "levels": {size: {rate: level(arm) for rate, arm in one.items()} for size, one in found.items()},
        "above": {
            size: {rate: asdict(gain(one[UPPER], arm)) for rate, arm in one.items() if rate != UPPER}
            for size, one in found.items()
        },
        "documents": int((found["20m"][UPPER][0].tokens > 0).sum()),
        "seeds": about["20m"].pop("seeds"),
        "students": about,
    }
    assert about["40m"].pop("seeds") == result["seeds"]
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "results.json", result)
    return result


def sentence(found):
    """What came out, in one sentence."""
    says = {
        "confirmed": "{size} learns more at a peak rate of 1e-3 than at 5e-4, by {by:.3f} nats per token",
        "refuted": "{size} learns more at a peak rate of 5e-4 than at 1e-3, by {by:.3f} nats per token",
        "inconclusive": "for {size} 5e-4 and 1e-3 are not told apart",
    }
    parts = [
        says[verdict].format(size=f"a pruned student of {size[:-1]}M", by=abs(found["gains"][size]["value"]))
        for size, verdict in found["verdicts"].items()
    ]
    said = "; ".join(parts)
    return f"{said[0].upper()}{said[1:]}."


def page(folder="rates"):
    """The page as text: nothing on it is typed by hand."""
    found = read(f"{folder}/results.json")
    rows = list(rates(folder))
    lines = []
    for size, levels in found["levels"].items():
        for rate, one in levels.items():
            above = "" if rate == UPPER else within(found["above"][size][rate], 4, sign="+")
            lines.append([f"{found['students'][size]['parameters']:,}", rate, within(one, 4), above])
    made = table(f"parameters | peak rate | nats per token | above {UPPER}", lines)
    shapes = " and ".join(f"`{one['shape']}`" for one in found["students"].values())
    parts = [
        "# Learning rates of pruned students",
        sentence(found),
        f"{BEGIN}\n\n{counted(rows)}\n\n{cells(rows, link=False)}\n\n{END}",
        "![Differences in nats per token with their intervals](effects.svg)",
        (
            f"SmolLM2-135M-Instruct teaches students that are cut out of it ({shapes}) on TinyStories: "
            f"{found['students']['20m']['tokens']:,} tokens of logits that were captured once, with forward KL and products in "
            f"bfloat16. Seeds {', '.join(map(str, found['seeds']))}. Losses are in float32, on the same {found['documents']} "
            "held-out stories. The criterion is in `../rates.py` and stood before the first run. Trainings of so few tokens "
            "need higher rates than long ones: what holds for billions of tokens is not said here."
        ),
        f"<!-- table levels: begin -->\n\n{made}\n\n<!-- table levels: end -->",
        "Numbers are in `results.json`; made by `../rates.sh`.",
    ]
    return "\n\n".join(parts) + "\n"


def write(folder="rates"):
    """Writes page and picture beside the results."""
    out = HERE / folder
    (out / "README.md").write_text(page(folder), encoding="utf-8")
    (out / "effects.svg").write_text(picture(AXIS, list(rates(folder))), encoding="utf-8")


def main(*folders):
    """Does what the usage says."""
    if folders:
        judge(*map(Path, folders))
    write()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Where distilling pays: one teacher, one student, a long text read once and a short text read ten times.

usage: stories.py split OUT TEXT TEXT... writes OUT/{held_out,short,long}.jsonl; stories.py judge RUNS OUT reads the runs of
stories.sh and writes OUT/results.json and OUT/uses.png.

The criterion, fixed before the first run. A winner is named by the 95 % interval of its difference over held-out stories and
three seeds that nobody had seen; it is not corrected, since each claim stands on its own comparisons, all of which must hold.

once: with a text as long as the training, a live teacher and each of its logits used once, cross-entropy at equal compute has
fewer nats per token than the student.
ten times: with a text a tenth as long, logits that are kept and used ten times, the student has fewer nats per token than
cross-entropy at equal compute, and than cross-entropy on this text at the best of 1, 2, 4, 7 and 10 epochs and of equal
compute. The best is chosen by the same held-out stories, which favours cross-entropy.
break-even: the number of uses from which on the student wins at equal compute, measured where they were used once, has an
interval within 1 to 10.

Each is confirmed, refuted (decided the other way) or inconclusive. What the short text loses is reported without a claim: the
student of ten epochs beside cross-entropy on ten times the text.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from arms import gain, judged, level, measured
from shared import held_out_split, write_texts

from limbeck.disk import write_json
from limbeck.probes.interval import mean_interval
from limbeck.report.break_even import break_even
from limbeck.report.start import price_of

SHORT_BYTES = 100_000  # of the short text: about 50,000 of this tokenizer's tokens
EVERY = 18  # story that is held out
EPOCHS = {"50k": 1, "100k": 2, "200k": 4, "350k": 7}
SINGLE, REUSED = "single-use", "ten-uses"


def split(out, sources):
    """Writes the stories that are held out, the short text, and the long text that the short one begins."""
    held_out, kept = held_out_split(sources, every=EVERY)
    ends = np.cumsum([len(story.encode()) for story in kept])
    short = kept[: int((ends <= SHORT_BYTES).sum())]
    write_texts(out, {"held_out": held_out, "short": short, "long": kept})


def priced(run):
    """What the teacher's logits cost in a run."""
    price = price_of(json.loads((run / "run.json").read_text()))
    assert price is not None, f"{run} has no teacher"
    return price


def judge(runs, out):
    """Reads what was trained, and writes what it says."""
    single, reused = (
        {arm: measured(runs / name, arm) for arm in ("student", "cut+ce", "cut+ce@flops")} for name in (SINGLE, REUSED)
    )
    fewer = {epochs: measured(runs / f"cross-entropy-{tokens}", "student") for tokens, epochs in EPOCHS.items()}
    assert all(len(found) == 3 for found in [*single.values(), *reused.values(), *fewer.values()])
    on_short = {str(epochs): found for epochs, found in fewer.items()}
    on_short |= {"10": reused["cut+ce"], "equal compute": reused["cut+ce@flops"]}
    best = min(on_short, key=lambda name: level(on_short[name])["value"])
    prices = {name: priced(runs / name) for name in (SINGLE, REUSED)}
    against = {
        SINGLE: {arm: gain(single["student"], single[arm]) for arm in ("cut+ce", "cut+ce@flops")},
        REUSED: {arm: gain(reused["student"], reused[arm]) for arm in ("cut+ce", "cut+ce@flops")}
        | {f"cross-entropy at its best ({best})": gain(reused["student"], on_short[best])}
        | {"cross-entropy on ten times the text": gain(reused["student"], single["cut+ce"])},
    }
    uses = break_even(single["student"], single["cut+ce"], single["cut+ce@flops"], prices[SINGLE])
    lost = against[SINGLE]["cut+ce@flops"]
    won = [against[REUSED]["cut+ce@flops"], gain(reused["student"], on_short[best])]
    within = uses.low > 1 and uses.high < 10
    result = {
        "once": "refuted" if lost.low > 0 else "confirmed" if lost.high < 0 else "inconclusive",
        "ten times": judged(*won),
        "break-even": "confirmed" if within else "refuted" if uses.low >= 10 or uses.high <= 1 else "inconclusive",
        "seeds": [
            int(file.stem.partition("seed")[2]) for file in sorted((runs / SINGLE).glob("measurements/student-*"))
        ],
        "documents": int((single["student"][0].tokens > 0).sum()),
        "teacher": asdict(
            mean_interval(*(getattr(measured(runs / SINGLE, "teacher")[0], of) for of in ("nats", "tokens")))
        ),
        "levels": {
            SINGLE: {arm: level(found) for arm, found in single.items()},
            REUSED: {"student": level(reused["student"])},
        }
        | {"cross-entropy on the short text, by epochs": {name: level(found) for name, found in on_short.items()}},
        "student_better_by": {
            name: {arm: asdict(one) for arm, one in found.items()} for name, found in against.items()
        },
        "price": {name: asdict(price) | {"ratio": price.ratio} for name, price in prices.items()},
        "break_even": uses.row() | {"text": uses.text},
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "results.json", result)
    draw(result, prices, out / "uses.png")
    print(json.dumps(result, indent=1))


def draw(result, prices, file):
    """By how much the student is better at equal compute, against how often the logits were used."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    axes.axhline(0, color="0.6", linewidth=1)
    for name in (SINGLE, REUSED):
        one = result["student_better_by"][name]["cut+ce@flops"]
        bounds = [[one["value"] - one["low"]], [one["high"] - one["value"]]]
        axes.errorbar([prices[name].uses], [one["value"]], bounds, fmt="o", capsize=4, label=LABELS[name])
    even = result["break_even"]
    if even["low"] and even["high"]:
        axes.axvspan(even["low"], even["high"], color="0.85", label="break-even on the long text, 95 %")
    axes.set(
        xscale="log",
        xlabel="uses of each forward pass of the teacher",
        ylabel="better than cross-entropy at\nequal compute, nats/token",
    )
    axes.set_xticks([1, 2, 5, 10], ["1", "2", "5", "10"])
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=150)
    plt.close(figure)


LABELS = {SINGLE: "500k tokens of text, once", REUSED: "50k tokens of text, ten times"}

if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "split":
        split(Path(rest[0]), rest[1:])
    else:
        judge(*map(Path, rest))

"""SmolLM2-135M-Instruct made small for children's stories: students of 20M and 40M parameters beside their baselines.

usage: smollm2.py split OUT TEXT TEXT... writes OUT/{held_out,train}.jsonl; smollm2.py shape SIZE KIND prints the flags of a
shape, smollm2.py choose RUNS which kind was best; smollm2.py judge RUNS OUT reads the runs of smollm2.sh and writes
OUT/results.json.

The criterion, fixed before the first run. All losses are nats per token of the trimmed vocabulary on the same held-out stories,
which no arm was trained on. A winner is named by the 95 % interval of its difference over held-out stories and three seeds; it is
not corrected, since each claim stands on its own comparisons, all of which must hold.

The cut is chosen first, by the held-out loss of a student of about 20M parameters after 200k tokens of forward KL with one seed,
among depth alone (4 of 30 layers), width alone (30 layers) and both (the balanced shape of --params, 16 layers of width 312). All
arms share it, so the choice favours none of them. The students then have that kind of shape, with widths in multiples of 32,
which quantised files hold in whole blocks. The peak learning rate is chosen likewise, among 0.001 and 0.002, by forward KL; it is
the same for all arms. Where cross-entropy alone prefers the other one, that is said.

The objective is chosen likewise, among forward KL alone and with half or 0.8 of cross-entropy to the text. After 200k tokens
forward KL alone had more nats per token than cross-entropy alone (the teacher, an assistant, is a weak model of these stories),
and half of each had the fewest; so the students are distilled with half of each, for two epochs.

equal tokens: the 20M student, two epochs on captured logits, has fewer nats per token than the same pruned model trained with
cross-entropy on as many tokens.
equal compute: it has fewer than cross-entropy at equal FLOPs, the teacher's one pass over the text counted, and than
cross-entropy at the best of 1 and 2 epochs and equal compute. The best is chosen by the same held-out stories, which favours
cross-entropy.
start: it has fewer than a model of the same shape with random weights, distilled on as many tokens.
TAID: with TAID (arXiv 2501.16937) in place of forward KL it has fewer nats per token.
40M: the 40M student, trained likewise, has fewer than cross-entropy on as many tokens and at equal FLOPs.

Each is confirmed, refuted (decided the other way) or inconclusive. What the students lose to the teacher is reported without a
claim, in nats per token and in bits per byte of the whole teacher.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from arms import gain, judged, level, measured
from shared import held_out_split, made_by, write_texts

from limbeck.disk import write_json

EVERY = 18  # story that is held out
SHAPES = {  # flags by kind and size
    "depth": {
        "20M": "--shape layers=4,hidden=576,heads=9,kv_heads=3,ffn=1536",
        "40M": "--shape layers=10,hidden=576,heads=9,kv_heads=3,ffn=1536",
    },
    "width": {
        "20M": "--shape layers=30,hidden=288,heads=3,kv_heads=1,ffn=512",
        "40M": "--shape layers=30,hidden=384,heads=6,kv_heads=2,ffn=704",
    },
    "both": {
        "20M": "--shape layers=16,hidden=320,heads=4,kv_heads=2,ffn=832",
        "40M": "--shape layers=16,hidden=480,heads=6,kv_heads=2,ffn=1216",
    },
}


def split(out, sources):
    """Writes the stories that are held out and those that are trained on."""
    held_out, train = held_out_split(sources, every=EVERY)
    write_texts(out, {"held_out": held_out, "train": train})


def read_json(file):
    """What a file holds."""
    return json.loads(file.read_text(encoding="utf-8"))


def record(folder):
    """What a run wrote down of itself."""
    return read_json(folder / "run.json")


def cuts(runs):
    """Each cut that was tried with the loss of its student and without training, and the name of the best."""
    tried = {}
    for name in SHAPES:
        run = runs / f"cut-{name}"
        about = {key: record(run)["student"][key] for key in ("shape", "parameters")}
        tried[name] = about | {"nats": level(measured(run, "student")), "untrained": level(measured(run, "cut"))}
    return tried, min(tried, key=lambda name: tried[name]["nats"]["value"])


def trials(runs):
    """The short runs by which learning rate and objective were chosen: what was tried, and the loss of each model."""
    found = {}
    for run in sorted([*runs.glob("lr-*"), *runs.glob("mix-*")]):
        about = record(run)
        if "ended" not in about:  # stopped before its end
            continue
        arms = sorted(
            {file.stem.partition("-seed")[0] for file in run.glob("measurements/*-seed*")} - {"teacher", "cut"}
        )
        found[run.name] = {
            "learning_rate": about["plan"]["learning_rate"],
            "objective": about["objective"],
            "nats": {arm: level(measured(run, arm)) for arm in arms},
        }
    return found


def models(runs):
    """Shape and size of the students, what they were trained on, and bits per byte of all arms, over seeds."""
    found = {}
    for size in ("20M", "40M"):
        run = record(runs / size.lower())
        readings = [json.loads(line) for line in (runs / size.lower() / "readings.jsonl").read_text().splitlines()]
        readings.sort(key=lambda one: one["seed"] is None)  # over all seeds where there are several
        bits = {one["model"]: one for one in readings if one["name"] == "bits_per_byte"}
        found[size] = run["student"] | {
            "tokens": run["plan"]["tokens"],
            "teacher_passes": run["teacher"]["passes"],
            "bits_per_byte": {arm: {key: one[key] for key in ("value", "low", "high")} for arm, one in bits.items()},
        }
    return found


def cost(runs):
    """Seconds that each run took, those of all its seeds and baselines together.

    Of one that was stopped and continued they are those of its training steps.
    """
    kinds = ("logits", "cut-*", "lr-*", "mix-*", "20m*", "40m*")
    folders = [file.parent for kind in kinds for file in sorted(runs.glob(f"{kind}/run.json"))]
    whole = {folder.name: record(folder).get("seconds") for folder in folders}
    found = {folder.name: whole[folder.name] or stepping(folder) for folder in folders}
    return {name: seconds for name, seconds in found.items() if seconds}  # but those in which nothing was trained


def continued(runs):
    """The runs that were stopped and continued."""
    return sorted(name for name in cost(runs) if "seconds" not in record(runs / name))


def stepping(run):
    """Seconds of the training steps of all arms of a run."""
    seconds = 0.0
    for file in run.rglob("metrics.jsonl"):
        done = 0
        for row in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            seconds += (row["tokens"] - done) / row["tokens_per_s"]
            done = row["tokens"]
    return seconds


def judge(runs, out):
    """Reads what was trained, and writes what came out."""
    arms = ("student", "cut", "cut+ce", "cut+ce@flops", "fresh+kd")
    small = {arm: measured(runs / "20m", arm) for arm in arms}
    large = {arm: measured(runs / "40m", arm) for arm in arms[:-1]}
    taid = measured(runs / "20m-taid", "student")
    by_epochs = {
        "1": measured(runs / "20m-cross-entropy", "student"),
        "2": small["cut+ce"],
        "equal compute": small["cut+ce@flops"],
    }
    best = min(by_epochs, key=lambda name: level(by_epochs[name])["value"])
    tried, chosen = cuts(runs)
    gains = {
        "equal tokens": [gain(small["student"], small["cut+ce"])],
        "equal compute": [gain(small["student"], small["cut+ce@flops"]), gain(small["student"], by_epochs[best])],
        "start": [gain(small["student"], small["fresh+kd"])],
        "TAID": [gain(taid, small["student"])],
        "40M": [gain(large["student"], large["cut+ce"]), gain(large["student"], large["cut+ce@flops"])],
    }
    result = {
        "verdicts": {claim: judged(*found) for claim, found in gains.items()},
        "gains": {claim: [asdict(one) for one in found] for claim, found in gains.items()},
        "cuts": tried,
        "chosen": chosen,
        "trials": trials(runs),
        "models": models(runs),
        "seconds": cost(runs),
        "continued": continued(runs),
        "seeds": [
            int(file.stem.partition("seed")[2]) for file in sorted((runs / "20m").glob("measurements/student-*"))
        ],
        "documents": int((small["student"][0].tokens > 0).sum()),
        "teacher": level(measured(runs / "20m", "teacher")),
        "levels": {
            "20M": {arm: level(found) for arm, found in small.items()},
            "40M": {arm: level(found) for arm, found in large.items()},
            "20M with TAID": level(taid),
            "20M, cross-entropy by epochs": {name: level(found) for name, found in by_epochs.items()},
        },
        "best_epochs": best,
        "vocabulary": record(runs / "20m")["vocabulary"] | read_json(runs / "logits" / "vocabulary.json"),
        "frame": record(runs / "logits").get("frame"),
        **made_by("smollm2.py", "judge", "RUNS", "docs/results/smollm2"),
        "versions": record(runs / "20m")["versions"],
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "results.json", result)
    print(json.dumps(result, indent=1))


def main(what, *rest):
    """Does what the usage says."""
    if what == "split":
        split(Path(rest[0]), rest[1:])
    elif what == "shape":
        size, kind = rest
        print(SHAPES[kind][size])
    elif what == "choose":
        print(cuts(Path(rest[0]))[1])
    else:
        judge(*map(Path, rest))


if __name__ == "__main__":
    main(*sys.argv[1:])
